import re
import unittest

import source_tree


def declared():
    """Names of the metric families in the files that declare them."""
    sources = [path for path in source_tree.files(*source_tree.CPP, rooms=("common", "coordinator/metrics", "worker/agent"))
               if "metrics" in path.name or path.parts[:2] == ("coordinator", "metrics")]
    names = set()
    for path in sources:
        if not path.name.endswith("_test.cc"):
            names |= set(re.findall(r'"(normlab_[a-z0-9_]+)"', source_tree.text(path)))
    return names


class MetricsPage(unittest.TestCase):
    def test_the_page_lists_exactly_the_declared_families(self):
        listed = re.findall(r"^\| `(normlab_[a-z0-9_]+)`", source_tree.text("docs/metrics.md"), re.MULTILINE)
        self.assertEqual(sorted(set(listed)), sorted(listed), "listed twice")
        self.assertEqual(sorted(declared()), sorted(listed))


if __name__ == "__main__":
    unittest.main()
