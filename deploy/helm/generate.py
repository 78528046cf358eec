#!/usr/bin/env python3
"""Writes what the chart holds of other folders, and its README: deploy/helm/generate.py [--check]

Files of a chart must lie inside it, so dashboards and rules are copied from dashboards/ and deploy/prometheus/. The table in
the chart's README comes from the comments in values.yaml. With --check nothing is written; the exit status is 1 if a
committed file is not what this source makes.
"""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
CHART = HERE / "normlab"
ROOT = HERE.parents[1]
BEGIN, END = "<!-- generated: begin -->\n", "<!-- generated: end -->\n"

KEY = re.compile(r"( *)([A-Za-z][\w-]*):(?: (.*))?$")
COMMENT = re.compile(r" *# -- (.*)$")


def values(text):
    """(path, default, meaning) of each commented key of values.yaml, in order. A default of several lines is its key's."""
    rows, path, comment = [], [], None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if match := COMMENT.match(line):
            comment = match[1]
        elif match := KEY.match(line):
            depth = len(match[1]) // 2
            path = path[:depth] + [match[2]]
            if comment is not None:
                default = match[3] or compact(lines, number, len(match[1]))
                rows.append((".".join(path), default, comment))
            comment = None
    return rows


def compact(lines, number, indent):
    """The block below a key on one line."""
    block = []
    for line in lines[number + 1:]:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        if line.strip():
            block.append(line.strip())
    if all(line.startswith("- ") for line in block):
        return "[" + ", ".join(line[2:] for line in block) + "]"
    return "{" + ", ".join(block) + "}"


def table(text):
    escape = lambda cell: cell.replace("|", "\\|")
    rows = [f"| `{path}` | `{escape(default)}` | {escape(meaning)} |\n" for path, default, meaning in values(text)]
    return "| value | default | meaning |\n|---|---|---|\n" + "".join(rows)


def readme():
    text = (CHART / "README.md").read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + table((CHART / "values.yaml").read_text()) + END + tail


def wanted():
    files = {CHART / "files" / "dashboards" / path.name: path.read_text() for path in (ROOT / "dashboards").glob("*.json")}
    for path in files:
        json.loads(files[path])
    for name in ("rules.yml", "alerts.yml"):
        files[CHART / "files" / "prometheus" / name] = (ROOT / "deploy" / "prometheus" / name).read_text()
    files[CHART / "README.md"] = readme()
    return files


def main():
    files = wanted()
    present = set((CHART / "files").rglob("*.*"))
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    stale += [path for path in present if path.is_file() and path not in files]
    names = ", ".join(sorted(str(path.relative_to(ROOT)) for path in stale))
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"not what deploy/helm/generate.py makes, run it: {names}")
        return
    for path in stale:
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
        else:
            path.unlink()


if __name__ == "__main__":
    main()
