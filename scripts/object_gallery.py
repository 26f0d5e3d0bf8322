"""A contact sheet of random objects: one row a kind, as drawn for training.

python scripts/object_gallery.py --side 64 --output gallery.png
python scripts/object_gallery.py --side 256 --columns 6 --bare --output bare.png
"""

import argparse
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
    arguments = parser.parse_args()
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


if __name__ == "__main__":
    main()
