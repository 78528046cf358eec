import re
import unittest

import source_tree


class SchemesPage(unittest.TestCase):
    def test_the_page_has_each_row_of_the_table_with_its_source(self):
        page = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", source_tree.text("docs/schemes.md"), re.MULTILINE))
        table = source_tree.text("common/norm_scheme.h").split("kNormSchemes[] = {", 1)[1].split("\n};", 1)[0]
        rows = re.findall(r'\.name = "(\w+)",\s*\.source = "([^"]*)"', table)
        self.assertEqual([name for name, _ in rows] + ["custom"], list(page))
        for name, source in rows:
            paper = re.search(r"arXiv:\d+\.\d+|\w+/\w+", source).group()
            self.assertIn(paper, page[name], f"{name}: the table says {source}")


if __name__ == "__main__":
    unittest.main()
