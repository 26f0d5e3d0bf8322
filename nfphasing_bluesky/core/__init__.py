"""The nouns everyone shares. numpy and pydantic only."""

from nfphasing_bluesky.core.errors import (
    DataKeyError,
    DocumentError,
    FrameError,
    GeometryError,
    ModelError,
    ModelIntegrityError,
    NFPhasingError,
    SettingsError,
    StorageError,
    TransportError,
)
from nfphasing_bluesky.core.frame import Frame, Origin
from nfphasing_bluesky.core.geometry import CurveGeometry, DetectorGeometry, Geometry, HologramGeometry
from nfphasing_bluesky.core.modes import Alignment, Mode, find_modes
from nfphasing_bluesky.core.posterior import (
    Axis,
    DensityInfo,
    Failure,
    ModelInfo,
    Parameter,
    Posterior,
    Prediction,
    Summary,
    Trust,
    Verdict,
)
from nfphasing_bluesky.core.settings import (
    Policy,
    ReconstructionSettings,
    Settings,
    StreamSettings,
    settings_sha256,
)
from nfphasing_bluesky.core.symmetry import Symmetry

__all__ = [
    "Alignment",
    "Axis",
    "CurveGeometry",
    "DataKeyError",
    "DensityInfo",
    "DetectorGeometry",
    "DocumentError",
    "Failure",
    "Frame",
    "FrameError",
    "Geometry",
    "GeometryError",
    "HologramGeometry",
    "Mode",
    "ModelError",
    "ModelInfo",
    "ModelIntegrityError",
    "NFPhasingError",
    "Origin",
    "Parameter",
    "Policy",
    "Posterior",
    "Prediction",
    "ReconstructionSettings",
    "Settings",
    "SettingsError",
    "StorageError",
    "StreamSettings",
    "Summary",
    "Symmetry",
    "TransportError",
    "Trust",
    "Verdict",
    "find_modes",
    "settings_sha256",
]
