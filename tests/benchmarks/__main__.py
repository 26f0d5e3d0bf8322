"""The figures beside their targets: `python -m tests.benchmarks --output DIR [--quick] [--only NAME...]`."""

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from nfphasing_bluesky.core import keep_freed_memory
from tests.benchmarks import (
    absorption,
    adaptive,
    films,
    galaxi,
    gisaxs,
    holography,
    images,
    inference,
    known_scans,
    large_frames,
    live,
    near_field,
    ptychography,
    scans,
    storing,
)
from tests.benchmarks.figures import Figure, machine, show, write

THREADS = 2


def measurements(quick: bool) -> dict[str, Callable[[], list[Figure]]]:
    """Name -> what to run, in this order; quick ones are noisier."""
    calls, few = (10, 3) if quick else (50, 10)
    scan, stored = (100, 256) if quick else (300, 1024)
    return {
        "one curve": lambda: inference.one_curve(calls),
        "batch of 64": lambda: inference.batches(few),
        "bumps DREAM": lambda: inference.against_dream(calls),
        "callback": lambda: scans.callback_cost(scan),
        "derived runs": lambda: storing.derived_runs(stored),
        "worker memory": lambda: scans.worker_memory(300),
        "wire": lambda: scans.wire_rate((500,), 2_000 if quick else 20_000),
        "live": lambda: live.sustained(10 if quick else 60),
        "latency": lambda: live.latency(10 if quick else 60),
        "storing images": lambda: live.storing(640 if quick else 6400),
        "ledgers": lambda: live.ledgers(100 if quick else 1000),
        "endurance": lambda: live.endurance(60 if quick else 300),
        "images": lambda: images.speed(1 if quick else 3),
        "hotopy": lambda: holography.against_hotopy("holography", *((60, 30) if quick else (500, 100))),
        "large frames": lambda: large_frames.large_hologram(512 if quick else large_frames.SIDE),
        "own absorption": lambda: absorption.own_absorption(20 if quick else 60),
        "ptychography": lambda: ptychography.against_others("ptychography", quick),
        "known scans": lambda: known_scans.against_truth(
            "ptychography", {128: 4, 256: 1} if quick else {128: 12, 256: 6}
        ),
        "near-field": lambda: near_field.against_cdtools("ptychography", quick),
        "films": lambda: films.against_dream(1 if quick else 2),
        "gisaxs": lambda: gisaxs.against_bornagain(few),
        "galaxi": galaxi.against_example,
        "points saved": lambda: adaptive.points_saved(adaptive.QUANTITIES, 1),
        "device": lambda: inference.device_rates(few),
    }


def main(arguments: list[str]) -> int:
    """Measure, print one table, write `bench.json` and `bench.md`; 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of bench.json and bench.md")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--threads", type=int, default=THREADS, help="of torch in this process")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the measurements")
    chosen = parser.parse_args(arguments)
    todo = measurements(chosen.quick)
    unknown = set(chosen.only or ()) - set(todo)
    if unknown:
        parser.error(f"unknown measurement {sorted(unknown)}, expected some of {sorted(todo)}")
    # Third-party packages announce deprecations of theirs; they are not what is looked at here.
    warnings.simplefilter("ignore")
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    where, progress = machine(), Console(stderr=True)
    figures: list[Figure] = []
    failed, paths = False, ()
    for name, measure in todo.items():
        if chosen.only and name not in chosen.only:
            continue
        progress.print(f"measuring: {name}")
        try:
            figures += measure()
        except Exception as error:  # the other figures are worth having
            failed = True
            figures.append(Figure(name, math.nan, "", 0.0, detail=f"{type(error).__name__}: {error}"))
            progress.print_exception()
        paths = write(figures, where, chosen.output)
    show(figures, where, Console())
    progress.print(*paths, soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
