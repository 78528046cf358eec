"""kill -9 of each process while it works: runs end well, bit for bit as if nothing had been, and no submit is lost."""

import os
import random
import signal
import unittest

import cluster
from cluster import experiment_spec

STEPS = 600


def long_spec(name):
    return experiment_spec(name, STEPS, slow=True, report={"checkpoint_every_steps": 50})


class CrashTest(cluster.ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        [run_id] = cls.cluster.submit(long_spec("spec of all"))
        cls.cluster.cli("cancel", run_id)
        cls.unbroken_digest = cls.cluster.train_by_hand(run_id, "unbroken")
        cls.cluster.wait_state(run_id, "CANCELLED")

    def assert_ended_as_if_unbroken(self, run_id, attempts):
        run = self.cluster.wait_state(run_id, "SUCCEEDED", timeout=120)
        self.assertEqual(run["attempt"], attempts, [event["reason"] for event in self.cluster.events(run_id)])
        self.assert_whole_history(run_id, STEPS)
        self.assertEqual(self.cluster.weights_digest(run_id), self.unbroken_digest)

    def trainer(self):
        [pid] = self.cluster.processes("normlab-train")
        return pid

    def test_of_the_trainer(self):
        [run_id] = self.cluster.submit(long_spec("trainer"))
        self.cluster.wait_step(run_id, 120)
        os.kill(self.trainer(), signal.SIGKILL)
        self.assert_ended_as_if_unbroken(run_id, attempts=2)
        reasons = " ".join(event["reason"] for event in self.cluster.events(run_id))
        self.assertRegex(reasons, r"(?i)signal 9|SIGKILL|killed")

    def test_of_the_agent(self):
        [run_id] = self.cluster.submit(long_spec("agent"))
        self.cluster.wait_step(run_id, 120)
        self.cluster.workers["w0"].kill()
        cluster.wait_for(lambda: not self.cluster.processes("normlab-train"), "the trainer dies with its agent", 10)
        self.cluster.workers["w0"].start()
        self.assert_ended_as_if_unbroken(run_id, attempts=2)

    def test_of_the_coordinator(self):
        [run_id] = self.cluster.submit(long_spec("coordinator"))
        self.cluster.wait_step(run_id, 120)
        trainer = self.trainer()
        self.cluster.coordinator.kill()
        self.cluster.start_coordinator()
        self.assertEqual(self.trainer(), trainer, "the trainer goes on undisturbed")
        self.assert_ended_as_if_unbroken(run_id, attempts=1)

    def test_of_everything_in_turn_under_submits(self):
        [run_id] = self.cluster.submit(long_spec("everything"))
        submits = cluster.Submits(self.cluster)
        self.addCleanup(submits.stop)
        chance = random.Random(11)
        for index, victim in enumerate(("trainer", "coordinator", "agent", "coordinator")):
            self.cluster.wait_step(run_id, 100 * (index + 1) + chance.randint(0, 60))
            if victim == "trainer":
                for pid in self.cluster.processes("normlab-train"):
                    os.kill(pid, signal.SIGKILL)
            elif victim == "agent":
                self.cluster.workers["w0"].kill()
                self.cluster.workers["w0"].start()
            else:
                self.cluster.coordinator.kill()
                self.cluster.start_coordinator()
        acknowledged = submits.stop()
        run = self.cluster.wait_state(run_id, "SUCCEEDED", timeout=120)
        self.assertGreaterEqual(run["attempt"], 3)
        self.assert_whole_history(run_id, STEPS)
        self.assertEqual(self.cluster.weights_digest(run_id), self.unbroken_digest)

        names = [experiment["spec"]["name"] for experiment in self.cluster.experiments()]
        self.assertGreater(len(acknowledged), 5)
        runs = self.cluster.runs()
        for name, experiment_run in acknowledged.items():
            self.assertEqual(names.count(name), 1, f"{name} was acknowledged")
            self.assertEqual(runs[experiment_run]["state"], "QUEUED")


class LeaseTest(cluster.ClusterTest):
    num_workers = 2
    lease_seconds = 4

    def test_a_worker_that_never_comes_back_loses_its_run_to_another(self):
        [run_id] = self.cluster.submit(long_spec("lost"))
        self.cluster.wait_step(run_id, 120)
        [lost] = self.cluster.run(run_id)["workers"]
        self.cluster.workers[lost].kill()
        run = self.cluster.wait_state(run_id, "SUCCEEDED", timeout=120)
        self.assertEqual(run["attempt"], 2)
        self.assert_whole_history(run_id, STEPS)
        reasons = " ".join(event["reason"] for event in self.cluster.events(run_id))
        self.assertIn(lost, reasons)
        self.assertNotIn(lost, [worker["id"] for worker in self.cluster.list_workers()
                                if worker["state"] in ("IDLE", "BUSY")])


if __name__ == "__main__":
    unittest.main()
