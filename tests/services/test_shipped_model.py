"""The Tango server with a worker of its own that runs a shipped model."""

from pathlib import Path

import numpy as np
import tango

from nfphasing_bluesky.core import Verdict
from nfphasing_bluesky.streaming.child import is_alive
from nfphasing_bluesky.streaming.client import ask
from nfphasing_bluesky.streaming.protocol import Verb


def guinier(values):
    """A protein-like curve on the grid of the raw documents."""
    q = np.linspace(0.01, 0.3, values.size)
    return 1000 * np.exp(-((30 * q) ** 2) / 3) + 1


def test_a_child_worker_reconstructs_with_a_shipped_model_and_ends_with_the_server(
    server, worker, raw, until
):
    process, proxy = server(worker="child", model_name="saxs1d-pr", data_key="det", n_samples="32")
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    pid = ask(Verb.HEALTH, worker.settings.control, timeout_s=60.0).pid
    worker.send(raw.raw_run(2, poison={1: guinier, 2: guinier}))
    assert until(lambda: proxy.frames_reconstructed == 2), proxy.status()
    assert until(lambda: proxy.frame_id == 2)
    assert proxy.model == "saxs1d-pr" and proxy.verdict in list(Verdict)
    mean, std = proxy.density_mean, proxy.density_std
    assert mean.shape == std.shape == proxy.axis.shape and np.isfinite(mean).all() and (std >= 0).all()
    assert 10 < proxy.rg_angstrom < 60 and proxy.rg_angstrom_std > 0
    assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
    assert "torch" in Path(f"/proc/{pid}/maps").read_text()
    assert '"n_samples":32' in Path(f"/proc/{pid}/cmdline").read_text()
    process.terminate()
    process.wait(120)
    assert until(lambda: not is_alive(pid))
