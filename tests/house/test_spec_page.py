import unittest

import source_tree
import spec_page


class SpecPage(unittest.TestCase):
    def test_the_page_says_what_the_contract_says(self):
        page = source_tree.text(spec_page.PAGE)
        self.assertEqual(spec_page.replace(page, spec_page.render()), page, "run python3 tests/house/spec_page.py")

    def test_a_rule_reads_as_words(self):
        self.assertEqual("default `0.02`; above 0, at most 10", spec_page.rule_text("number: 0.02 above: 0 max: 10", "double"))
        self.assertEqual("default true", spec_page.rule_text("number: 1", "bool"))
        self.assertEqual("default `a`; one of `a`, `b`", spec_page.rule_text('text: "a" one_of: ["a", "b"]', "string"))
        self.assertEqual("required; 1 to 8", spec_page.rule_text("required: true min: 1 max: 8", "int32"))


if __name__ == "__main__":
    unittest.main()
