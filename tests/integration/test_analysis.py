"""What `normlab analyze` measures of a run is kept with it, survives the coordinator, and is in the report."""

import json
import unittest

import cluster
from cluster import experiment_spec

LAYERS = 2


class AnalysisTest(cluster.ClusterTest):
    def analyze(self, run_id, *arguments, **options):
        return self.cluster.cli("analyze", run_id, "--root", self.cluster.root, "--out", self.cluster.root / "analysis",
                                "--sequences", 4, "--batch", 4, "--threads", 1, *arguments, **options)

    def analyses(self, run_id):
        return [step["analysis"] for step in self.cluster.history(run_id) if step.get("analysis")]

    def test_is_added_to_the_runs_history_and_drawn_by_the_report(self):
        [run_id] = self.cluster.submit(experiment_spec("analyzed", 20, report={"checkpoint_every_steps": 20}))
        self.cluster.wait_state(run_id, "SUCCEEDED")
        page = self.cluster.cli("report", run_id.partition(".")[0], "-o", "md").stdout
        self.assertIn("Environment and exact versions", page)
        self.assertIn("cpu", page)
        self.assertIn(f"normlab analyze {run_id}", self.cluster.cli("show", run_id).stderr)

        self.analyze(run_id, "--no-record")
        self.assertEqual(self.analyses(run_id), [])
        written = json.loads((self.cluster.root / "analysis" / "analysis.json").read_text())
        self.assertIn("step 20", self.analyze(run_id).stderr)
        self.assertIn("replaced", self.analyze(run_id).stderr)
        self.cluster.coordinator.kill()
        self.cluster.start_coordinator()
        [analysis] = self.analyses(run_id)
        self.assertEqual(int(analysis["step"]), 20)
        self.assertEqual(analysis["actor"].partition(":")[0], "user")
        for layer, row in zip(analysis["layers"], written["layers"], strict=True):
            self.assertEqual(layer["loss_without"], row["loss_without"])
            self.assertEqual(layer["variance_mean"], row["variance_mean"])
        for layer, row in zip(analysis["layers"], written["angular_distance"]["all_positions"], strict=True):
            for stored, measured in zip(layer["angular_distance"], row, strict=True):
                self.assertAlmostEqual(stored, measured, places=6)
        self.assertEqual(self.cluster.run(run_id)["progress"]["analysis_steps"], ["20"])
        self.assertIn("of step 20", self.cluster.cli("show", run_id).stdout)

        report = self.cluster.cli_json("report", run_id.partition(".")[0])
        study = report["arms"][0]["groups"][0]["analysis"]
        self.assertEqual(len(study["loss_increase_without_layer"]["by_layer"]), LAYERS)
        self.assertEqual([len(row) for row in study["angular_distance"]], [2, 1])
        self.assertEqual(report["environments"][0]["runs"], [run_id])
        pages = [self.cluster.cli("report", run_id.partition(".")[0], "-o", "html").stdout for _ in range(2)]
        self.assertEqual(pages[0], pages[1], "the same bytes")
        self.assertIn("One colour scale", pages[0])

    def test_of_a_run_that_began_anew_is_refused_with_the_reason(self):
        [run_id] = self.cluster.submit(experiment_spec("void", 20))
        self.cluster.wait_state(run_id, "SUCCEEDED")
        self.cluster.cli("cordon", "w0")
        self.cluster.cli("requeue", run_id, "--from-scratch")
        done = self.analyze(run_id, check=False)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertIn("not added", done.stderr)
        self.assertIn("has done 0 steps", done.stderr)
        self.cluster.cli("cancel", run_id)
        self.cluster.cli("uncordon", "w0")


if __name__ == "__main__":
    unittest.main()
