"""The CUDA kernels on a GPU: their numbers, and that no two of their threads race."""

import os
import shutil
import subprocess
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("NORMLAB_BUILD", Path(__file__).resolve().parents[2] / "build/cuda"))
TEST = BUILD / "tests/trainer_ops_test"
SKIPPED = "[  SKIPPED ]"


def sanitizer():
    """compute-sanitizer, which comes with NVIDIA's toolkit and not with the wheels."""
    return shutil.which("compute-sanitizer") or next(
        (path for path in ("/usr/local/cuda/bin/compute-sanitizer",) if os.access(path, os.X_OK)), None)


class Kernels(unittest.TestCase):
    def run_tests(self, *before, tests="*Gpu*"):
        run = subprocess.run([*before, str(TEST), f"--gtest_filter={tests}"], capture_output=True, text=True)
        self.assertEqual(0, run.returncode, run.stdout + run.stderr)
        if SKIPPED in run.stdout:
            self.skipTest(next(line for line in run.stdout.splitlines() if line.startswith(("no GPU", "no kernels"))))
        return run

    def test_every_operator_equals_its_reference_in_float64(self):
        self.run_tests()

    def test_no_two_threads_of_a_block_race(self):
        tool = sanitizer()
        if tool is None:
            self.skipTest("compute-sanitizer is not installed: it comes with NVIDIA's CUDA toolkit 13")
        for check in ("racecheck", "synccheck", "memcheck"):
            with self.subTest(check=check):
                self.run_tests(tool, "--tool", check, "--error-exitcode", "9", "--kernel-name", "kernel_substring=normlab")


if __name__ == "__main__":
    unittest.main()
