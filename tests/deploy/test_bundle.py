"""The archive of ./dev bundle: made, unpacked in an empty folder, and run with an empty environment."""

import json
import os
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from training_runs import make_spec, write_dataset  # noqa: E402

BUILD, SITE = os.environ.get("NORMLAB_BUILD"), os.environ.get("NORMLAB_TORCH_SITE")


@unittest.skipUnless(BUILD and SITE, "this build has no trainer")
class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        made = subprocess.run([ROOT / "deploy/bundle/make", BUILD, SITE, "1"], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise AssertionError(made.stdout + made.stderr)
        cls.archive = Path(made.stdout.strip())
        cls.addClassCleanup(cls.archive.unlink)
        subprocess.run(["tar", "--zstd", "-xf", cls.archive, "-C", cls.folder.name], check=True)
        (cls.bundle,) = Path(cls.folder.name).iterdir()

    def run_in_nothing(self, *command, **environment):
        """Runs a program of the bundle with no other environment than what is given."""
        return subprocess.run([self.bundle / "bin" / command[0], *command[1:]], env=environment, cwd="/", capture_output=True,
                              text=True, check=False, timeout=120)

    def test_every_program_starts_from_another_folder(self):
        for program in ("normlab", "normlab-coordinator", "normlab-worker", "normlab-train", "normlab-export", "normlab-analyze"):
            with self.subTest(program=program):
                done = self.run_in_nothing(program, "--help", NORMLAB_TORCH_SITE=SITE)
                self.assertEqual(0, done.returncode, done.stderr)

    def test_a_run_trains_beside_an_installed_torch(self):
        folder = Path(self.folder.name) / "run"
        (folder / "data").mkdir(parents=True)
        write_dataset(folder / "data", 128, 4096, seed=1)
        shape = types.SimpleNamespace(layers=2, hidden=16, heads=2, ffn_hidden=32, seq_len=16, batch_size=2, threads=1)
        spec = make_spec(shape, folder, "checkpoints", steps=3, layers_every_steps=1)
        done = self.run_in_nothing("normlab-train", "--spec", spec, NORMLAB_TORCH_SITE=SITE)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(3, lines[-1]["finished"]["step"])

    def test_it_takes_no_library_from_where_it_was_built(self):
        for file in [*(self.bundle / "bin").iterdir(), *(self.bundle / "libexec").iterdir()]:
            if file.read_bytes()[:4] != b"\x7fELF":
                continue
            listed = subprocess.run(["ldd", file], env={"LD_LIBRARY_PATH": f"{SITE}/torch/lib"}, capture_output=True, text=True, check=True)
            self.assertNotIn("not found", listed.stdout)
            self.assertNotIn(str(Path(BUILD)), listed.stdout.replace(str(self.bundle), ""))

    def test_another_version_of_torch_is_refused_with_both_numbers(self):
        site = Path(self.folder.name) / "other"
        (site / "torch").mkdir(parents=True)
        (site / "torch/version.py").write_text("__version__ = '2.10.0+cu128'\n")
        done = self.run_in_nothing("normlab-train", "--version", NORMLAB_TORCH_SITE=str(site))
        self.assertEqual(2, done.returncode)
        self.assertIn("torch 2.10.0", done.stderr)
        self.assertIn("built for 2.11.0", done.stderr)

    def test_it_says_what_to_do_where_there_is_no_torch(self):
        done = self.run_in_nothing("normlab-train", "--version", PATH="/usr/bin:/bin", NORMLAB_TORCH_SITE="/no/such/folder")
        self.assertEqual(2, done.returncode)
        self.assertIn("there is no torch in /no/such/folder/torch", done.stderr)

    def test_the_first_start_links_the_torch_of_python(self):
        python = Path(self.folder.name) / "python"
        python.mkdir()
        (python / "python3").write_text(f"#!/bin/sh\necho {SITE}/torch\n")
        (python / "python3").chmod(0o755)
        link = self.bundle / "torch"
        for _ in range(2):  # Makes the link, then goes by it.
            done = self.run_in_nothing("normlab-train", "--version", PATH=f"{python}:/usr/bin:/bin")
            self.assertEqual(0, done.returncode, done.stderr)
            self.assertEqual(Path(SITE).resolve() / "torch", link.resolve())
        link.unlink()


if __name__ == "__main__":
    unittest.main()
