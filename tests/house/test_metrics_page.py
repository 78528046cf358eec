import unittest

import metrics_page
import source_tree


class MetricsPage(unittest.TestCase):
    def test_the_page_says_of_every_family_what_its_declaration_says(self):
        page = source_tree.text(metrics_page.PAGE)
        self.assertEqual(metrics_page.render(page), page, "run python3 tests/house/metrics_page.py")

    def test_families_have_types_and_meanings(self):
        families = metrics_page.families()
        self.assertEqual("histogram", families["normlab_commit_seconds"][0])
        self.assertEqual("counter", families["normlab_train_tokens_total"][0])
        self.assertEqual(("gauge", "Rate to which RocksDB slows writes; 0: not slowed."),
                         families["normlab_store_delayed_write_bytes_per_second"])
        for name, (_, meaning) in families.items():
            self.assertRegex(meaning, r"^[A-Za-z0-9'].*\.$", name)


if __name__ == "__main__":
    unittest.main()
