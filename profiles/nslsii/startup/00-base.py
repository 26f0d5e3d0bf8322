"""RunEngine, plans, magics, and the folder where everything goes."""

import atexit
import logging
import os
from pathlib import Path

import numpy as np
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky.magics import BlueskyMagics
from bluesky.plan_stubs import mv, mvr
from bluesky.plans import count, scan

_share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
DATA = Path(os.environ.get("NFPHASING_DATA") or Path(_share) / "nfphasing").expanduser().resolve()
DATA.mkdir(parents=True, exist_ok=True)
MODEL = os.environ.get("NFPHASING_MODEL", "saxs1d-pr")

# that OpenCL is missing, which nothing here uses
logging.getLogger("silx.opencl.common").setLevel(logging.ERROR)

RE = RunEngine({"beamline_id": "simulated"})
get_ipython().register_magics(BlueskyMagics)
