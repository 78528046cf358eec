"""normlab-train on a GPU: its losses, its checkpoints, its memory. ./dev test-gpu runs it."""

import json
import os
import re
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from training_runs import make_spec, write_dataset  # noqa: E402

TRAINER = Path(os.environ.get("NORMLAB_BUILD", ROOT / "build/cuda")) / "bin/normlab-train"


def probe(**environment):
    if not TRAINER.exists():
        return {"device": "cpu", "lacks": f"{TRAINER} is missing"}
    done = subprocess.run([TRAINER, "--probe-device"], env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


FOUND = probe()
# ./dev test-gpu runs only where a GPU is: there a trainer that cannot use it is a failure, not a reason to skip.
HAS_GPU = FOUND["device"] == "cuda" or os.path.exists("/dev/nvidiactl")


@unittest.skipUnless(HAS_GPU, FOUND["lacks"])
class Training(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        (self.folder / "data").mkdir()
        write_dataset(self.folder / "data", 512, 1 << 16, seed=1)

    def spec(self, name, device="cuda", steps=20, shape=None, **train):
        shape = shape or types.SimpleNamespace(layers=4, hidden=128, heads=4, ffn_hidden=352, seq_len=64, batch_size=8, threads=2)
        path = make_spec(shape, self.folder, name, steps=steps, layers_every_steps=5)
        document = json.loads(path.read_text())
        document["device"] = device
        document["run"]["train"] |= train
        path.write_text(json.dumps(document))
        return path

    def run_trainer(self, spec, status=0, **environment):
        done = subprocess.run([TRAINER, "--spec", spec], env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        self.assertEqual(status, done.returncode, done.stdout[-2000:] + done.stderr[-2000:])
        return [json.loads(line) for line in done.stdout.splitlines()]

    @staticmethod
    def losses(lines):
        return [line["step"]["loss"] for line in lines if "step" in line]

    def test_the_trainer_can_use_this_gpu_with_its_kernels(self):
        self.assertEqual(("cuda", "", ""), (FOUND["device"], FOUND["lacks"], FOUND.get("kernels_lack")))

    def test_losses_in_float32_are_those_of_the_cpu(self):
        on_gpu, on_cpu = (self.losses(self.run_trainer(self.spec(device, device))) for device in ("cuda", "cpu"))
        for step, (ours, theirs) in enumerate(zip(on_gpu, on_cpu), start=1):
            self.assertAlmostEqual(theirs, ours, delta=2e-3, msg=f"update {step}")

    def test_losses_in_bfloat16_are_near_those_of_the_cpu(self):
        for param_dtype in ("fp32_master", "bf16_pure"):
            with self.subTest(param_dtype=param_dtype):
                on_gpu, on_cpu = (self.losses(self.run_trainer(self.spec(f"{device}-{param_dtype}", device, param_dtype=param_dtype)))
                                  for device in ("cuda", "cpu"))
                for step, (ours, theirs) in enumerate(zip(on_gpu, on_cpu), start=1):
                    self.assertAlmostEqual(theirs, ours, delta=0.03, msg=f"update {step}")

    def test_layer_statistics_are_near_those_of_the_cpu(self):
        on_gpu, on_cpu = ([line["layers"]["layers"] for line in self.run_trainer(self.spec(f"layers-{device}", device)) if "layers" in line]
                          for device in ("cuda", "cpu"))
        for ours, theirs in zip(on_gpu[-1], on_cpu[-1]):
            for key in ("output_variance", "attention_variance", "ffn_variance", "grad_norm"):
                self.assertAlmostEqual(1, ours[key] / theirs[key], delta=0.02, msg=f"layer {ours['layer']} {key}")

    def test_two_runs_and_a_resumed_one_have_the_same_bits(self):
        whole = self.losses(self.run_trainer(self.spec("whole", param_dtype="fp32_master")))
        self.assertEqual(whole, self.losses(self.run_trainer(self.spec("again", param_dtype="fp32_master"))))
        path = self.spec("parts", param_dtype="fp32_master")
        document = json.loads(path.read_text())
        document["run"]["report"]["checkpoint_every_steps"] = 10
        path.write_text(json.dumps(document))
        process = subprocess.Popen([TRAINER, "--spec", path], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if "checkpoint" in json.loads(line):
                process.kill()
                break
        process.communicate()
        rest = self.losses(self.run_trainer(path))
        self.assertEqual(whole[-len(rest):], rest)

    def test_the_estimate_of_memory_is_near_the_peak(self):
        shape = types.SimpleNamespace(layers=12, hidden=768, heads=12, ffn_hidden=2048, seq_len=256, batch_size=64, threads=2)
        lines = self.run_trainer(self.spec("memory", steps=3, shape=shape, param_dtype="fp32_master"))
        text = "\n".join(line["log"]["text"] for line in lines if "log" in line)
        estimated, used = (float(re.search(pattern, text).group(1)) for pattern in (r"about ([\d.]+) GB", r"at most ([\d.]+) GB"))
        # What CUDA takes for itself is in the estimate, and not in what LibTorch allocates.
        self.assertGreater(estimated, used)
        self.assertLess(estimated, 1.5 * used + 1.1)

    def test_a_model_that_cannot_fit_is_refused_before_it_is_made(self):
        shape = types.SimpleNamespace(layers=96, hidden=12288, heads=96, ffn_hidden=32768, seq_len=256, batch_size=8, threads=2)
        failed = self.run_trainer(self.spec("large", shape=shape, param_dtype="fp32_master"), status=1)[-1]["failed"]
        self.assertFalse(failed.get("retryable", False))
        self.assertRegex(failed["message"], r"needs about [\d.]+ GB of memory, .* has [\d.]+ GB")

    @unittest.skipUnless(HAS_GPU and probe(CUDA_VISIBLE_DEVICES="1")["device"] == "cuda", "one GPU alone: NCCL joins no two ranks on it")
    def test_a_gang_over_nccl_has_the_losses_of_one_process(self):
        alone = self.losses(self.run_trainer(self.spec("alone", batch_size=8)))
        documents = []
        for rank in (0, 1):
            path = self.spec(f"rank-{rank}", batch_size=8)
            document = json.loads(path.read_text()) | {"rank": rank, "world_size": 2, "checkpoint_dir": str(self.folder / "gang")}
            documents.append((path, document))
        documents[0][0].write_text(json.dumps(documents[0][1]))
        first = subprocess.Popen([TRAINER, "--spec", documents[0][0]], env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"},
                                 stdout=subprocess.PIPE, text=True)
        lines = []
        for line in first.stdout:
            lines.append(json.loads(line))
            if "rendezvous_open" in lines[-1]:
                documents[1][1]["rendezvous"] = lines[-1]["rendezvous_open"]["address"]
                documents[1][0].write_text(json.dumps(documents[1][1]))
                second = subprocess.Popen([TRAINER, "--spec", documents[1][0]], env={**os.environ, "CUDA_VISIBLE_DEVICES": "1"},
                                          stdout=subprocess.DEVNULL)
        self.assertEqual((0, 0), (first.wait(), second.wait()))
        for ours, theirs in zip(self.losses(lines), alone):
            self.assertAlmostEqual(theirs, ours, delta=2e-3)


if __name__ == "__main__":
    unittest.main()
