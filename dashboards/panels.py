"""How normlab's Grafana dashboards are made: a few kinds of panel as plain functions, laid out row by row.

The result is Grafana's dashboard JSON (schema version 39, Grafana 10.4 and later). Every expression of a panel uses the
dashboard's own variables, so that one click on a norm or a run narrows all panels.
"""

COLUMNS = 24
SCHEMA_VERSION = 39
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def target(expr, legend="__auto", *, instant=False, as_table=False, as_heatmap=False):
    form = "table" if as_table else "heatmap" if as_heatmap else "time_series"
    return {"datasource": DATA_SOURCE, "expr": expr, "legendFormat": legend, "instant": instant, "range": not instant,
            "format": form}


def _panel(kind, title, description, targets, width, height, *, options=None, defaults=None, overrides=None,
           transformations=None):
    for index, entry in enumerate(targets):
        entry["refId"] = chr(ord("A") + index)
    return {"type": kind, "title": title, "description": description, "datasource": DATA_SOURCE, "targets": targets,
            "gridPos": {"w": width, "h": height, "x": 0, "y": 0}, "options": options or {},
            "fieldConfig": {"defaults": defaults or {}, "overrides": overrides or []},
            "transformations": transformations or []}


def lines(title, description, *targets, unit="short", log=False, width=12, height=8):
    scale = {"type": "log", "log": 10} if log else {"type": "linear"}
    return _panel("timeseries", title, description, list(targets), width, height,
                  options={"legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull"]},
                           "tooltip": {"mode": "multi", "sort": "desc"}},
                  defaults={"unit": unit, "custom": {"scaleDistribution": scale, "lineWidth": 2, "fillOpacity": 0,
                                                     "showPoints": "never", "spanNulls": False}})


def number(title, description, expr, *, unit="short", width=4, height=4, red_above=None):
    steps = [{"color": "green", "value": None}]
    if red_above is not None:
        steps.append({"color": "red", "value": red_above})
    return _panel("stat", title, description, [target(expr, instant=True)], width, height,
                  options={"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"},
                  defaults={"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}})


def by_layer(title, description, expr, *, log=True, width=12, height=9):
    """A quantity against depth, one line per norm. `expr` is an instant vector with the labels norm and layer."""
    scale = {"type": "log", "log": 10} if log else {"type": "linear"}
    return _panel("trend", title, description, [target(expr, instant=True, as_table=True)], width, height,
                  options={"xField": "layer", "legend": {"displayMode": "list", "placement": "bottom"},
                           "tooltip": {"mode": "multi"}},
                  defaults={"custom": {"scaleDistribution": scale, "lineWidth": 2, "showPoints": "always",
                                       "pointSize": 4, "fillOpacity": 0}},
                  transformations=[
                      {"id": "groupingToMatrix",
                       "options": {"columnField": "norm", "rowField": "layer", "valueField": "Value"}},
                      {"id": "organize", "options": {"renameByName": {"layer\\norm": "layer"}}},
                      {"id": "convertFieldType",
                       "options": {"conversions": [{"targetField": "layer", "destinationType": "number"}]}},
                      {"id": "sortBy", "options": {"sort": [{"field": "layer"}]}}])


def layer_heatmap(title, description, expr, *, width=24, height=10, repeat=None):
    """Layer (rows) by time (columns); `expr` is a range vector's worth of series with the label layer."""
    panel = _panel("heatmap", title, description, [target(expr, "{{layer}}", as_heatmap=True)], width, height,
                   options={"calculate": False, "rowsFrame": {"layout": "ge"},
                            "color": {"mode": "scheme", "scheme": "Viridis", "steps": 64, "scale": "exponential",
                                      "exponent": 0.3},
                            "yAxis": {"axisLabel": "layer"}, "cellGap": 0, "tooltip": {"mode": "single"}})
    if repeat:
        panel.update(repeat=repeat, repeatDirection="h", maxPerRow=2)
    return panel


def table(title, description, *targets, columns, width=24, height=9):
    """Instant vectors joined by their labels. `columns`: field -> title, in order; other fields are hidden."""
    for entry in targets:
        entry.update(instant=True, range=False, format="table")
    return _panel("table", title, description, list(targets), width, height,
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
            "includeAll": many, "allValue": ".*" if many else None, "current": {}, "options": [], "hide": 0}


def dashboard(uid, title, description, variables, rows, *, refresh="15s", since="now-3h"):
    source = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus",
              "current": {}, "options": [], "hide": 0, "refresh": 1, "regex": "", "multi": False, "includeAll": False}
    return {"uid": uid, "title": title, "description": description, "tags": ["normlab"], "schemaVersion": SCHEMA_VERSION,
            "version": 1, "editable": True, "graphTooltip": 1, "timezone": "browser", "refresh": refresh,
            "time": {"from": since, "to": "now"}, "timepicker": {}, "annotations": {"list": []},
            "links": [{"type": "dashboards", "title": "normlab", "tags": ["normlab"], "asDropdown": True,
                       "includeVars": True, "keepTime": True}],
            "templating": {"list": [source, *variables]}, "panels": _layout(rows)}
