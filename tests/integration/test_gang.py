"""Two workers train one run: the same losses as one worker, and one rank's death restarts the gang as a whole."""

import os
import signal
import unittest

import cluster
from cluster import experiment_spec

# float32 sums in another order: measured differences stay near 1e-6 over these few steps.
LOSS_TOLERANCE = 2e-4


class GangTest(cluster.ClusterTest):
    num_workers = 2

    def test_gives_the_losses_of_one_worker_with_the_same_batch(self):
        steps = 60
        report = {"eval_every_steps": 30}
        [alone] = self.cluster.submit(experiment_spec("alone", steps, report=report))
        self.cluster.wait_state(alone, "SUCCEEDED")
        [gang] = self.cluster.submit(experiment_spec("gang", steps, report=report, resources={"workers": 2}))
        run = self.cluster.wait_state(gang, "SUCCEEDED")
        self.assertEqual(run["attempt"], 1)
        pairs = zip(self.assert_whole_history(alone, steps), self.assert_whole_history(gang, steps))
        for one, two in pairs:
            self.assertAlmostEqual(one["report"]["loss"], two["report"]["loss"], delta=LOSS_TOLERANCE)
            self.assertEqual(one["report"]["tokens"], two["report"]["tokens"])
            if one.get("eval"):
                self.assertAlmostEqual(one["eval"]["loss"], two["eval"]["loss"], delta=LOSS_TOLERANCE)
                self.assertEqual(one["eval"]["tokens"], two["eval"]["tokens"])

    def test_restarts_as_a_whole_when_one_rank_dies(self):
        steps = 300
        spec = experiment_spec("fragile", steps, slow=True, report={"checkpoint_every_steps": 50},
                               resources={"workers": 2})
        [run_id] = self.cluster.submit(spec)
        self.cluster.wait_step(run_id, 120)
        self.assertEqual(len(self.cluster.run(run_id)["workers"]), 2)
        first = set(self.cluster.processes("normlab-train"))
        self.assertEqual(len(first), 2)
        os.kill(max(first), signal.SIGKILL)
        cluster.wait_for(lambda: not first & set(self.cluster.processes("normlab-train")), "the whole gang ends", 30)
        run = self.cluster.wait_state(run_id, "SUCCEEDED")
        self.assertEqual(run["attempt"], 2)
        history = self.assert_whole_history(run_id, steps)
        self.assertEqual({entry["attempt"] for entry in history}, {1, 2})

    def test_waits_for_all_of_its_workers(self):
        [run_id] = self.cluster.submit(experiment_spec("too many", 10, resources={"workers": 3},
                                                       train={"batch_size": 6}))
        run = self.cluster.wait_state(run_id, "QUEUED")
        self.assertRegex(run["reason"], r"3")
        self.assertRegex(run["reason"], r"2")
        self.cluster.add_worker("w2")
        self.cluster.wait_state(run_id, "SUCCEEDED")
        self.assert_whole_history(run_id, 10)


if __name__ == "__main__":
    unittest.main()
