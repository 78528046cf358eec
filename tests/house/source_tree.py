"""The files of the house, as the tests here read them."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("proto", "common", "coordinator", "worker", "cli", "tests", "bench", "cmake", "docs", "examples", "deploy", "dashboards")
CPP = (".h", ".cc", ".cu")


def files(*suffixes, rooms=ROOMS):
    """Paths relative to the root, of all rooms, with one of the suffixes (any, if none is given)."""
    found = []
    for room in rooms:
        for folder, subfolders, names in os.walk(ROOT / room):
            subfolders[:] = [name for name in subfolders if name != "__pycache__"]
            paths = (Path(folder, name).relative_to(ROOT) for name in names)
            found += [path for path in paths if not suffixes or path.suffix in suffixes]
    return sorted(found)


def text(path):
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")
