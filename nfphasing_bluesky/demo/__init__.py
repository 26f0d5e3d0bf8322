"""The main job, on measured data: scan, reconstruct, store, serve over Tango, read back.

Names are loaded when they are asked for: the demo's worker process needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfphasing_bluesky.demo.chain import DemoResult, run_demo
    from nfphasing_bluesky.demo.curves import measured_curves
    from nfphasing_bluesky.demo.detector import CurveDetector, ReplayCurves
    from nfphasing_bluesky.demo.simulated import SimulatedSaxs

_HOMES = {
    "CurveDetector": "detector",
    "DemoResult": "chain",
    "ReplayCurves": "detector",
    "SimulatedSaxs": "simulated",
    "measured_curves": "curves",
    "run_demo": "chain",
}

__all__ = ["CurveDetector", "DemoResult", "ReplayCurves", "SimulatedSaxs", "measured_curves", "run_demo"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
