"""docs/metrics.md from the files that declare metric families: name, type and meaning (the family's help).

`python3 tests/house/metrics_page.py` rewrites the rows of its tables. By hand are kept: the labels, the place of a row, and what
a cell says behind the meaning; a new family is put at the end of the section that its name belongs to.
"""

import re

import source_tree

PAGE = "docs/metrics.md"
# A family's name begins with one of these below the heading; the last section has the rest.
SECTIONS = (("## Of runs", ("normlab_layer_", "normlab_train_", "normlab_eval_", "normlab_checkpoint_", "normlab_variance_",
                            "normlab_gradient_")),
            ("## Of workers", ("normlab_worker_", "normlab_disk_")), ("## Of the coordinator", ("normlab_",)))
_LITERAL = r'"((?:[^"\\]|\\.)*)"'
_FAMILY = re.compile(r'(\w*)\(?[^"(]*"(normlab_[a-z0-9_]+)"\)?[^"]*?' + _LITERAL + r"((?:\s*" + _LITERAL + r")*)")
_ROW = re.compile(r"^\| `(normlab_[a-z0-9_]+)` \|.*\|$", re.MULTILINE)


def families():
    """Name to (type, meaning) of every family in the files that declare them."""
    found = {}
    for path in source_tree.files(*source_tree.CPP, rooms=("common", "coordinator/metrics", "worker/agent")):
        if "metrics" not in path.name or path.name.endswith("_test.cc"):
            continue
        text = source_tree.text(path)
        for match in _FAMILY.finditer(text):
            parts = [match.group(3), *re.findall(_LITERAL, match.group(4))]
            meaning = "".join(parts).replace('\\"', '"')
            is_histogram = "Histogram" in text[max(0, match.start() - 40):match.end(1)]
            kind = "histogram" if is_histogram else "counter" if match.group(2).endswith("_total") else "gauge"
            found[match.group(2)] = (kind, meaning)
    return found


def _row(name, kind, meaning, labels):
    labels = "" if labels is None else f" {labels} |" if labels else " |"
    return f"| `{name}` | {kind} |{labels} {meaning} |"


def render(page):
    """The page with its rows as the families say."""
    known = families()

    def rewritten(match):
        cells = [cell.strip() for cell in match.group(0).strip("|").split(" |")]
        name = match.group(1)
        if name not in known:
            return ""
        kind, meaning = known[name]
        own = cells[-1][len(meaning):] if cells[-1].startswith(meaning) else ""
        return _row(name, kind, meaning + own, cells[2] if len(cells) == 4 else None)

    page = re.sub(r"\n{3,}", "\n\n", _ROW.sub(rewritten, page))
    listed = set(_ROW.findall(page))
    for name in sorted(set(known) - listed):
        heading = next(heading for heading, prefixes in SECTIONS if name.startswith(prefixes))
        start = page.index(heading)
        last = [row for row in _ROW.finditer(page, start) if row.end() < (page.find("\n## ", start + 1) + 1 or len(page))][-1]
        labels = None if heading == SECTIONS[0][0] else ""
        page = page[:last.end()] + "\n" + _row(name, *known[name], labels) + page[last.end():]
    return page


if __name__ == "__main__":
    path = source_tree.ROOT / PAGE
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
