"""Files that are damaged or missing, places that are taken, a disk that is full."""

import ctypes
import json
import os
import subprocess
import unittest

import cluster
from cluster import Cluster, RpcError, experiment_spec, flip_byte

SHARD_HEADER_BYTES = 64
DISK_BYTES = 16 << 20


class DamageTest(cluster.ClusterTest):
    def assert_failed_for_good(self, run_id, *words):
        run = self.cluster.wait_state(run_id, "FAILED")
        self.assertEqual(run["attempt"], 1, "a retry cannot mend it")
        for word in words:
            self.assertIn(word, run["reason"])

    def test_a_flipped_byte_in_a_shard_is_named_with_file_and_block(self):
        folder = self.cluster.prepare_dataset("damaged")
        shard = json.loads((folder / "manifest.json").read_text())["splits"]["train"]["shards"][0]["file"]
        flip_byte(folder / shard, SHARD_HEADER_BYTES + 1001)
        [run_id] = self.cluster.submit(experiment_spec("shard", 200, data={"dataset": "damaged"}))
        self.assert_failed_for_good(run_id, shard, "block 0")

    def test_a_truncated_shard_is_named(self):
        folder = self.cluster.prepare_dataset("short")
        shard = folder / json.loads((folder / "manifest.json").read_text())["splits"]["train"]["shards"][0]["file"]
        os.truncate(shard, shard.stat().st_size - 10)
        [run_id] = self.cluster.submit(experiment_spec("short", 10, data={"dataset": "short"}))
        self.assert_failed_for_good(run_id, shard.name)

    def test_a_missing_dataset_is_named(self):
        [run_id] = self.cluster.submit(experiment_spec("missing", 10, data={"dataset": "nowhere"}))
        self.assert_failed_for_good(run_id, "nowhere")

    def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(self):
        spec = experiment_spec("checkpoint", 300, slow=True, report={"checkpoint_every_steps": 50})
        [unbroken] = self.cluster.submit(spec)
        self.cluster.wait_state(unbroken, "SUCCEEDED")

        [run_id] = self.cluster.submit(dict(spec, name="damaged checkpoint"))
        self.cluster.wait_step(run_id, 120)
        self.cluster.cli("cancel", run_id)
        newest = self.cluster.wait_state(run_id, "CANCELLED")["progress"]["checkpoint"]
        weights = self.cluster.checkpoint_root / run_id / newest["name"] / "model.safetensors"
        flip_byte(weights, weights.stat().st_size - 100)
        self.cluster.cli("requeue", run_id)
        self.cluster.wait_state(run_id, "SUCCEEDED")

        log = "\n".join(self.cluster.logs(run_id))
        self.assertIn(newest["name"], log, "the log says which one was passed over")
        history = self.assert_whole_history(run_id, 300)
        resumed = next(entry for entry in history if entry["attempt"] == 2)
        self.assertLessEqual(int(resumed["step"]), int(newest["step"]), "it began at an older one")
        self.assertGreater(int(resumed["step"]), 1, "and not from the beginning")
        self.assertEqual(self.cluster.weights_digest(run_id), self.cluster.weights_digest(unbroken))


class TakenPlaceTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster()
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.start(num_workers=0)

    def run_coordinator(self, folder, listen="127.0.0.1:0", http="127.0.0.1:0"):
        argv = [cluster.BIN / "normlab-coordinator", "--data", folder, "--listen", listen, "--http", http]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30)

    def test_a_port_in_use_is_named(self):
        for option in ("listen", "http"):
            with self.subTest(option):
                taken = self.cluster.grpc if option == "listen" else self.cluster.http
                done = self.run_coordinator(self.cluster.root / f"other-{option}", **{option: taken})
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(taken, done.stderr)

    def test_a_second_coordinator_on_the_same_folder_is_refused_and_harms_nothing(self):
        before = (self.cluster.coordinator_folder / "address.json").read_text()
        done = self.run_coordinator(self.cluster.coordinator_folder)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(str(self.cluster.coordinator_folder), done.stderr)
        self.assertEqual((self.cluster.coordinator_folder / "address.json").read_text(), before)
        self.assertEqual(self.cluster.rpc("grpc.health.v1.Health/Check", {})["status"], "SERVING")

    def test_a_worker_with_a_port_in_use_says_so(self):
        argv = self.cluster.worker_argv("taken")
        argv[argv.index("--metrics") + 1] = self.cluster.http
        done = subprocess.run([str(argument) for argument in argv], capture_output=True, text=True, timeout=30)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(self.cluster.http, done.stderr)

    def test_a_client_without_a_coordinator_says_which_address_it_tried(self):
        alone = Cluster()
        self.addCleanup(alone.stop)
        alone.grpc = "127.0.0.1:1"
        done = alone.cli("list", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("127.0.0.1:1", done.stderr)


class FullDiskTest(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster()
        self.addCleanup(self.cluster.stop)
        self.disk = self.cluster.coordinator_folder
        # A mount namespace of this process and its children: whatever ends the test, the disk ends with it.
        clone_newns = 0x00020000
        if ctypes.CDLL(None).unshare(clone_newns) != 0:
            self.skipTest("no right to mount a small disk")
        for mount in (["mount", "--make-rprivate", "/"],
                      ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "normlab-test", self.disk]):
            mounted = subprocess.run(mount, capture_output=True, text=True)
            if mounted.returncode != 0:
                self.skipTest(f"cannot mount a small disk: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "--lazy", self.disk], check=True)

    def test_a_full_disk_is_said_clearly_and_loses_nothing_acknowledged(self):
        self.cluster.start(num_workers=0)
        acknowledged = {}
        for number in range(5):
            self.submit(f"early {number}", acknowledged)
        self.fill_disk()
        error = None
        for number in range(10_000):
            try:
                self.submit(f"late {number}", acknowledged)
            except RpcError as failed:
                error = failed
                break
        self.assertIsNotNone(error, "a full disk refuses submits in the end")
        self.assertRegex(error.message + self.cluster.coordinator.log(), r"(?i)no space left")

        (self.disk / "ballast").unlink()
        if self.cluster.coordinator.is_alive():
            self.cluster.coordinator.stop()
        self.cluster.coordinator.process.wait(30)
        self.cluster.start_coordinator()
        stored = {experiment["id"]: experiment["spec"]["name"] for experiment in self.cluster.experiments()}
        for name, run_id in acknowledged.items():
            self.assertEqual(stored.get(run_id.partition(".")[0]), name)
            self.assertEqual(self.cluster.run(run_id)["state"], "QUEUED")
        self.submit("afterwards", acknowledged)

    def submit(self, name, acknowledged):
        answer = self.cluster.rpc("ExperimentService/CreateExperiment",
                                  {"spec": experiment_spec(name, matrix={"seed": list(range(200))}),
                                   "request_id": name.replace(" ", "-"), "owner": "x"})
        acknowledged[name] = answer["run_ids"][0]

    def fill_disk(self):
        """Leaves no free byte beside what the coordinator holds."""
        with open(self.disk / "ballast", "wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(65536))
            except OSError:
                pass


if __name__ == "__main__":
    unittest.main()
