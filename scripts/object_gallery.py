"""A contact sheet of random objects, one row a kind, as drawn for training.

    python scripts/object_gallery.py --side 64 --output gallery.png
    python scripts/object_gallery.py --side 256 --columns 6 --bare --output bare.png
    python scripts/object_gallery.py --side 128 --timings

Black is nothing, white the thickest.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from nfphasing_bluesky.physics.objects import KINDS, random_objects


def main() -> None:
    """Draw the sheet and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=64, help="of the frames, px")
    parser.add_argument("--columns", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--bare", action="store_true", help="without texture, window, inversion and blur")
    parser.add_argument("--isolated", type=float, help="share of objects with empty surroundings")
    parser.add_argument("--output", type=Path, default=Path("objects.png"))
    parser.add_argument("--timings", action="store_true", help="print milliseconds an object instead")
    arguments = parser.parse_args()
    if arguments.timings:
        print_timings(arguments.side)
        return
    sheet(arguments).savefig(arguments.output)


def sheet(arguments: argparse.Namespace) -> Figure:
    """One row a kind."""
    names, columns = arguments.kinds, arguments.columns
    inches = max(1.0, arguments.side / 100)
    figure = Figure(figsize=(columns * inches, len(names) * (inches + 0.18)), layout="constrained")
    axes = figure.subplots(len(names), columns, squeeze=False)
    for name, row in zip(names, axes, strict=True):
        maps = drawn(name, arguments)
        row[0].set_title(name, fontsize=7, loc="left", pad=2)
        for axis, image in zip(row, maps, strict=True):
            axis.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
    return figure


def drawn(name: str, arguments: argparse.Namespace) -> torch.Tensor:
    """A row of the sheet, (columns, side, side)."""
    generator = torch.Generator().manual_seed(arguments.seed)
    shape = (arguments.side, arguments.side)
    if arguments.bare:
        return KINDS[name].draw(arguments.columns, shape, generator)
    return random_objects(
        arguments.columns, shape, generator=generator, kinds=[name], isolated=arguments.isolated
    ).maps


def print_timings(side: int, objects: int = 64, repeats: int = 3) -> None:
    """Processor time an object of each kind, bare, and of the whole mixture, on one thread; best of some."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for name, kind in KINDS.items():
        cost = best(lambda k=kind: k.draw(objects, (side, side), generator), repeats) / objects
        print(f"{name:18s} {cost:6.2f}")
    whole = best(lambda: random_objects(4 * objects, (side, side), generator=generator), repeats)
    print(f"{'mixture, finished':18s} {whole / (4 * objects):6.2f}")


def best(draw: Callable[[], object], repeats: int) -> float:
    """Least processor time of some calls, ms."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        draw()
        times.append(1e3 * (time.process_time() - start))
    return min(times)


if __name__ == "__main__":
    main()
