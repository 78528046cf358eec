"""The few transformations of Grafana that our panels use, on frames as Grafana's Prometheus data source makes them.

They do what those of @grafana/data 11.4 do. A transformation or an option that is not here is refused, so that a typo in one
does not go unseen: Grafana's schemas leave them untyped.
"""

import dataclasses
import math


@dataclasses.dataclass
class Frame:
    """Columns by name, all of one length; `titles` has the name that is shown where it differs."""
    columns: dict
    titles: dict = dataclasses.field(default_factory=dict)

    def title(self, name):
        return self.titles.get(name, name)

    def name_of(self, title):
        """The column with that name or title; KeyError if there is none."""
        return next((name for name in self.columns if title in (name, self.title(name))), None) or _missing(title, self)

    def rows(self):
        return list(zip(*self.columns.values()))


def _missing(title, frame):
    raise KeyError(f"there is no column {title!r} among {[frame.title(name) for name in frame.columns]}")


def from_vector(result, value_name):
    """An instant vector as a table: one column per label, then the value; times are the same for all and left out."""
    labels = sorted({label for entry in result for label in entry["metric"]})
    columns = {label: [entry["metric"].get(label) for entry in result] for label in labels}
    columns[value_name] = [float(entry["value"][1]) for entry in result]
    return Frame(columns)


def transform(frames, transformations):
    for step in transformations:
        if step["id"] not in _TRANSFORMATIONS:
            raise ValueError(f"this transformation is not known here: {step['id']}")
        function, options = _TRANSFORMATIONS[step["id"]]
        unknown = set(step["options"]) - options
        if unknown:
            raise ValueError(f"{step['id']} has no options {sorted(unknown)}")
        frames = function(frames, **step["options"])
    return frames


def _merge(frames):
    """Rows that agree in all columns that every frame has become one, unless they differ in another column."""
    names = list(dict.fromkeys(name for frame in frames for name in frame.columns))
    shared = [name for name in names if all(name in frame.columns for frame in frames)]
    merged = []
    for frame in frames:
        for values in frame.rows():
            row = dict(zip(frame.columns, values))
            for other in merged:
                agrees = all(other[name] == row[name] for name in shared)
                if agrees and all(other.get(name) in (None, value) for name, value in row.items()):
                    other.update(row)
                    break
            else:
                merged.append(row)
    return [Frame({name: [row.get(name) for row in merged] for name in names})]


def _filter_by_name(frames, include):
    return [Frame({name: values for name, values in frame.columns.items() if name in include["names"]}, frame.titles)
            for frame in frames]


def _organize(frames, renameByName=None, indexByName=None):  # noqa: N803  # Grafana's names.
    order = indexByName or {}
    return [Frame({name: frame.columns[name] for name in sorted(frame.columns, key=lambda name: order.get(name, math.inf))},
                  {**frame.titles, **(renameByName or {})}) for frame in frames]


def _grouping_to_matrix(frames, columnField, rowField, valueField, emptyValue):  # noqa: N803
    if emptyValue != "null":
        raise ValueError(f"an empty cell would hold {emptyValue!r} where a panel wants numbers")
    [frame] = frames
    cells = {}
    for row, column, value in zip(*(frame.columns[frame.name_of(field)] for field in (rowField, columnField, valueField))):
        cells.setdefault(column, {})[row] = value
    rows = list(dict.fromkeys(frame.columns[frame.name_of(rowField)]))
    return [Frame({f"{rowField}\\{columnField}": rows,
                   **{column: [values.get(row) for row in rows] for column, values in cells.items()}})]


def _convert_field_type(frames, conversions):
    for conversion in conversions:
        if conversion["destinationType"] != "number":
            raise ValueError(f"conversion to {conversion['destinationType']} is not known here")
        for frame in frames:
            name = frame.name_of(conversion["targetField"])
            frame.columns[name] = [float(value) for value in frame.columns[name]]
    return frames


def _sort_by(frames, sort):
    [key] = sort
    sorted_frames = []
    for frame in frames:
        values = frame.columns[frame.name_of(key["field"])]
        order = sorted(range(len(values)), key=values.__getitem__)
        sorted_frames.append(Frame({name: [column[i] for i in order] for name, column in frame.columns.items()}, frame.titles))
    return sorted_frames


_TRANSFORMATIONS = {
    "merge": (_merge, set()),
    "filterFieldsByName": (_filter_by_name, {"include"}),
    "organize": (_organize, {"renameByName", "indexByName"}),
    "groupingToMatrix": (_grouping_to_matrix, {"columnField", "rowField", "valueField", "emptyValue"}),
    "convertFieldType": (_convert_field_type, {"conversions"}),
    "sortBy": (_sort_by, {"sort"}),
}
