"""Draws a dashboard as a picture, from what a real Prometheus answers to its panels' queries.

It is no Grafana: it keeps the grid, titles, units, legends, scales, colors and transformations, so that a person sees whether
a panel says what it should. What it does not know (a kind of panel, a unit, a transformation) it refuses.
"""

import copy
import dataclasses
import datetime
import io
import math
import re

import matplotlib.colors
import matplotlib.dates
import matplotlib.figure
import matplotlib.patches
import matplotlib.ticker
import matplotlib.transforms
import PIL.Image
import sources
import tables

WIDTH, ROW_HEIGHT, DPI = 14.4, 0.40, 100  # Inches; a grid cell is ROW_HEIGHT high.
PALETTE = ["#73BF69", "#F2CC0C", "#5794F2", "#FF9830", "#F2495C", "#B877D9", "#37872D", "#8AB8FF", "#C4162A", "#8F3BB8",
           "#1F60C4", "#FADE2A"]
NAMED_COLORS = {"green": "#1A7F4B", "red": "#E02F44", "text": "#24292E"}
INK, FAINT, EDGE, PAGE = "#24292E", "#6B7280", "#D8D9DA", "#F4F5F5"


@dataclasses.dataclass
class Drawn:
    """What a panel shows: its series by name with the number of points in each, or its table."""
    kind: str
    series: dict
    rows: list = dataclasses.field(default_factory=list)


# --- Values as text ---


def _scaled(value, steps, decimals):
    """`steps`: (factor, suffix), largest first; the first that is not larger than the value is taken."""
    factor, suffix = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    scaled = value / factor
    digits = decimals if decimals is not None else max(0, 2 - int(math.floor(math.log10(abs(scaled)))) if scaled else 0)
    text = f"{scaled:.{min(digits, 8)}f}"
    if decimals is None and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text + suffix


UNITS = {
    "none": [(1, "")],
    "short": [(1e12, " Tri"), (1e9, " Bil"), (1e6, " Mil"), (1e3, " K"), (1, "")],
    "s": [(86400, " day"), (3600, " hour"), (60, " min"), (1, " s"), (1e-3, " ms"), (1e-6, " µs"), (1e-9, " ns")],
    "bytes": [(2**40, " TiB"), (2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB"), (1, " B")],
    "percentunit": [(1e-2, "%")],
}


def as_text(value, unit, decimals=None):
    if value is None or math.isnan(value):
        return "-"
    if value == 0 and unit == "s":
        return "0 s"
    if unit == "sci":
        return f"{value:.{2 if decimals is None else decimals}e}"
    return _scaled(value, UNITS[unit], decimals)


# --- Asking ---


class Asker:
    """What panels ask. `ask(path, **arguments)` answers with the data of Prometheus' HTTP API."""

    def __init__(self, ask, variables, start, end):
        self._ask = ask
        self._variables = variables
        self._start, self._end = start, end

    def choosing(self, variables):
        """The same, with other values for these variables."""
        return Asker(self._ask, {**self._variables, **variables}, self._start, self._end)

    def fill(self, text):
        return sources.fill(text, **self._variables)

    def now(self, target):
        return self._ask("query", query=self.fill(target["expr"]), time=self._end)["result"]

    def over_time(self, target):
        """(name, times, values) of every series, in Prometheus' order."""
        step = max(0.5, (self._end - self._start) / 300)
        found = self._ask("query_range", query=self.fill(target["expr"]), start=self._start, end=self._end, step=step)
        for entry in found["result"]:
            points = [(datetime.datetime.fromtimestamp(float(time)), float(value)) for time, value in entry["values"]]
            name = re.sub(r"\{\{(\w+)\}\}", lambda match: entry["metric"].get(match[1], ""), target["legendFormat"])
            yield name, [time for time, _ in points], [value for _, value in points]


# --- Panels ---


def _bare(axes):
    axes.set_facecolor("white")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(which="both", colors=FAINT, labelsize=8, length=0)


def _value_axis(axes, defaults):
    scale = defaults["custom"]["scaleDistribution"]
    _bare(axes)
    axes.grid(True, color="#E9EAEC", linewidth=0.8)
    axes.set_ylabel(defaults["custom"]["axisLabel"], fontsize=8, color=FAINT)
    if scale["type"] == "log":
        axes.set_yscale("log", base=scale["log"])
        axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        if axes.get_ylim()[1] / axes.get_ylim()[0] < 30:
            axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(base=10, subs=(1, 2, 5)))
    else:
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=defaults.get("decimals") == 0))
    axes.set_ylim(defaults.get("min"), defaults.get("max"))
    ticks = [tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]]
    axes.set_yticks(ticks, _distinct(ticks, defaults["unit"]))


def _distinct(values, unit):
    """As few decimals as keep the values apart, which is how Grafana labels an axis."""
    texts = [as_text(value, unit) for value in values]
    for decimals in range(1, 7):
        if len(set(texts)) == len(values):
            break
        texts = [as_text(value, unit, decimals) for value in values]
    return texts


def _time_axis(axes):
    axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(matplotlib.dates.AutoDateLocator(minticks=3, maxticks=6))


def _legend_table(axes, names, values, unit):
    handles = axes.lines or axes.collections
    texts = [f"{name}   {as_text(value, unit)}" for name, value in zip(names, values)]
    axes.legend(handles, texts, loc="upper left", bbox_to_anchor=(1.01, 1.04), fontsize=8, frameon=False, labelcolor=INK,
                handlelength=1.2, borderaxespad=0, title="last", title_fontsize=8, alignment="left")


def _draw_timeseries(box, panel, asker):
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    series = [found for target in panel["targets"] for found in asker.over_time(target)]
    if not series:
        return Drawn("timeseries", {})
    axes = box.axes(right=0.36)
    if custom["stacking"]["mode"] == "normal":
        axes.stackplot(series[0][1], [values for _, _, values in series], colors=PALETTE, alpha=custom["fillOpacity"] / 100)
        axes.set_ylim(0)
    else:
        for index, (_, times, values) in enumerate(series):
            axes.plot(times, values, color=PALETTE[index % len(PALETTE)], linewidth=custom["lineWidth"])
    _value_axis(axes, defaults)
    _time_axis(axes)
    _legend_table(axes, [name for name, _, _ in series], [values[-1] for _, _, values in series], defaults["unit"])
    return Drawn("timeseries", {name: _finite(values) for name, _, values in series})


def _draw_stat(box, panel, asker):
    [result] = [asker.now(target) for target in panel["targets"]]
    options, defaults = panel["options"], panel["fieldConfig"]["defaults"]
    if options["reduceOptions"] != {"calcs": ["lastNotNull"], "values": False}:
        raise ValueError(f"this way to reduce is not known here: {options['reduceOptions']}")
    values = [float(entry["value"][1]) for entry in result]
    if values:
        color = [step["color"] for step in defaults["thresholds"]["steps"]
                 if step["value"] is None or values[0] >= step["value"]][-1]
        box.text(0.5, 0.42, as_text(values[0], defaults["unit"], defaults.get("decimals")), size=19, weight="bold",
                 color=NAMED_COLORS[color], ha="center", va="center")
    return Drawn("stat", {str(index): _finite([value]) for index, value in enumerate(values)})


def _draw_trend(box, panel, asker):
    defaults = panel["fieldConfig"]["defaults"]
    [result] = [asker.now(target) for target in panel["targets"]]
    if not result:
        return Drawn("trend", {})
    [frame] = tables.transform([tables.from_vector(result, "Value")], panel["transformations"])
    x_name = frame.name_of(panel["options"]["xField"])
    x_values = frame.columns[x_name]
    if x_values != sorted(x_values):
        raise ValueError(f"the horizontal axis of a trend has to ascend: {x_values}")
    axes = box.axes(bottom=0.78)
    series = {frame.title(name): values for name, values in frame.columns.items() if name != x_name}
    for index, (name, values) in enumerate(series.items()):
        axes.plot(x_values, [math.nan if value is None else value for value in values], label=name, marker="o",
                  color=PALETTE[index % len(PALETTE)], linewidth=defaults["custom"]["lineWidth"],
                  markersize=defaults["custom"]["pointSize"])
    _value_axis(axes, defaults)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_xlabel(panel["options"]["xField"], fontsize=8, color=FAINT)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.4 / box.height),
                bbox_transform=box.transform(), ncols=4, fontsize=8, frameon=False, labelcolor=INK)
    return Drawn("trend", {name: _finite([v for v in values if v is not None]) for name, values in series.items()},
                 [[int(x) for x in x_values]])


def _draw_heatmap(box, panel, asker):
    options = panel["options"]
    [target] = panel["targets"]
    if target["format"] != "time_series":
        raise ValueError("Grafana takes series of another format for the buckets of a histogram")
    series = list(asker.over_time(target))
    # As Grafana does: names that are all numbers are sorted as numbers.
    series.sort(key=lambda found: float(found[0]))
    times = sorted({time for _, found, _ in series for time in found})
    grid = []
    for _, found, values in series:
        by_time = dict(zip(found, values))
        row = [by_time.get(time, math.nan) for time in times]
        grid.append([value if value > options["filterValues"]["le"] else math.nan for value in row])
    axes = box.axes(right=0.10)
    color = options["color"]
    if color["scale"] != "linear":
        raise ValueError(f"a color scale that is {color['scale']} is not known here")
    palette = matplotlib.colormaps[color["scheme"].lower()].resampled(color["steps"])
    image = axes.pcolormesh(times, range(1, len(grid) + 1), grid, cmap=palette, shading="nearest")
    axes.set_yticks(range(1, len(grid) + 1), [name for name, _, _ in series])
    _bare(axes)
    axes.set_ylabel(options["yAxis"]["axisLabel"], fontsize=8, color=FAINT)
    _time_axis(axes)
    if options["legend"]["show"]:
        bar = axes.figure.colorbar(image, cax=box.axes_at(right=0.55, width=0.12))
        bar.ax.tick_params(labelsize=8, colors=FAINT, length=0)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.{options['cellValues']['decimals']}f}")
        bar.outline.set_visible(False)
    return Drawn("heatmap", {name: _finite(row) for (name, _, _), row in zip(series, grid)})


def _draw_table(box, panel, asker):
    several = len(panel["targets"]) > 1
    frames = [tables.from_vector(asker.now(target), f"Value #{target['refId']}" if several else "Value")
              for target in panel["targets"]]
    [frame] = tables.transform(frames, panel["transformations"])
    formats = {override["matcher"]["options"]: {entry["id"]: entry["value"] for entry in override["properties"]}
               for override in panel["fieldConfig"]["overrides"]}
    titles = [frame.title(name) for name in frame.columns]
    unused = set(formats) - set(titles)
    if unused:
        raise ValueError(f"no column is called {sorted(unused)}; there are {titles}")

    def cell(title, value):
        form = formats.get(title, {"unit": "none"})
        return value if isinstance(value, str) else as_text(value, form["unit"], form.get("decimals"))

    [key] = panel["options"]["sortBy"]
    rows = sorted(frame.rows(), key=lambda row: str(row[titles.index(key["displayName"])]))
    texts = [[cell(title, value) for title, value in zip(titles, row)] for row in rows]
    for row, entries in enumerate([titles, *texts]):
        for column, entry in enumerate(entries):
            box.text((column + 0.15) / len(titles), 1 - (0.62 + 0.30 * row) / box.height, entry, size=9,
                     weight="bold" if row == 0 else "normal", color=INK, va="center")
    return Drawn("table", {title: sum(value is not None for value in column)
                           for title, column in zip(titles, frame.columns.values())}, texts)


def _finite(values):
    return sum(math.isfinite(value) for value in values)


KINDS = {"timeseries": _draw_timeseries, "stat": _draw_stat, "trend": _draw_trend, "heatmap": _draw_heatmap,
         "table": _draw_table}


# --- The page ---


class _Box:
    """A panel's place on the page, in inches from the top left corner."""

    def __init__(self, figure, page_height, grid):
        cell = WIDTH / 24
        self._figure, self._page_height = figure, page_height
        self.left, self.top = grid["x"] * cell + 0.05, grid["y"] * ROW_HEIGHT + 0.05
        self.width, self.height = grid["w"] * cell - 0.1, grid["h"] * ROW_HEIGHT - 0.1

    def _rectangle(self, left, bottom, width, height):
        return [(self.left + left) / WIDTH, 1 - (self.top + self.height - bottom) / self._page_height, width / WIDTH,
                height / self._page_height]

    def frame(self, title):
        x, y, width, height = self._rectangle(0, 0, self.width, self.height)
        self._figure.add_artist(matplotlib.patches.Rectangle((x, y), width, height, facecolor="white", edgecolor=EDGE,
                                                             linewidth=0.8, zorder=-1))
        self._figure.text(x + 0.1 / WIDTH, y + height - 0.17 / self._page_height, title, size=9.5, weight="bold", color=INK,
                          va="center")

    def text(self, x, y, text, **style):
        left, bottom, width, height = self._rectangle(0, 0, self.width, self.height)
        self._figure.text(left + x * width, bottom + y * height, text, **style)

    def transform(self):
        """From parts of the box, without its left margin, to the page."""
        x, y, width, height = self._rectangle(0.7, 0, self.width - 0.7, self.height)
        return matplotlib.transforms.Affine2D().scale(width, height).translate(x, y) + self._figure.transFigure

    def axes(self, right=0.02, bottom=0.36):
        """Axes that leave `right` of the width and `bottom` inches free."""
        left = 0.75
        return self._figure.add_axes(self._rectangle(left, bottom, self.width * (1 - right) - left,
                                                     self.height - bottom - 0.42))

    def axes_at(self, right, width):
        return self._figure.add_axes(self._rectangle(self.width - right - width, 0.36, width, self.height - 0.78))


def _place_repeated(panels, choices):
    """Panels with a `repeat` once per choice of that variable, beside each other; what is below moves down."""
    placed, shift = [], 0
    for panel in panels:
        panel = copy.deepcopy(panel)
        panel["gridPos"]["y"] += shift
        if "repeat" not in panel:
            placed.append((panel, {}))
            continue
        values = choices[panel["repeat"]]
        per_row = min(len(values), panel["maxPerRow"])
        for index, value in enumerate(values):
            one = copy.deepcopy(panel)
            one["gridPos"].update(w=24 // per_row, x=24 // per_row * (index % per_row),
                                  y=panel["gridPos"]["y"] + panel["gridPos"]["h"] * (index // per_row))
            placed.append((one, {panel["repeat"]: value}))
        shift += panel["gridPos"]["h"] * ((len(values) - 1) // per_row)
    return placed


def render(dashboard, asker, choices, path):
    """Writes a PNG to `path`; returns title -> Drawn. `choices`: the values of variables that panels are repeated for."""
    placed = _place_repeated(dashboard["panels"], choices)
    height = ROW_HEIGHT * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel, _ in placed)
    figure = matplotlib.figure.Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=PAGE)
    drawn = {}
    for panel, values in placed:
        one = asker.choosing(values)
        box = _Box(figure, height, panel["gridPos"])
        title = one.fill(panel["title"])
        if panel["type"] == "row":
            box.text(0.005, 0.4, f"⌄ {title}", size=10, weight="bold", color=INK, va="center")
            continue
        box.frame(title)
        drawn[title] = KINDS[panel["type"]](box, panel, one)
        if not drawn[title].series:
            box.text(0.5, 0.5, "No data", size=10, color=FAINT, ha="center", va="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    # Few colors: a picture for the documentation stays small.
    PIL.Image.open(buffer).convert("RGB").quantize(192, dither=PIL.Image.Dither.NONE).save(path, optimize=True)
    return drawn
