import re
import unittest

import source_tree

FIELD = re.compile(r"^\s*(optional |repeated )?([\w.]+|map<[^>]+>) \w+ = \d+( \[.*)?;?\s*$")
RPC = re.compile(r"^\s*rpc \w+\(")


def uncommented(source):
    """Fields and rpcs without words of their own: in the line, or above with at most other fields between.

    Members of a oneof that are messages say what they are in that message.
    """
    found, has_comment, in_oneof = [], False, False
    for number, line in enumerate(source.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("//"):
            has_comment = True
        elif stripped.startswith("oneof "):
            in_oneof = True
        elif stripped == "}":
            in_oneof = has_comment = False
        elif FIELD.match(line) or RPC.match(line):
            type_name = stripped.split()[0]
            if not has_comment and not (in_oneof and type_name[0].isupper()) and "//" not in line:
                found.append((number, stripped))
        elif not stripped or stripped.endswith("{"):
            has_comment = False
    return found


class Contract(unittest.TestCase):
    def test_every_field_and_rpc_has_a_comment(self):
        found = []
        for path in source_tree.files(".proto", rooms=("proto",)):
            found += [f"{path}:{number}: {line}" for number, line in uncommented(source_tree.text(path))]
        self.assertFalse(found, "\n" + "\n".join(found))

    def test_a_planted_field_without_comment_is_found(self):
        source = "message A {\n  // One.\n  int32 one = 1;\n\n  int32 two = 2;\n}\nmessage B {\n  string three = 1;\n}\n"
        self.assertEqual([5, 8], [number for number, _ in uncommented(source)])


if __name__ == "__main__":
    unittest.main()
