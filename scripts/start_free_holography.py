"""Make a model to start `holography-free` from: the network of `holography`, with room for an absorption.

    python scripts/start_free_holography.py runs/free0
    nfphasing train holography-free --start runs/free0 --output runs/free1

What the shipped weights know of the phase of objects that don't absorb is put where the larger network has
it; what it says of absorptions begins as `Modality.initialise` leaves it, and nothing depends on them yet.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from nfphasing_bluesky import __version__
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.models import Card, load, save

TRANSPARENT = -1.4539
"""What `holography` sees as the logarithm of beta / delta = 0."""


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    subject = modality("holography-free")
    torch.manual_seed(0)
    network = subject.network()
    subject.initialise(network, torch.Generator().manual_seed(0))
    known = load("holography")
    weights = widened(known.part("network"), network.state_dict())
    card = Card(
        name="holography-free",
        modality="holography-free",
        code_version=__version__,
        sha256="0" * 64,
        network=subject.settings.model_dump(mode="json"),
        ranges=dict(subject.ranges),
        parent=known.card.sha256,
    )
    save(output, card, {f"network.{name}": value for name, value in weights.items()})


def widened(known: dict[str, Tensor], begun: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of one part put into those of two, which are as they begin elsewhere."""
    made = {name: value.clone() for name, value in begun.items()}
    for name, value in known.items():
        target = made[name]
        if name == "encoder.scalars.0.weight":
            _put_scalars(made, known)
        elif name.startswith("box.") or name == "encoder.scalars.0.bias":
            continue
        elif target.shape == value.shape:
            target.copy_(value)
        elif "transforms" in name and _over_channels(name):
            # phase given absorption, absorption given phase: another thing than one band given the others
            continue
        elif name.endswith(("from_fixed.weight", "from_coarse.weight")):
            target.zero_()
            target[:, _slots(value.shape[1])] = value
        elif name == "encoder.stem.weight":
            target.zero_()
            target[:, : value.shape[1]] = value
        else:
            target[_rows(name, value, target)] = value
    return made


def _slots(n: int) -> list[int]:
    """Where the coefficients of the phase are among those of both, which alternate."""
    return list(range(0, 2 * n, 2))


def _over_channels(name: str) -> bool:
    return int(name.split(".transforms.")[1].split(".")[0]) % 4 >= 2


def _rows(name: str, value: Tensor, target: Tensor) -> Tensor:
    """Rows of a layer's outputs, or of a table, that are the phase's."""
    if ".gaussian.head" in name:
        return _gaussian_rows(len(value))
    if ".offset.head" in name:
        return torch.tensor([0, 2])
    if ".conditioner.last" in name:
        # two numbers a coefficient
        return torch.tensor([2 * slot + i for slot in _slots(len(value) // 2) for i in (0, 1)])
    return torch.tensor(_slots(len(value)))


def _gaussian_rows(outputs: int) -> Tensor:
    """Of location, scale, correlation row by row, and gate of n coefficients."""
    n = 1 if outputs == 3 else 3
    slots, both = _slots(n), 2 * n
    pairs = [both * 2 + i * (i - 1) // 2 + j for i in slots for j in slots if j < i]
    gate = 2 * both + both * (both - 1) // 2
    return torch.tensor([*slots, *(both + s for s in slots), *pairs, *(gate + s for s in slots)])


def _put_scalars(made: dict[str, Tensor], known: dict[str, Tensor]) -> None:
    """Scale, Fresnel number and noise keep their columns; beta / delta is that of no absorption."""
    old = known["encoder.scalars.0.weight"]
    new = made["encoder.scalars.0.weight"].zero_()
    new[:, [0, 2, 3]] = old[:, :3]
    made["encoder.scalars.0.bias"].copy_(known["encoder.scalars.0.bias"] + TRANSPARENT * old[:, 4])


if __name__ == "__main__":
    main()
