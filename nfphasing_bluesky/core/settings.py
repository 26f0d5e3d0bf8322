"""Settings: one typed tree, unknown words refused, ranges checked on assignment."""

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from nfphasing_bluesky.core.growing import PointScan
from nfphasing_bluesky.core.settings_node import Settings


class ReconstructionSettings(Settings):
    """How frames become posteriors.

    `sigma_floor` is the relative systematic error added in quadrature to each sigma; None for what suits the
    modality: 1 % for curves (no reduced one is good to less, and the shipped models are calibrated down to
    that), nothing for images. `resample_ess` is the effective sample size, over the number of draws, from
    which draws are resampled by their importance weights, where these are known; 1 for never. `search` is how
    many times as long as usual fits may look for further answers, where frames have several.
    """

    n_samples: Annotated[int, Field(ge=2, le=100_000)] = 256
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    polish_steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    sigma_floor: Annotated[float, Field(ge=0, le=1)] | None = None
    resample_ess: Annotated[float, Field(gt=0, le=1)] = 0.5
    search: Annotated[float, Field(ge=1, le=1000)] = 1.0


class Policy(StrEnum):
    """What a full queue does: wait, keep the newest, or keep every k-th."""

    BLOCK = "block"
    LATEST = "latest"
    SAMPLE = "sample"


RETRIEVE = "retrieve"
"""In place of a probe's file: find the probe."""


class StreamSettings(Settings):
    """Which frames are taken from a run and how they wait.

    A queue is full with `queue_size` frames, or fewer that take `queue_mb` megabytes together.

    With a `probe` they are those of ptychographic scans: a file, or "retrieve" to find it from the first
    `probe_frames` frames, which wait until then. `positions` are the data keys of rows and columns, by
    default the scan's motors; `positions_sign` is -1 where they are the sample's and the beam walks the other
    way; `positions_order` "xy" exchanges them; `orientation` is what must be done to the frames, a name of
    `core.orientation`. The first `check_frames` frames wait until it was looked whether frames and positions
    agree; 0 for never. `object_every_s` is the least time between two states of the stitched object.

    With `points` the events of a run bring the points of one curve; with `accumulate` each brings an exposure
    of one thing. The frame grows then, and the start document may say so too. Where reconstruction is slower
    than the scan, the policy `latest` lets go frames of which a later one has all the points.

    A run of which nothing has come for `abandon_after_s`, though another has begun since, is closed as
    aborted; while no other begins, after 24 times as long, as scans pause for beam dumps.
    """

    data_key: str | None = None
    stream: str = "primary"
    policy: Policy = Policy.BLOCK
    queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    queue_mb: Annotated[float, Field(gt=0)] = 1024.0
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    deadline_s: Annotated[float, Field(ge=0, le=60)] = 0.02
    store_samples: bool = False
    poni: Path | None = None
    mask: Path | None = None
    probe: Path | None = None
    positions: tuple[str, str] | None = None
    positions_sign: tuple[Literal[-1, 1], Literal[-1, 1]] | None = None
    positions_order: Literal["yx", "xy"] | None = None
    orientation: str | None = None
    probe_frames: Annotated[int, Field(ge=9, le=10_000)] = 100
    check_frames: Annotated[int, Field(ge=0, le=1000)] = 20
    object_every_s: Annotated[float, Field(ge=0, le=3600)] = 2.0
    points: PointScan | None = None
    accumulate: bool = False
    abandon_after_s: Annotated[float, Field(gt=0)] = 3600.0

    @property
    def queue_bytes(self) -> float:
        """Bytes that waiting frames may have together."""
        return self.queue_mb * 2**20

    @property
    def held(self) -> int:
        """Frames of a run that may wait for each other before the first goes on."""
        if self.probe is None:
            return 0
        return max(self.check_frames, self.probe_frames if self.retrieves_probe else 0)

    @property
    def retrieves_probe(self) -> bool:
        """Whether the probe is found from the first frames."""
        return self.probe is not None and str(self.probe) == RETRIEVE


def settings_sha256(*nodes: Settings) -> str:
    """One digest over several settings nodes, for the derived run's start document."""
    return hashlib.sha256("".join(node.digest() for node in nodes).encode()).hexdigest()
