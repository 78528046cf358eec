import os
import re
import subprocess
import unittest
from pathlib import Path

import source_tree


@unittest.skipUnless(os.environ.get("NORMLAB_BIN"), "this build has no normlab program")
class Examples(unittest.TestCase):
    def test_every_example_is_a_valid_spec(self):
        for path in source_tree.files(".yaml", rooms=("examples",)):
            with self.subTest(path=str(path)):
                done = subprocess.run([Path(os.environ["NORMLAB_BIN"], "normlab"), "submit", "--dry-run", source_tree.ROOT / path],
                                      capture_output=True, text=True, timeout=30, check=False)
                self.assertEqual(0, done.returncode, done.stdout + done.stderr)

    def test_the_list_of_examples_says_how_many_runs_each_has(self):
        said = dict(re.findall(r"^\| \[[^]]+\]\(([^)]+)\) \|.*\| (\d+) \|$", source_tree.text(Path("examples/README.md")), re.MULTILINE))
        counted = {}
        for path in source_tree.files(".yaml", rooms=("examples",)):
            done = subprocess.run([Path(os.environ["NORMLAB_BIN"], "normlab"), "submit", "--dry-run", source_tree.ROOT / path],
                                  capture_output=True, text=True, timeout=30, check=True)
            counted[path.name] = re.search(r": (\d+) runs?,", done.stdout).group(1)
        self.assertEqual(counted, said)


if __name__ == "__main__":
    unittest.main()
