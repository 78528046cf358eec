"""Where rules and dashboards lie, and every expression in them."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
DASHBOARDS = ROOT / "dashboards"
PROMETHEUS = ROOT / "deploy" / "prometheus"

# Panels that are empty for most runs, and why. The answers test has a run that fills them, where it says so.
EMPTY_ON_PURPOSE = {
    "run.json: Learned scales against depth": "most schemes learn no scale",
    "run.json: Lost choices of experts": "most models have no mixture of experts",
}


def dashboards():
    """File name -> dashboard."""
    return {path.name: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard):
    """All that show something; headings are left out."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries():
    """(dashboard and panel, expression) of every target of every panel."""
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]


def fill(expression, **values):
    """The expression or title as Grafana sends it: $name replaced."""
    for name, value in values.items():
        expression = re.sub(rf"\$(\{{{name}\}}|{name}\b)", lambda _: value, expression)
    return expression
