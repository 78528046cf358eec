"""A real Prometheus with our rules scrapes real daemons that train, and answers every question that we ask it."""

import re
import unittest

import observed
import sources
from observed import cluster


@unittest.skipUnless(observed.PROMETHEUS, "prometheus is not installed")
class AnswersTest(observed.ObservedClusterTest):
    num_workers = 2

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # A gate and experts, for the panels that are empty without them.
        cls.watch(21, norm={"gpas": True}, model={"family": "minimax", "num_experts": 2},
                  report={"eval_every_steps": 20, "checkpoint_every_steps": 20})

    def test_every_panel_of_every_dashboard_shows_data(self):
        self.wait_for_answers()

    def test_every_variable_of_every_dashboard_has_choices(self):
        for name, dashboard in sources.dashboards().items():
            for variable in dashboard["templating"]["list"]:
                if variable["type"] != "query":
                    continue
                expression = sources.fill(variable["query"]["query"], **self.variables)
                series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", expression).groups()
                found = cluster.wait_for(lambda: self.query(f"count by ({label}) ({series})"), f"{name}: {expression}")
                self.assertTrue(all(entry["metric"].get(label) for entry in found))

    def test_every_rule_is_evaluated_and_no_alert_fires_on_a_healthy_fleet(self):
        def rules():
            groups = self.ask("rules").get("groups", [])
            found = [rule for group in groups for rule in group["rules"]]
            return found if found and all(rule["health"] == "ok" for rule in found) else None

        found = cluster.wait_for(rules, "all rules are healthy", 30)
        firing = [rule["name"] for rule in found if rule["type"] == "alerting" and rule["state"] == "firing"]
        self.assertEqual(firing, [])
        for rule in found:
            if rule["type"] == "recording":
                cluster.wait_for(lambda: self.query(rule["name"]), f"{rule['name']} records something", 30)


if __name__ == "__main__":
    unittest.main()
