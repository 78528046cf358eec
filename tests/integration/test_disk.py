"""One sync of the coordinator's log fails, once: it ends with the error, and a restart finds everything acknowledged.

Environment: NORMLAB_TEST_FAIL_SYNC_LIBRARY, the built fail_sync.c.
"""

import os
import unittest

import cluster
from cluster import experiment_spec

STEPS = 600


class DiskTest(cluster.ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trigger = cls.cluster.root / "fail-sync"
        cls.cluster.coordinator.kill()
        cls.cluster.coordinator.env = dict(os.environ, NORMLAB_TEST_FAIL_SYNC=str(cls.trigger),
                                           LD_PRELOAD=os.environ["NORMLAB_TEST_FAIL_SYNC_LIBRARY"])
        cls.cluster.start_coordinator()
        cls.cluster.wait_for_workers()

    def test_a_failed_sync_ends_the_coordinator_and_loses_nothing_acknowledged(self):
        [run_id] = self.cluster.submit(experiment_spec("trained", STEPS, slow=True))
        self.cluster.wait_step(run_id, 50)
        submits = cluster.Submits(self.cluster)
        self.addCleanup(submits.stop)
        cluster.wait_for(lambda: len(submits.acknowledged) > 3, "some are acknowledged")
        self.trigger.touch()
        self.assertEqual(self.cluster.coordinator.process.wait(30), 1)
        self.assertFalse(self.trigger.exists(), "the sync failed once; the next one would have been well")
        log = self.cluster.coordinator.log()
        self.assertRegex(log, r"a commit failed, the coordinator ends: .*\.log.*Input/output error")
        self.cluster.start_coordinator()
        acknowledged = submits.stop()
        names = [experiment["spec"]["name"] for experiment in self.cluster.experiments()]
        for name in acknowledged:
            self.assertEqual(names.count(name), 1, f"{name} was acknowledged")
        self.assertEqual(self.cluster.wait_state(run_id, "SUCCEEDED", timeout=120)["attempt"], 1)
        self.assert_whole_history(run_id, STEPS)


if __name__ == "__main__":
    unittest.main()
