"""What modalities of whole frames in grazing incidence share: frames become bins, and bins pixels again."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from nfphasing_bluesky.core import Frame, Posterior, Prediction
from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.grazing import frame_bins
from nfphasing_bluesky.modalities.grazing.bin_grid import Shape
from nfphasing_bluesky.modalities.grazing.frame_bins import FramesBatch, FrameSimulation
from nfphasing_bluesky.physics.grazing.reflected_beam import incidence_doubt


class BinnedFrames:
    """A modality that sees the bins of a frame; `shape` is that of the bins."""

    shape: ClassVar[Shape]
    simulation: FrameSimulation
    whole_frames = True

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated frames cover."""
        return frame_bins.feature_ranges(self.simulation)

    def points(self, packed: Tensor) -> int:
        """Q."""
        return self.shape.bins

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> FramesBatch:
        """Frames to one batch. Raises FrameError or GeometryError for a frame that can't be used."""
        return frame_bins.collate(frames, sigma_floor, self.shape)

    def usable(self, batch: FramesBatch) -> Tensor:
        """(B,) bool: frames with enough signal that `collate` would take them."""
        return frame_bins.usable(batch)

    def context(self, batch: FramesBatch) -> tuple[Tensor, Tensor]:
        """Channels (B, C, Q) of the map, and (B, E) angles, q and wavelength."""
        return frame_bins.context(batch)

    def on_frame(
        self, frame: Frame, draws: Draws, nuisance: Mapping[str, Tensor], prediction: Prediction
    ) -> Prediction:
        """Prediction at the frame's pixels, interpolated between bins; NaN where none was looked at."""
        return frame_bins.at_pixels(frame, self.collate([frame], 0.0), prediction)

    def doubt(self, frame: Frame, posterior: Posterior, sigma_floor: float) -> str:
        """What the reflected beam says against the incidence angle, where the frame sees it."""
        return incidence_doubt(frame)

    def features(self, batch: FramesBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties of the frames that `ranges` bounds."""
        return frame_bins.features(batch)
