"""A backup under load, the loss of the coordinator's disk, and what the restored one makes of workers that are ahead of it."""

import json
import shutil
import subprocess
import unittest

import cluster
from cluster import experiment_spec

STEPS = 600


def long_spec(name):
    return experiment_spec(name, STEPS, slow=True, report={"checkpoint_every_steps": 50})


class BackupTest(cluster.ClusterTest):
    num_workers = 0
    lease_seconds = 5

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster.coordinator.kill()
        cls.cluster.options += ["--backup-root", cls.cluster.root / "backups", "--backups-kept", "2"]
        cls.move_to(cls.cluster.coordinator_folder)
        for index in range(2):
            cls.cluster.add_worker(f"w{index}")
        cls.cluster.wait_for_workers()
        [run_id] = cls.cluster.submit(long_spec("spec of all"))
        cls.cluster.cli("cancel", run_id)
        cls.cluster.wait_state(run_id, "CANCELLED")
        cls.unbroken_digest = cls.cluster.train_by_hand(run_id, "unbroken")

    @classmethod
    def move_to(cls, folder):
        """Starts the coordinator on this data folder, at the old address."""
        cls.cluster.coordinator_folder = folder
        cls.cluster.coordinator.argv = [str(argument) for argument in
                                        cls.cluster._coordinator(cls.cluster.grpc, cls.cluster.http).argv]
        cls.cluster.start_coordinator()

    def restore(self, backup, folder, *more):
        return subprocess.run([cluster.BIN / "normlab-coordinator", "--data", folder, "restore", "--from", backup, *more],
                              capture_output=True, text=True)

    def test_a_restored_coordinator_goes_on_and_fences_what_it_does_not_know(self):
        [before] = self.cluster.submit(long_spec("before"))
        self.cluster.wait_step(before, 60)
        submits = cluster.Submits(self.cluster)
        self.addCleanup(submits.stop)
        cluster.wait_for(lambda: len(submits.acknowledged) > 3, "some are acknowledged")
        acknowledged = dict(submits.acknowledged)
        backup = self.cluster.cli_json("admin", "backup", "create")
        submits.stop()
        self.assertEqual(self.cluster.cli_json("admin", "backup", "list")["backups"][0]["name"], backup["name"])
        self.assertIn("it is whole", self.cluster.cli("admin", "backup", "verify", backup["name"]).stdout)

        [after] = self.cluster.submit(long_spec("after"))
        self.cluster.wait_step(after, 10)
        refused = self.restore(backup["path"], self.cluster.coordinator_folder)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("is in use by process", refused.stderr)
        self.cluster.coordinator.kill()
        shutil.rmtree(self.cluster.coordinator_folder / "db")
        restored = self.cluster.root / "restored"
        done = self.restore(backup["path"], restored)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.move_to(restored)

        runs = self.cluster.runs()
        for name, run_id in acknowledged.items():
            self.assertEqual(runs[run_id]["state"], "QUEUED", f"{name} was acknowledged before the backup")
        self.assertNotIn(after, runs)
        cluster.wait_for(lambda: len(self.cluster.processes("normlab-train")) <= 1, "the run that is not known is ended")
        self.cluster.wait_state(before, "SUCCEEDED", timeout=120)
        self.assertEqual(self.cluster.weights_digest(before), self.unbroken_digest)

        [new] = self.cluster.submit(long_spec("new"))
        self.assertGreater(int(new.partition(".")[0].removeprefix("exp-")), 1_000_000, "no number is given out again")
        self.cluster.wait_state(new, "SUCCEEDED", timeout=120)
        self.assertGreater(self.cluster.run(new)["attempt"], 1_000_000)
        self.assertEqual(self.cluster.weights_digest(new), self.unbroken_digest)

    def test_a_damaged_backup_is_refused(self):
        backup = self.cluster.cli_json("admin", "backup", "create")
        manifest = json.loads((self.cluster.root / "backups" / backup["name"] / "backup.json").read_text())
        victim = self.cluster.root / "backups" / backup["name"] / manifest["files"][0]["path"]
        cluster.flip_byte(victim, victim.stat().st_size // 2)
        refused = self.restore(backup["path"], self.cluster.root / "never", "--check")
        self.assertEqual(refused.returncode, 1)
        self.assertIn(str(victim), refused.stderr)
        self.assertNotEqual(self.cluster.cli("admin", "backup", "verify", backup["name"], check=False).returncode, 0)


if __name__ == "__main__":
    unittest.main()
