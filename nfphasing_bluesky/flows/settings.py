"""Settings of flows and encoders."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from nfphasing_bluesky.core import Settings


class CouplingKind(StrEnum):
    """Element-wise map inside a coupling."""

    AFFINE = "affine"
    SPLINE = "spline"


class Mixing(StrEnum):
    """What mixes the coordinates between two couplings."""

    LU = "lu"
    PERMUTATION = "permutation"


class Split(StrEnum):
    """Which half of the coordinates a coupling transforms."""

    ALTERNATING = "alternating"
    RANDOM_HALVES = "random_halves"


class Standardiser(StrEnum):
    """The context-conditioned map next to the data: full Cholesky factor, diagonal, or none."""

    GAUSSIAN = "gaussian"
    AFFINE = "affine"
    NONE = "none"


class AnchorMap(StrEnum):
    """Coordinates around an anchor: straight ones, or ones that end where the prior does."""

    LINEAR = "linear"
    BOUNDED = "bounded"


class FlowSettings(Settings):
    """Architecture of a conditional coupling flow.

    `tail_bound` is in units of the standardised coordinates: outside it, splines are the identity.
    `anchor` is for flows that are given one (`flows/anchor.py`, `flows/bounded_anchor.py`).
    `seed` fixes permutations and random halves, not the initial weights.
    """

    kind: CouplingKind = CouplingKind.SPLINE
    mixing: Mixing = Mixing.LU
    split: Split = Split.ALTERNATING
    standardiser: Standardiser = Standardiser.GAUSSIAN
    anchor: AnchorMap = AnchorMap.LINEAR
    layers: Annotated[int, Field(ge=0, le=64)] = 8
    hidden: Annotated[int, Field(ge=4, le=4096)] = 128
    blocks: Annotated[int, Field(ge=0, le=16)] = 1
    bins: Annotated[int, Field(ge=2, le=64)] = 8
    tail_bound: Annotated[float, Field(gt=0, le=100)] = 5.0
    head_hidden: Annotated[int, Field(ge=4, le=4096)] = 256
    head_blocks: Annotated[int, Field(ge=0, le=16)] = 2
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class LogGrid(Settings):
    """Fixed grid of bins, evenly spaced in log q, onto which every curve is resampled."""

    points: Annotated[int, Field(ge=8, le=4096)] = 128
    q_min_inv_angstrom: Annotated[float, Field(gt=0)] = 0.002
    q_max_inv_angstrom: Annotated[float, Field(gt=0)] = 0.7

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.q_min_inv_angstrom >= self.q_max_inv_angstrom:
            raise ValueError(
                f"q_min {self.q_min_inv_angstrom} is not below q_max {self.q_max_inv_angstrom} 1/angstrom"
            )
        return self


class EncoderSettings(Settings):
    """Architecture of the curve encoder.

    `extras` is the number of scalars given beside the channels; `stem_channels` = 0 leaves the
    convolutional stem out.
    """

    grid: LogGrid = LogGrid()
    width: Annotated[int, Field(ge=8, le=8192)] = 512
    blocks: Annotated[int, Field(ge=0, le=64)] = 5
    context: Annotated[int, Field(ge=1, le=4096)] = 128
    stem_channels: Annotated[int, Field(ge=0, le=512)] = 0
    extras: Annotated[int, Field(ge=0, le=1024)] = 0
