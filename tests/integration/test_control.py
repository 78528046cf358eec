"""Cancel from every state, requeue from every terminal one; by run, experiment and label."""

import os
import pathlib
import unittest

import cluster
from cluster import RpcError, experiment_spec

FAILED_PRECONDITION = 9
ENDLESS = 10_000_000  # Steps of a run that only a cancel ends.


FAST, SLOW, NOWHERE = ({"worker_labels": {"kind": kind}} for kind in ("fast", "slow", "none"))


class ControlTest(cluster.ClusterTest):
    num_workers = 0

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gate = cls.cluster.root / "gate"
        os.environ["NORMLAB_TEST_GATE"] = str(cls.gate)
        cls.cluster.add_worker("fast", labels={"kind": "fast"})
        cls.cluster.add_worker("slow", labels={"kind": "slow"},
                               trainer=pathlib.Path(__file__).resolve().parent / "slow_trainer")
        cls.cluster.wait_for_workers()

    def endless(self, name, resources=FAST, **more):
        return experiment_spec(name, ENDLESS, slow=True, resources=resources, **more)

    def cancel_and_wait(self, run_id):
        self.cluster.cli("cancel", run_id)
        return self.cluster.wait_state(run_id, "CANCELLED")

    def test_cancel_while_queued_is_at_once(self):
        [run_id] = self.cluster.submit(self.endless("nowhere", resources=NOWHERE))
        waiting = self.cluster.wait_state(run_id, "QUEUED")
        self.assertIn("kind", waiting["reason"])
        self.assertIn(waiting["reason"], self.cluster.cli("show", run_id).stdout)
        self.cluster.cli("cancel", run_id)
        self.assertEqual(self.cluster.run(run_id)["state"], "CANCELLED")
        self.assertEqual(self.cluster.states(run_id), ["QUEUED", "CANCELLED"])
        self.cluster.cli("cancel", run_id)  # A second time changes nothing and is no error.
        self.assertEqual(self.cluster.states(run_id), ["QUEUED", "CANCELLED"])

    def test_cancel_while_starting(self):
        self.gate.unlink(missing_ok=True)
        [run_id] = self.cluster.submit(self.endless("starting", resources=SLOW))
        self.cluster.wait_state(run_id, "STARTING")
        cluster.wait_for(lambda: self.cluster.processes("slow_trainer"), "the trainer was started")
        self.cancel_and_wait(run_id)
        self.assertEqual(self.cluster.states(run_id), ["QUEUED", "STARTING", "STOPPING", "CANCELLED"])
        self.assertEqual(self.cluster.processes("slow_trainer"), [])
        self.gate.touch()
        self.cluster.cli("requeue", run_id)
        self.cluster.wait_state(run_id, "RUNNING")
        self.cancel_and_wait(run_id)

    def test_cancel_while_running_then_requeue_resumes_then_from_scratch_starts_again(self):
        [run_id] = self.cluster.submit(self.endless("running", report={"checkpoint_every_steps": 50}))
        self.cluster.wait_step(run_id, 60)
        request = {"selector": {"run_ids": [run_id]}, "actor": "x", "request_id": "early"}
        with self.assertRaises(RpcError) as caught:
            self.cluster.rpc("RunService/RequeueRuns", request)
        self.assertEqual(caught.exception.code, FAILED_PRECONDITION)
        self.assertIn(run_id, caught.exception.message)
        refused = self.cluster.cli("requeue", run_id, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("RUNNING", refused.stderr)

        cancelled = self.cancel_and_wait(run_id)
        self.assertEqual(self.cluster.states(run_id), ["QUEUED", "STARTING", "RUNNING", "STOPPING", "CANCELLED"])
        self.assertEqual(self.cluster.processes("normlab-train"), [])
        saved = int(cancelled["progress"]["checkpoint"]["step"])
        self.assertEqual(saved, int(cancelled["progress"]["step"]), "the checkpoint of a stop holds its last step")
        before = self.cluster.history(run_id)

        self.cluster.cli("requeue", run_id)
        self.cluster.wait_step(run_id, saved + 20)
        self.cancel_and_wait(run_id)
        after = self.cluster.history(run_id)
        self.assertEqual([int(entry["step"]) for entry in after], list(range(1, len(after) + 1)))
        self.assertEqual(after[:saved], before, "what was done is not done again")
        self.assertEqual({entry["attempt"] for entry in after[saved:]}, {2})

        self.cluster.cli("requeue", run_id, "--from-scratch")
        cluster.wait_for(lambda: self.cluster.run(run_id)["attempt"] == 3 and 5 <= self.cluster.step(run_id) < ENDLESS,
                         "the third attempt trains")
        self.cancel_and_wait(run_id)
        again = self.cluster.history(run_id)
        self.assertEqual({entry["attempt"] for entry in again}, {3})
        self.assertEqual([int(entry["step"]) for entry in again], list(range(1, len(again) + 1)))
        self.assertEqual(again[0]["report"]["loss"], before[0]["report"]["loss"], "the same seed starts the same way")

    def test_cancel_and_requeue_of_an_experiment_and_of_a_label(self):
        chosen = self.cluster.submit(self.endless("chosen", matrix={"seed": [1, 2, 3]}, resources=NOWHERE,
                                                  labels={"group": "blue"}))
        [other] = self.cluster.submit(self.endless("other", resources=NOWHERE, labels={"group": "red"}))
        experiment_id = chosen[0].partition(".")[0]

        done = self.cluster.cli("cancel", experiment_id).stdout
        for run_id in chosen:
            self.assertIn(run_id, done, "it says what it did")
            self.assertEqual(self.cluster.run(run_id)["state"], "CANCELLED")
        self.assertEqual(self.cluster.run(other)["state"], "QUEUED")

        self.cluster.cli("requeue", "--label", "group=blue")
        self.assertEqual({self.cluster.run(run_id)["state"] for run_id in chosen}, {"QUEUED"})
        self.cluster.cli("cancel", "--label", "group=blue")
        self.assertEqual({self.cluster.run(run_id)["state"] for run_id in chosen}, {"CANCELLED"})
        self.assertEqual(self.cluster.run(other)["state"], "QUEUED")

        nothing = self.cluster.cli("cancel", "--label", "group=green", check=False)
        self.assertNotEqual(nothing.returncode, 0)
        self.assertIn("green", nothing.stderr)
        self.cluster.cli("cancel", other)

    def test_a_requeue_is_all_or_nothing(self):
        runs = self.cluster.submit(self.endless("half", matrix={"seed": [1, 2]}, resources=NOWHERE))
        self.cluster.cli("cancel", runs[0])
        refused = self.cluster.cli("requeue", runs[0].partition(".")[0], check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn(runs[1], refused.stderr)
        self.assertEqual(self.cluster.run(runs[0])["state"], "CANCELLED")
        self.cluster.cli("cancel", runs[1])

    def test_a_finished_run_can_be_requeued_from_scratch(self):
        [run_id] = self.cluster.submit(experiment_spec("again", steps=15, resources=FAST))
        self.cluster.wait_state(run_id, "SUCCEEDED")
        first = self.assert_whole_history(run_id, 15)
        self.cluster.cli("requeue", run_id, "--from-scratch")
        cluster.wait_for(lambda: self.cluster.run(run_id)["attempt"] == 2, "the second attempt begins")
        self.cluster.wait_state(run_id, "SUCCEEDED")
        second = self.assert_whole_history(run_id, 15)
        self.assertEqual([entry["report"]["loss"] for entry in second], [entry["report"]["loss"] for entry in first])
        self.assertEqual({entry["attempt"] for entry in second}, {2})


if __name__ == "__main__":
    unittest.main()
