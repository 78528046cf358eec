"""An experiment from its YAML file to the comparison; files that are refused; submits that are repeated."""

import json
import re
import unittest

import cluster
from cluster import RpcError, experiment_spec

INVALID_ARGUMENT, ALREADY_EXISTS = 3, 6

GOOD = """\
name: good
base:
  model: {num_layers: 2, hidden: 16, num_heads: 2, ffn_hidden: 32}
  data: {dataset: text}
  train: {steps: 3}
"""

# What is wrong, the file, where the complaint points, and words that must be in it.
BAD_SPECS = [
    ("an unknown key at the top", GOOD + "matriks: {}\n", (6, 1), ["matriks", "matrix"]),
    ("an unknown key inside", GOOD.replace("hidden: 16", "hiden: 16"), (3, 26), ["hiden", "'hidden'"]),
    ("an unknown section", GOOD.replace("  train:", "  trian:"), (5, 3), ["trian", "'train'"]),
    ("text for a number", GOOD.replace("steps: 3", "steps: many"), (5, 18), ["many"]),
    ("a fraction for a count", GOOD.replace("steps: 3", "steps: 2.5"), (5, 18), ["2.5"]),
    ("a map for a number", GOOD.replace("steps: 3", "steps: {a: 1}"), (5, 18), ["steps"]),
    ("a list for a number", GOOD.replace("steps: 3", "steps: [3, 4]"), (5, 18), ["matrix"]),
    ("a number below its range", GOOD.replace("steps: 3", "steps: 0"), (5, 18), ["0", "1"]),
    ("a scheme that does not exist", GOOD + "  norm: {scheme: lsn}\n", (6, 18), ["lsn", "'lns'"]),
    ("a matrix axis that names nothing", GOOD + "matrix:\n  norm.schema: [lns]\n", (7, 3),
     ["norm.schema", "'norm.scheme'"]),
    ("a matrix value of the wrong type", GOOD + "matrix:\n  seed: [1, two]\n", (7, 13), ["two"]),
    ("a matrix scheme that does not exist", GOOD + "matrix:\n  norm.scheme: [lns, prenorm]\n", (7, 22), ["prenorm"]),
    ("an axis that is no list", GOOD + "matrix:\n  seed: 3\n", (7, 9), ["list"]),
    ("a key twice", GOOD + "name: again\n", (6, 1), ["name", "duplicate"]),
    ("a dataset outside the data root", GOOD.replace("dataset: text", "dataset: ../text"), (4, 19), ["../text"]),
    ("a field that must be given", GOOD.replace(", ffn_hidden: 32", ""), (3, 3), ["ffn_hidden"]),
    ("heads that do not divide the width", GOOD.replace("num_heads: 2", "num_heads: 3"), None, ["num_heads"]),
    ("no YAML", GOOD + "x: [1, 2\n", None, ["YAML"]),
    ("an empty file", "", (1, 1), ["name"]),
]


class ExperimentTest(cluster.ClusterTest):
    num_workers = 2

    def test_trains_and_compares_two_schemes(self):
        steps = 40
        spec = experiment_spec("two schemes", steps, matrix={"norm.scheme": ["pre_ln", "lns"]}, labels={"team": "a"},
                               report={"checkpoint_every_steps": 20, "eval_every_steps": 20})
        run_ids = self.cluster.submit(spec)
        experiment_id = run_ids[0].partition(".")[0]
        self.assertEqual(run_ids, [f"{experiment_id}.01", f"{experiment_id}.02"])

        self.cluster.cli("watch", experiment_id)  # Ends when all runs are terminal.

        evals = {}
        for run_id in run_ids:
            run = self.cluster.run(run_id)
            self.assertEqual(run["state"], "SUCCEEDED", run["reason"])
            self.assertEqual(self.cluster.states(run_id), ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"])
            for event in self.cluster.events(run_id):
                self.assertRegex(event["actor"], r"^(user:.+|worker:.+|coordinator)$")
                self.assertTrue(event["reason"])
                self.assertTrue(event["time"])
            history = self.assert_whole_history(run_id, steps)
            losses = [entry["report"]["loss"] for entry in history]
            self.assertLess(losses[-1], losses[0])
            self.assertEqual([int(entry["step"]) for entry in history if entry.get("eval")], [20, 40])
            layers = [entry["layers"] for entry in history if entry.get("layers")]
            self.assertEqual([int(report["step"]) for report in layers], [10, 20, 30, 40])
            for report in layers:
                self.assertEqual([layer["layer"] for layer in report["layers"]], [1, 2])
                self.assertTrue(all(layer["output_variance"] > 0 for layer in report["layers"]))
            evals[run["axes"]["norm.scheme"]] = run["progress"]["eval"]["loss"]
            self.assertEqual(int(run["progress"]["step"]), steps)

        comparison = json.dumps(self.cluster.cli_json("compare", experiment_id))
        table = self.cluster.cli("compare", experiment_id).stdout
        for scheme, loss in evals.items():
            self.assertIn(scheme, comparison)
            self.assertIn(scheme, table)
            self.assertIn(f"{loss:.4f}", table)
        self.check_lists(experiment_id, run_ids)

    def check_lists(self, experiment_id, run_ids):
        self.assertIn(experiment_id, self.cluster.cli("list").stdout)
        self.assertIn(experiment_id, json.dumps(self.cluster.cli_json("list")))
        shown = self.cluster.cli("show", run_ids[0]).stdout
        for words in (run_ids[0], "SUCCEEDED", "pre_ln|lns"):
            self.assertRegex(shown, words)
        self.assertIn(run_ids[1], self.cluster.cli("list", experiment_id).stdout)
        self.assertIn("two schemes", self.cluster.cli("show", experiment_id).stdout)
        workers = self.cluster.cli("workers").stdout
        self.assertIn("w0", workers)
        self.assertIn("w1", workers)
        self.cluster.cli("logs", run_ids[0])

    def test_refuses_bad_files_with_their_place_and_stores_nothing(self):
        before = len(self.cluster.experiments())
        for what, text, place, words in BAD_SPECS:
            with self.subTest(what):
                path = self.cluster.write("bad.yaml", text)
                done = self.cluster.cli("submit", path, check=False)
                self.assertNotEqual(done.returncode, 0)
                line = r"\d+:\d+" if place is None else f"{place[0]}:{place[1]}"
                self.assertRegex(done.stderr, rf"(?m)bad\.yaml:{line}: ")
                for word in words:
                    self.assertIn(word, done.stderr)
        self.assertEqual(len(self.cluster.experiments()), before)

    def test_a_missing_file_is_named(self):
        done = self.cluster.cli("submit", "nowhere.yaml", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("nowhere.yaml", done.stderr)

    def test_the_coordinator_refuses_bad_specs_by_itself(self):
        before = len(self.cluster.experiments())
        spec = experiment_spec("bad", norm={"scheme": "lsn"})
        with self.assertRaises(RpcError) as caught:
            self.cluster.rpc("ExperimentService/CreateExperiment", {"spec": spec, "request_id": "bad", "owner": "x"})
        self.assertEqual(caught.exception.code, INVALID_ARGUMENT)
        self.assertIn("base.norm.scheme", caught.exception.message)
        with self.assertRaises(RpcError) as caught:
            self.cluster.rpc("ExperimentService/CreateExperiment", {"spec": experiment_spec("no id"), "owner": "x"})
        self.assertEqual(caught.exception.code, INVALID_ARGUMENT)
        self.assertEqual(len(self.cluster.experiments()), before)

    def test_a_dry_run_prints_the_runs_and_stores_nothing(self):
        before = len(self.cluster.experiments())
        spec = experiment_spec("dry", matrix={"seed": [4, 5], "norm.scheme": ["lns", "pre_ln"]})
        path = self.cluster.write("dry.yaml", spec)
        printed = self.cluster.cli("submit", "--dry-run", path).stdout
        self.assertEqual(len(re.findall(r"pre_ln", printed)), 2, printed)
        self.assertEqual(len(re.findall(r"lns", printed)), 2, printed)
        self.cluster.cli_json("submit", "--dry-run", path)
        self.assertEqual(len(self.cluster.experiments()), before)

    def test_a_repeated_submit_stores_one_experiment(self):
        spec = experiment_spec("repeated", steps=1)
        request = {"spec": spec, "request_id": "once", "owner": "x"}
        first = self.cluster.rpc("ExperimentService/CreateExperiment", request)
        again = self.cluster.rpc("ExperimentService/CreateExperiment", request)
        self.assertFalse(first["already_existed"])
        self.assertTrue(again["already_existed"])
        self.assertEqual(again["run_ids"], first["run_ids"])
        request["spec"] = experiment_spec("other", steps=2)
        with self.assertRaises(RpcError) as caught:
            self.cluster.rpc("ExperimentService/CreateExperiment", request)
        self.assertEqual(caught.exception.code, ALREADY_EXISTS)
        self.assertEqual([e["spec"]["name"] for e in self.cluster.experiments()].count("repeated"), 1)

    def test_a_command_line_submit_with_a_request_id_can_be_repeated(self):
        spec = experiment_spec("repeated by hand", steps=1)
        first = self.cluster.submit(spec, "--request-id", "by-hand")
        self.assertEqual(self.cluster.submit(spec, "--request-id", "by-hand"), first)


if __name__ == "__main__":
    unittest.main()
