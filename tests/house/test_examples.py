import os
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


if __name__ == "__main__":
    unittest.main()
