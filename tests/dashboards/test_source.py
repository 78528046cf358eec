import re
import shutil
import subprocess
import sys
import unittest

import sources


@unittest.skipUnless(shutil.which("promtool"), "promtool (Debian's package prometheus) is not installed")
class RulesTest(unittest.TestCase):
    def promtool(self, *arguments):
        done = subprocess.run(["promtool", *arguments], cwd=sources.PROMETHEUS, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_configuration_rules_and_alerts_are_well_formed(self):
        self.promtool("check", "config", "prometheus.yml")

    def test_rules_and_alerts_do_what_their_own_tests_say(self):
        self.promtool("test", "rules", "rules_test.yml")

    def test_every_alert_is_tested_firing_and_silent_and_has_a_line_in_the_operations_page(self):
        alerts = re.findall(r"alert: (\w+)", (sources.PROMETHEUS / "alerts.yml").read_text())
        self.assertTrue(alerts)
        tests = (sources.PROMETHEUS / "rules_test.yml").read_text()
        silent = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests))
        firing = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests))
        explained = set(re.findall(r"^\| `(Normlab\w+)`", (sources.ROOT / "docs/operations.md").read_text(), re.MULTILINE))
        self.assertEqual(set(alerts), silent)
        self.assertEqual(set(alerts), firing)
        self.assertEqual(set(alerts), explained)


class DashboardsTest(unittest.TestCase):
    def test_the_committed_files_are_what_the_source_makes(self):
        done = subprocess.run([sys.executable, "-B", sources.DASHBOARDS / "generate.py", "--check"], capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_panels_do_not_overlap_and_stay_inside_the_page(self):
        for name, dashboard in sources.dashboards().items():
            taken = set()
            for panel in dashboard["panels"]:
                box = panel["gridPos"]
                self.assertLessEqual(box["x"] + box["w"], 24, f"{name}: {panel['title']}")
                cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
                self.assertFalse(cells & taken, f"{name}: {panel['title']} overlaps")
                taken |= cells

    def test_ids_are_unique_and_every_variable_that_is_used_is_declared(self):
        uids = [dashboard["uid"] for dashboard in sources.dashboards().values()]
        self.assertEqual(len(uids), len(set(uids)))
        for name, dashboard in sources.dashboards().items():
            ids = [panel["id"] for panel in dashboard["panels"]]
            self.assertEqual(len(ids), len(set(ids)), name)
            declared = {variable["name"] for variable in dashboard["templating"]["list"]}
            used = set(re.findall(r"\$\{?(\w+)", str(dashboard["panels"])))
            self.assertLessEqual(used, declared, name)

    def test_the_fleet_shows_the_queue_and_the_store(self):
        page = (sources.ROOT / "docs/metrics.md").read_text()
        known = set(re.findall(r"^\| `(normlab_(?:store_|queue)\w+)`", page, re.MULTILINE))
        asked = " ".join(expression for where, expression in sources.queries() if where.startswith("fleet"))
        # A rate that is 0 unless writes are held up, which has a line of its own.
        missing = {name for name in known if name not in asked} - {"normlab_store_delayed_write_bytes_per_second"}
        self.assertEqual(missing, set())

    def test_every_metric_that_is_asked_for_exists(self):
        page = (sources.ROOT / "docs/metrics.md").read_text()
        known = set(re.findall(r"^\| `(normlab_\w+)`", page, re.MULTILINE))
        rules = (sources.PROMETHEUS / "rules.yml").read_text()
        recorded = set(re.findall(r"record: (\S+)", rules))
        expressions = [expression for _, expression in sources.queries()]
        expressions += re.findall(r"expr: (.*)", rules + (sources.PROMETHEUS / "alerts.yml").read_text())
        for expression in expressions:
            for name in re.findall(r"(?:\w+:)?normlab_\w+(?::\w+)?", expression):
                if ":" in name:
                    self.assertIn(name, recorded, expression)
                else:
                    self.assertIn(re.sub(r"_(bucket|count|sum)$", "", name), known, expression)


if __name__ == "__main__":
    unittest.main()
