"""What was measured against what was wanted, and on which machine; as a table, JSON and markdown."""

import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from nfphasing_bluesky import __version__
from nfphasing_bluesky.training.calibration import hardware


@dataclass(frozen=True)
class Figure:
    """One measured value.

    Args:
        name: what was measured.
        value: in `unit`.
        unit: for people.
        target: that the value must not exceed, or must reach; None for a figure without one.
        better: which side of the target is the good one.
        detail: how it was measured.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one. NaN reaches nothing."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target

    def cells(self) -> tuple[str, str, str, str, str]:
        """Name, target, value, met, detail."""
        sign = "≤" if self.better == "lower" else "≥"
        target = "" if self.target is None else f"{sign} {self.target:g} {self.unit}"
        met = {True: "yes", False: "no", None: ""}[self.met]
        return self.name, target, f"{self.value:.4g} {self.unit}", met, self.detail


HEADINGS = ("figure", "target", "measured", "met", "how")


def machine() -> dict[str, str | int | float]:
    """What the figures were measured on, and how busy it was when they began."""
    return {
        "hardware": hardware(),
        "cores": os.cpu_count() or 0,
        "torch_threads": torch.get_num_threads(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nfphasing_bluesky": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def describe(where: dict[str, str | int | float]) -> str:
    """One line about the machine; says when other work was disturbing the figures."""
    line = f"{where['hardware']}; {where['cores']} cores, torch {where['torch']}, {where['date']}"
    load = where["load_average_before"]
    return line + (f"; load average {load} before: not an idle machine" if float(load) > 0.5 else "")


def show(figures: list[Figure], where: dict[str, str | int | float], console: Console) -> None:
    """Print one table."""
    table = Table(title="benchmarks", caption=describe(where))
    for heading in HEADINGS:
        table.add_column(heading)
    for figure in figures:
        table.add_row(*figure.cells())
    console.print(table)


def write(figures: list[Figure], where: dict[str, str | int | float], folder: Path) -> tuple[Path, Path]:
    """Write `bench.json` and `bench.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**vars(f), "value": f.value if f.value == f.value else None, "met": f.met} for f in figures]
    as_json = folder / "bench.json"
    as_json.write_text(json.dumps({"machine": where, "figures": rows}, indent=1, allow_nan=False) + "\n")
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(f.cells() for f in figures)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    as_markdown = folder / "bench.md"
    as_markdown.write_text(f"{table}\n\n{describe(where)}\n")
    return as_json, as_markdown
