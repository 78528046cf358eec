"""A real Prometheus with our rules scrapes real daemons that train, and answers every question that we ask it."""

import json
import pathlib
import re
import shutil
import sys
import unittest
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import cluster  # noqa: E402
import sources  # noqa: E402

ENDLESS = 10_000_000
CONFIG = """\
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: ["{rules}/rules.yml", "{rules}/alerts.yml"]
scrape_configs:
  - job_name: normlab-coordinator
    static_configs: [{{targets: ["{http}"]}}]
  - job_name: normlab-workers
    http_sd_configs: [{{url: "http://{http}/sd", refresh_interval: 500ms}}]
"""


@unittest.skipUnless(shutil.which("prometheus"), "prometheus is not installed")
class AnswersTest(cluster.ClusterTest):
    num_workers = 2

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        config = cls.cluster.write("prometheus.yml", CONFIG.format(http=cls.cluster.http, rules=sources.PROMETHEUS))
        cls.address = cluster.free_address()
        cls.prometheus = cluster.Daemon("prometheus", [
            shutil.which("prometheus"), f"--config.file={config}", f"--web.listen-address={cls.address}",
            f"--storage.tsdb.path={cls.cluster.root / 'tsdb'}", "--log.level=warn"], cls.cluster.root / "prometheus.log")
        cls.prometheus.start()
        cls.cluster.daemons.append(cls.prometheus)
        [ended] = cls.cluster.submit(cluster.experiment_spec("ended", steps=5))
        cls.cluster.wait_state(ended, "SUCCEEDED")
        spec = cluster.experiment_spec("watched", ENDLESS, slow=True, matrix={"norm.scheme": ["lns", "pre_ln"]},
                                       report={"eval_every_steps": 20, "checkpoint_every_steps": 20})
        cls.runs = cls.cluster.submit(spec)
        for run in cls.runs:
            cls.cluster.wait_step(run, 21)

    def ask(self, path, **arguments):
        url = f"http://{self.address}/api/v1/{path}?" + urllib.parse.urlencode(arguments)
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            self.fail(f"{arguments}: {error.read().decode()}")
        except (urllib.error.URLError, ConnectionError):
            self.assertTrue(self.prometheus.is_alive(), self.prometheus.log())
            return {"result": []}

    def query(self, expression):
        return self.ask("query", query=expression)["result"]

    def test_every_panel_of_every_dashboard_shows_data(self):
        values = {"experiment": self.runs[0].partition(".")[0], "norm": ".*", "run": self.runs[0]}
        for where, expression in sources.queries():
            filled = sources.fill(expression, **values)
            self.assertNotIn("$", filled)
            with self.subTest(where):
                cluster.wait_for(lambda: self.query(filled), f"{where} has data: {filled}", 30)

    def test_every_variable_of_every_dashboard_has_choices(self):
        values = {"experiment": self.runs[0].partition(".")[0], "norm": ".*"}
        for name, dashboard in sources.dashboards().items():
            for variable in dashboard["templating"]["list"]:
                if variable["type"] != "query":
                    continue
                expression = sources.fill(variable["query"]["query"], **values)
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
