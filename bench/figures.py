"""How every Python benchmark prints and stores what it measured: `NAME VALUE UNIT (min..max, n)`."""

import json
import os
import platform
import statistics
from dataclasses import dataclass


@dataclass
class Figure:
    """One measured quantity: its samples, quoted by their median."""

    name: str
    unit: str
    samples: list

    @property
    def median(self):
        return statistics.median(self.samples)

    def __str__(self):
        low, high = min(self.samples), max(self.samples)
        return f"{self.name:<34} {self.median:>10.4g} {self.unit:<10} ({low:.4g}..{high:.4g}, n={len(self.samples)})"


def machine():
    """Processor, cores and kernel of this machine, for whoever compares two files."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "kernel": platform.release()}


def report(figures, peer, versions, settings, json_path=None):
    """Prints all figures and, with `json_path`, writes them beside peer, versions, settings and machine."""
    for figure in figures:
        print(figure)
    if json_path:
        document = {
            "peer": peer,
            "versions": versions,
            "settings": settings,
            "machine": machine(),
            "figures": [
                {"name": f.name, "unit": f.unit, "median": f.median, "min": min(f.samples), "max": max(f.samples),
                 "samples": f.samples}
                for f in figures
            ],
        }
        with open(json_path, "w", encoding="utf-8") as out:
            json.dump(document, out, indent=2)
            out.write("\n")
