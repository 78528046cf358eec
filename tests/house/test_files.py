import re
import unittest

import source_tree

LINES_MAX = 600
# A path of somebody's machine; what a test makes lies below a temporary folder that it asks for.
MACHINE_PATH = re.compile(r"(?<![\w./$}-])/(home|root|Users|work)/\w")
TEXT = source_tree.CPP + (".proto", ".py", ".md", ".txt", ".cmake", ".yaml", ".yml", ".json", "")


class Files(unittest.TestCase):
    def test_no_source_file_is_longer_than_the_limit(self):
        long = []
        for path in source_tree.files(*source_tree.CPP, ".py", ".proto"):
            lines = source_tree.text(path).count("\n")
            if lines > LINES_MAX:
                long.append(f"{path}: {lines} lines, at most {LINES_MAX}: which second thing does it do?")
        self.assertFalse(long, "\n" + "\n".join(long))

    def test_every_header_is_read_once(self):
        bare = [str(path) for path in source_tree.files(".h") if "#pragma once" not in source_tree.text(path)]
        self.assertEqual([], bare)

    def test_no_file_names_a_path_of_one_machine(self):
        found = []
        for path in source_tree.files(*TEXT):
            for number, line in enumerate(source_tree.text(path).splitlines(), start=1):
                if MACHINE_PATH.search(line):
                    found.append(f"{path}:{number}: {line.strip()}")
        self.assertFalse(found, "\n" + "\n".join(found))

    def test_links_between_pages_lead_somewhere(self):
        broken = []
        pages = [path.relative_to(source_tree.ROOT) for path in source_tree.ROOT.glob("*.md")]
        for page in pages + source_tree.files(".md", rooms=("docs", "examples")):
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", source_tree.text(page)):
                if "://" not in target and not (source_tree.ROOT / page.parent / target).exists():
                    broken.append(f"{page}: {target}")
        self.assertEqual([], broken)


if __name__ == "__main__":
    unittest.main()
