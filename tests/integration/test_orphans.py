"""Nothing lives on alone: not a trainer without its agent, not a daemon without its `normlab up`."""

import os
import signal
import unittest

import cluster
from cluster import Cluster, Daemon, experiment_spec, free_address

PROGRAMS = ("normlab-coordinator", "normlab-worker", "normlab-train")
ENDLESS = 10_000_000


class AgentTest(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster()
        self.addCleanup(self.cluster.stop)
        self.cluster.prepare_dataset()

    def test_no_trainer_outlives_its_agent(self):
        self.cluster.start(num_workers=1)
        [run_id] = self.cluster.submit(experiment_spec("orphan", ENDLESS, slow=True))
        self.cluster.wait_step(run_id, 5)
        [trainer] = self.cluster.processes("normlab-train")
        self.cluster.workers["w0"].kill()
        cluster.wait_for(lambda: trainer not in self.cluster.processes("normlab-train"), "the trainer dies", 10)

    def test_an_agent_that_is_asked_to_end_saves_its_run_first(self):
        self.cluster.start(num_workers=1)
        [run_id] = self.cluster.submit(experiment_spec("drained", ENDLESS, slow=True))
        self.cluster.wait_step(run_id, 30)
        self.assertEqual(self.cluster.workers["w0"].stop(), 0)
        self.assertEqual(self.cluster.processes("normlab-train"), [])
        run = self.cluster.wait_state(run_id, "QUEUED")
        self.assertEqual(run["failures"], 0)
        self.assertGreaterEqual(int(run["progress"]["checkpoint"]["step"]), 30)


class UpTest(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster()
        self.addCleanup(self.cluster.stop)
        self.root = self.cluster.root / "up"
        self.cluster.data_root = self.root / "data"
        self.cluster.prepare_dataset()
        self.address = free_address()

    def test_nothing_outlives_up(self):
        up = self.start_up()
        [run_id] = self.cluster.submit(experiment_spec("up", ENDLESS, slow=True))
        self.cluster.wait_step(run_id, 5)
        for program in PROGRAMS:
            self.assertTrue(self.cluster.processes(program), program)
        up.kill()
        cluster.wait_for(lambda: not any(map(self.cluster.processes, PROGRAMS)), "all that it started dies", 20)

    def test_up_ends_cleanly_and_goes_on_the_next_time(self):
        up = self.start_up()
        spec = experiment_spec("resumed", 400, slow=True, report={"checkpoint_every_steps": 50})
        [run_id] = self.cluster.submit(spec)
        self.cluster.wait_step(run_id, 100)
        os.kill(up.process.pid, signal.SIGINT)
        up.process.wait(60)
        self.assertEqual([pid for program in PROGRAMS for pid in self.cluster.processes(program)], [])
        self.start_up()
        self.cluster.wait_state(run_id, "SUCCEEDED")
        history = self.cluster.history(run_id)
        self.assertEqual([int(entry["step"]) for entry in history], list(range(1, 401)))
        self.assertEqual(history[99]["attempt"], 1, "what was done is not done again")

    def start_up(self):
        """`normlab up` with everything below one folder; the cluster then talks to its coordinator."""
        up = Daemon("up", [cluster.NORMLAB, "up", "--root", self.root, "--workers", 1, "--threads", 1,
                           "--listen", self.address, "--http", "127.0.0.1:0"], self.cluster.root / "up.log")
        self.cluster.daemons.append(up)
        self.cluster.coordinator = up.start()
        self.cluster.grpc = self.address
        cluster.wait_for(self.cluster._is_serving, "the coordinator of up serves")
        return up


if __name__ == "__main__":
    unittest.main()
