"""What is shown of runs while they go on, through a restart of the coordinator, and what is kept of them when they have ended."""

import json
import subprocess
import unittest

import cluster
from cluster import NORMLAB, experiment_spec

STEPS = 400


class HistoryTest(cluster.ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster.coordinator.kill()
        # About a second.
        cls.cluster.options += ["--logs-days", "0.00001", "--retention-interval", "1"]
        cls.cluster.coordinator.argv = cls.cluster._coordinator(cls.cluster.grpc, cls.cluster.http).argv
        cls.cluster.start_coordinator()
        cls.cluster.wait_for_workers()

    def test_logs_of_an_ended_run_go_and_all_else_stays(self):
        [run_id] = self.cluster.submit(experiment_spec("short", steps=20))
        self.cluster.wait_state(run_id, "SUCCEEDED")
        cluster.wait_for(lambda: "logs_expired_at" in self.summary(run_id), "retention removes the log lines", 30)
        self.assertEqual(self.cluster.logs(run_id), [])
        self.assert_whole_history(run_id, 20)
        shown = self.cluster.cli("show", run_id).stdout
        self.assertIn("reports of 20 steps from 1 to 20", shown)
        self.assertIn("retention removed the log lines", shown)
        self.assertIn("SUCCEEDED", shown)
        self.assertIn("logs", self.cluster.scrape(self.cluster.http).partition("normlab_expired_runs_total{")[2][:20])

    def summary(self, run_id):
        summary = self.cluster.rpc("RunService/GetHistorySummary", {"run_id": run_id})
        return {name: value for name, value in summary.items() if value is not None}

    def test_a_watch_goes_on_through_a_restart(self):
        [run_id] = self.cluster.submit(experiment_spec("watched", STEPS, slow=True))
        with subprocess.Popen([NORMLAB, "--server", self.cluster.grpc, "watch", run_id, "-o", "json"],
                              stdout=subprocess.PIPE, text=True) as watch:
            self.cluster.wait_step(run_id, 50)
            self.cluster.coordinator.kill()
            self.cluster.start_coordinator()
            seen = [json.loads(line) for line in watch.stdout]
        self.assertEqual(watch.returncode, 0)
        revisions = [int(run["revision"]) for run in seen]
        self.assertEqual(revisions, sorted(revisions))
        self.assertEqual(seen[-1]["state"], "SUCCEEDED")
        steps = {int(run["progress"]["step"]) for run in seen}
        self.assertGreater(len(steps), 100, "one change is one line")


if __name__ == "__main__":
    unittest.main()
