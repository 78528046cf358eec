"""How normlab's Grafana dashboards are made: a few kinds of panel as plain functions, laid out row by row.

The result is Grafana's dashboard JSON (schema version 39, Grafana 10.4 and later). Every expression of a panel uses the
dashboard's own variables, so that one click on a norm or a run narrows all panels.
"""

COLUMNS = 24
SCHEMA_VERSION = 39
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def target(expr, legend="__auto", *, instant=False, as_table=False):
    return {"datasource": DATA_SOURCE, "expr": expr, "legendFormat": legend, "instant": instant, "range": not instant,
            "format": "table" if as_table else "time_series"}


def _panel(kind, title, description, targets, width, height, *, options=None, defaults=None, overrides=None,
           transformations=None):
    for index, entry in enumerate(targets):
        entry["refId"] = chr(ord("A") + index)
    return {"type": kind, "title": title, "description": description, "datasource": DATA_SOURCE, "targets": targets,
            "gridPos": {"w": width, "h": height, "x": 0, "y": 0}, "options": options or {},
            "fieldConfig": {"defaults": defaults or {}, "overrides": overrides or []},
            "transformations": transformations or []}


def _scale(log):
    return {"type": "log", "log": 10} if log else {"type": "linear"}


def lines(title, description, *targets, unit="short", axis="", log=False, stacked=False, least=None, most=None, width=12,
          height=8):
    """Quantities over time. `axis` says in words what the vertical axis holds where the unit does not; it goes from `least`
    to `most` where these are given.
    """
    limits = {name: value for name, value in {"min": least, "max": most}.items() if value is not None}
    return _panel("timeseries", title, description, list(targets), width, height,
                  options={"legend": {"showLegend": True, "displayMode": "table", "placement": "right",
                                      "calcs": ["lastNotNull"]},
                           "tooltip": {"mode": "multi", "sort": "desc"}},
                  defaults={"unit": unit, **limits, "custom": {
                      "scaleDistribution": _scale(log), "axisLabel": axis, "lineWidth": 1 if stacked else 2,
                      "fillOpacity": 60 if stacked else 0, "showPoints": "never", "spanNulls": False,
                      "stacking": {"mode": "normal" if stacked else "none", "group": "A"}}})


def counts(title, description, *targets, axis, width=12, height=8):
    """Whole numbers over time."""
    panel = lines(title, description, *targets, unit="none", axis=axis, least=0, width=width, height=height)
    panel["fieldConfig"]["defaults"]["decimals"] = 0
    return panel


def number(title, description, expr, *, unit="short", decimals=None, width=4, height=4, red_above=None):
    steps = [{"color": "text", "value": None}]
    if red_above is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": red_above}]
    defaults = {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if decimals is not None:
        defaults["decimals"] = decimals
    return _panel("stat", title, description, [target(expr, instant=True)], width, height,
                  options={"reduceOptions": {"calcs": ["lastNotNull"], "values": False}, "colorMode": "value",
                           "graphMode": "none"},
                  defaults=defaults)


def by_layer(title, description, expr, *, column="norm", axis="", log=True, width=12, height=9):
    """A quantity against depth, one line per value of the label `column`. `expr` gives series with that label and layer."""
    # The names of columns are labels, and labels are texts: without the conversion layer 10 would stand before layer 2.
    return _panel("trend", title, description, [target(expr, instant=True, as_table=True)], width, height,
                  options={"xField": "layer", "legend": {"showLegend": True, "displayMode": "list",
                                                         "placement": "bottom", "calcs": []},
                           "tooltip": {"mode": "multi", "sort": "desc"}},
                  defaults={"unit": "short", "custom": {
                      "scaleDistribution": _scale(log), "axisLabel": axis, "lineWidth": 2, "showPoints": "always",
                      "pointSize": 5, "fillOpacity": 0}},
                  transformations=[
                      {"id": "groupingToMatrix", "options": {"columnField": column, "rowField": "layer",
                                                             "valueField": "Value", "emptyValue": "null"}},
                      {"id": "organize", "options": {"renameByName": {f"layer\\{column}": "layer"}}},
                      {"id": "convertFieldType",
                       "options": {"conversions": [{"targetField": "layer", "destinationType": "number"}]}},
                      {"id": "sortBy", "options": {"sort": [{"field": "layer"}]}}])


def layer_heatmap(title, description, expr, *, width=24, height=10, repeat=None):
    """Layer (rows) by time (columns), one color for one value on a logarithmic scale; `expr` gives positive series with
    the label layer.
    """
    # Grafana's colors have no logarithmic scale, so the query takes the logarithm. The format is that of time series: the
    # one called heatmap takes every series for a bucket of a histogram. A filter is always on, and hides values up to
    # 1e-9 unless it is told otherwise; logarithms are mostly negative.
    panel = _panel("heatmap", title, description, [target(f"log10({expr})", "{{layer}}")], width, height,
                   options={"calculate": False, "rowsFrame": {"layout": "unknown", "value": "log10"},
                            "color": {"mode": "scheme", "scheme": "Viridis", "steps": 64, "scale": "linear",
                                      "reverse": False},
                            "filterValues": {"le": -1000}, "cellValues": {"decimals": 2},
                            "yAxis": {"axisLabel": "layer", "axisPlacement": "left"}, "showValue": "never",
                            "legend": {"show": True}, "cellGap": 0, "tooltip": {"mode": "single"}})
    if repeat:
        panel.update(repeat=repeat, repeatDirection="h", maxPerRow=2)
    return panel


def table(title, description, *targets, columns, units=None, width=24, height=9):
    """Instant vectors joined by their labels, which must be the same for all. `columns`: field -> title, in order; other
    fields are hidden. `units`: title -> (unit, decimals).
    """
    for entry in targets:
        entry.update(instant=True, range=False, format="table")
    overrides = [{"matcher": {"id": "byName", "options": title_},
                  "properties": [{"id": "unit", "value": unit}, {"id": "decimals", "value": decimals}]}
                 for title_, (unit, decimals) in (units or {}).items()]
    return _panel("table", title, description, list(targets), width, height, overrides=overrides,
                  options={"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": next(iter(columns.values()))}]},
                  transformations=[{"id": "merge", "options": {}},
                                   {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
                                   {"id": "organize", "options": {
                                       "renameByName": columns,
                                       "indexByName": {name: i for i, name in enumerate(columns)}}}])


def _layout(rows):
    """Numbers the panels and puts each row of them below the one before; a string is a heading."""
    panels, y = [], 0
    for row in rows:
        if isinstance(row, str):
            panels.append({"type": "row", "title": row, "collapsed": False, "panels": [],
                           "gridPos": {"w": COLUMNS, "h": 1, "x": 0, "y": y}})
            y += 1
            continue
        x = 0
        for panel in row:
            panel["gridPos"].update(x=x, y=y)
            x += panel["gridPos"]["w"]
        assert x <= COLUMNS, f"a row is {x} columns wide"
        panels += row
        y += max(panel["gridPos"]["h"] for panel in row)
    for number_, panel in enumerate(panels, 1):
        panel["id"] = number_
    return panels


def variable(name, label, query, *, many=True, regex=""):
    return {"type": "query", "name": name, "label": label, "datasource": DATA_SOURCE,
            "query": {"query": query, "refId": name}, "regex": regex, "refresh": 2, "sort": 2, "multi": many,
            "includeAll": many, "allValue": ".*" if many else None,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]} if many else {}, "options": [], "hide": 0}


def dashboard(uid, title, description, variables, rows, *, refresh="15s", since="now-3h"):
    source = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus",
              "current": {}, "options": [], "hide": 0, "refresh": 1, "regex": "", "multi": False, "includeAll": False}
    return {"uid": uid, "title": title, "description": description, "tags": ["normlab"], "schemaVersion": SCHEMA_VERSION,
            "version": 1, "editable": True, "graphTooltip": 1, "timezone": "browser", "refresh": refresh,
            "time": {"from": since, "to": "now"}, "timepicker": {}, "annotations": {"list": []},
            "links": [{"type": "dashboards", "title": "normlab", "tags": ["normlab"], "asDropdown": True,
                       "includeVars": True, "keepTime": True}],
            "templating": {"list": [source, *variables]}, "panels": _layout(rows)}
