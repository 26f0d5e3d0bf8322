"""The network of binned frames: one encoder of their map, a class head and a flow for each class."""

from nfphasing_bluesky.flows import EncoderSettings, FlowSettings
from nfphasing_bluesky.modalities.frame_model import COLUMNS, ROWS
from nfphasing_bluesky.modalities.island_prior import CLASSES
from nfphasing_bluesky.modalities.network import CurvePosterior, NetworkSettings

CHANNELS = 4
EXTRAS = 9
SETTINGS = NetworkSettings(
    encoder=EncoderSettings(width=384, blocks=3, context=96, extras=EXTRAS),
    flow=FlowSettings(layers=6, hidden=96, head_hidden=128, head_blocks=1),
)


class FramePosterior(CurvePosterior):
    """The network of frames: its encoder sees all bins, whose places its scalars say.

    Args:
        settings: architecture; the encoder's grid is not used.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(CLASSES, settings, [0] * len(CLASSES))
        self.encoder = type(self.encoder)(settings.encoder, CHANNELS, ROWS * COLUMNS)
