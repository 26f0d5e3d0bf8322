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
from nfphasing_bluesky.core.frame import Frame, Origin, refuse_bounds
from nfphasing_bluesky.core.geometry import (
    CurveGeometry,
    DetectorGeometry,
    EffectiveBeam,
    Geometry,
    HologramGeometry,
    PlaneGeometry,
    PtychographyGeometry,
    effective_beam,
    fresnel_number,
    plane_of,
)
from nfphasing_bluesky.core.grazing_geometry import GrazingCutsGeometry, GrazingGeometry
from nfphasing_bluesky.core.growing import PointScan
from nfphasing_bluesky.core.memory import keep_freed_memory
from nfphasing_bluesky.core.modes import Alignment, Mode, find_modes
from nfphasing_bluesky.core.posterior import (
    PROJECTED,
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
    StreamSettings,
    settings_sha256,
)
from nfphasing_bluesky.core.settings_node import Settings
from nfphasing_bluesky.core.stitch import StitchedObject, Stitcher, is_transmission, parts_of
from nfphasing_bluesky.core.symmetry import Symmetry
from nfphasing_bluesky.core.waiting import sleep_while_waiting
from nfphasing_bluesky.core.windows import Window

__all__ = [
    "PROJECTED",
    "PointScan",
    "keep_freed_memory",
    "sleep_while_waiting",
    "EffectiveBeam",
    "effective_beam",
    "fresnel_number",
    "Alignment",
    "Axis",
    "CurveGeometry",
    "GrazingCutsGeometry",
    "GrazingGeometry",
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
    "PlaneGeometry",
    "Policy",
    "Posterior",
    "Prediction",
    "PtychographyGeometry",
    "ReconstructionSettings",
    "Settings",
    "SettingsError",
    "StitchedObject",
    "Stitcher",
    "StorageError",
    "StreamSettings",
    "Summary",
    "Symmetry",
    "TransportError",
    "Trust",
    "Verdict",
    "Window",
    "find_modes",
    "is_transmission",
    "parts_of",
    "plane_of",
    "refuse_bounds",
    "settings_sha256",
]
