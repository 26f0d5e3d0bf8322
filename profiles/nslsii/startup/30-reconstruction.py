"""Reconstructions while the scan runs, in a process of their own, and a plot that follows them."""

import contextlib
import sys

from nfphasing_bluesky.streaming import ReconstructionCallback
from nfphasing_bluesky.views.live import LiveReconstruction

_has_screen = sys.platform in ("darwin", "win32") or any(
    os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
)
_figure = None
if _has_screen:
    with contextlib.suppress(Exception):  # no GUI toolkit is no reason to go without a beamline
        get_ipython().enable_matplotlib()
        import matplotlib.pyplot as plt

        _figure = plt.figure("reconstruction", figsize=(12, 6), layout="constrained")

live = LiveReconstruction(_figure, path=DATA / "live.png")
reconstruct = ReconstructionCallback(MODEL, DATA / "catalog")
reconstruct.subscribe(live)
RE.subscribe(reconstruct)

atexit.register(live.close)
atexit.register(reconstruct.close)
