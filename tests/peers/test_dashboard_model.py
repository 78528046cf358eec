"""Every dashboard against Grafana's published model of one."""

import copy
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "dashboards"))
import grafana_model  # noqa: E402
import sources  # noqa: E402


def panel_of(dashboard, kind):
    return next(panel for panel in dashboard["panels"] if panel["type"] == kind)


# What is changed in a valid dashboard, and what the complaint has to name.
MISTAKES = {
    "a field that no dashboard has": (lambda d: d.update(timezzone="browser"), "timezzone"),
    "a field that no panel has": (lambda d: panel_of(d, "timeseries").update(gridpos={}), "gridpos"),
    "a typo in a panel's options": (lambda d: panel_of(d, "trend")["options"].update(xfield="layer"), "xfield"),
    "a typo below a panel's options": (lambda d: panel_of(d, "heatmap")["options"]["color"].update(shceme="Viridis"), "shceme"),
    "an option of another kind of panel": (lambda d: panel_of(d, "timeseries")["options"].update(cellGap=1), "cellGap"),
    "a typo in a field's defaults": (
        lambda d: panel_of(d, "timeseries")["fieldConfig"]["defaults"]["custom"].update(linewidth=2), "linewidth"),
    "a typo in a query": (lambda d: panel_of(d, "timeseries")["targets"][0].update(legend="x"), "legend"),
    "an unknown unit": (lambda d: panel_of(d, "timeseries")["fieldConfig"]["defaults"].update(unit="seconds"), "seconds"),
    "a unit that is no text": (lambda d: panel_of(d, "timeseries")["fieldConfig"]["defaults"].update(unit=1), "unit"),
    "a wrong choice of a scale": (lambda d: panel_of(d, "timeseries")["fieldConfig"]["defaults"]["custom"][
        "scaleDistribution"].update(type="logarithmic"), "logarithmic"),
    "a wrong choice of a legend": (
        lambda d: panel_of(d, "trend")["options"]["legend"].update(placement="left"), "left"),
    "a wrong choice of a query's format": (
        lambda d: panel_of(d, "timeseries")["targets"][0].update(format="graph"), "graph"),
    "a number that is a text": (lambda d: panel_of(d, "trend")["gridPos"].update(w="12"), "'12'"),
    "a number that is a claim": (lambda d: panel_of(d, "heatmap")["options"].update(cellGap=True), "True"),
    "a list that is none": (lambda d: panel_of(d, "trend")["options"]["legend"].update(calcs="last"), "calcs"),
    "a typo in a transformation": (lambda d: panel_of(d, "trend")["transformations"][0].update(option={}), "option"),
    "a panel that does not exist": (lambda d: panel_of(d, "trend").update(type="graph2"), "graph2"),
    "a variable of no kind": (lambda d: d["templating"]["list"][1].update(type="promql"), "promql"),
    "an unknown unit of a column": (lambda d: panel_of(d, "table")["fieldConfig"]["overrides"][0]["properties"][0].update(
        value="percents"), "percents"),
    "a field that no column has": (lambda d: panel_of(d, "table")["fieldConfig"]["overrides"][0]["properties"].append(
        {"id": "custom.widht", "value": 3}), "widht"),
}


class DashboardModelTest(unittest.TestCase):
    def test_every_dashboard_is_one_of_grafana(self):
        for name, dashboard in sources.dashboards().items():
            with self.subTest(name):
                self.assertEqual(grafana_model.complaints(dashboard), [])

    def test_every_mistake_is_found_and_named(self):
        found = sources.dashboards()
        for what, (change, named) in MISTAKES.items():
            with self.subTest(what):
                dashboard = copy.deepcopy(found["experiment.json" if "column" in what else "layer-variance.json"])
                change(dashboard)
                complaints = grafana_model.complaints(dashboard)
                self.assertTrue(any(named in complaint for complaint in complaints), complaints)


if __name__ == "__main__":
    unittest.main()
