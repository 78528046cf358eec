"""The tables of docs/spec.md, from the fields, comments and rules in experiment.proto.

    python3 tests/house/spec_page.py      rewrites the part of docs/spec.md between its two marks
"""

import re

import source_tree

PAGE = "docs/spec.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
TYPES = {"int32": "whole number", "int64": "whole number", "double": "number", "string": "text", "bool": "true or false"}
MESSAGES = (("ExperimentSpec", "The file", ""), ("RunSpec", "base", "base."), ("ModelSpec", "base.model", "base.model."),
            ("NormSpec", "base.norm", "base.norm."), ("DataSpec", "base.data", "base.data."),
            ("TrainSpec", "base.train", "base.train."), ("ReportSpec", "base.report", "base.report."),
            ("ResourceSpec", "base.resources", "base.resources."))


def rule_text(rule, kind):
    """`number: 0.02 above: 0` as words."""
    def value(name):
        match = re.search(rf'\b{name}: ("[^"]*"|\[[^\]]*\]|\S+)', rule or "")
        return match and match.group(1).strip('"')

    words = []
    if value("required"):
        words.append("required")
    default = value("number") if value("text") is None else value("text")
    if default is not None:
        words.append("default " + (("true" if float(default) else "false") if kind == "bool" else f"`{default}`"))
    if value("one_of"):
        words.append("one of " + ", ".join(f"`{choice}`" for choice in re.findall(r'"(\w+)"', value("one_of"))))
    low, high, above = value("min"), value("max"), value("above")
    if low is not None and high is not None:
        words.append(f"{low} to {high}")
    elif above is not None:
        words.append(f"above {above}" + (f", at most {high}" if high is not None else ""))
    if value("size_max"):
        words.append(f"at most {value('size_max')} " + ("bytes" if kind == "string" else "entries"))
    if value("relative_path"):
        words.append("a relative path that stays below its root")
    return "; ".join(words)


def fields_of(message, proto):
    """(name, type, rule, comment) of each field, in order."""
    body = re.search(rf"^message {message} {{\n(.*?)^}}", proto, re.MULTILINE | re.DOTALL).group(1)
    comment = []
    for line in body.splitlines():
        if line.strip().startswith("//"):
            comment.append(line.strip()[2:].strip())
            continue
        match = re.match(r"\s*(?:optional )?(map<.*?>|\w+) (\w+) = \d+(?: \[\(rule\) = \{(.*)\}\])?;", line)
        if match:
            yield match.group(2), match.group(1), match.group(3), " ".join(comment)
        comment = []


def render():
    proto = source_tree.text("proto/normlab/v1/experiment.proto")
    parts = []
    for message, title, prefix in MESSAGES:
        parts += [f"### {title}", "", "| key | holds | rule | meaning |", "|---|---|---|---|"]
        for name, kind, rule, comment in fields_of(message, proto):
            holds = TYPES.get(kind) or ("map of lists" if "ListValue" in kind else "map of texts" if kind.startswith("map") else "keys below")
            parts.append(f"| `{prefix}{name}` | {holds} | {rule_text(rule, kind)} | {comment} |")
        parts.append("")
    return "\n".join(parts)


def replace(page, tables):
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{tables}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = source_tree.ROOT / PAGE
    path.write_text(replace(path.read_text(encoding="utf-8"), render()), encoding="utf-8")
