"""A Tango server whose own worker reconstructs coherent patterns."""

import numpy as np
import pytest
import tango

from nfphasing_bluesky.core import Verdict
from tests.coherent_model import GEOMETRY, coherent_counts, coherent_model


@pytest.mark.slow
def test_a_coherent_pattern_is_an_image_of_the_device(server, worker, raw, until, tmp_path):
    counts, u = coherent_counts(3)
    model = coherent_model(tmp_path / "model")
    _, proxy = server(worker="child", model_name=str(model), data_key="det")
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    md = {"nfphasing": {"geometry": dict(GEOMETRY)}}
    worker.send(raw.raw_run(1, md=md, poison={1: lambda _: counts.astype(float)}, shape=counts.shape))
    assert until(lambda: proxy.frames_reconstructed == 1), proxy.status()
    assert until(lambda: proxy.frame_id == 1)
    assert proxy.model == "coherent" and proxy.verdict in list(Verdict)
    assert proxy.density_mean.shape == proxy.density_std.shape == u.shape
    assert abs(proxy.total_density - u.sum()) < 0.1 * u.sum()
    # the mean of an object and its twin; their difference is what the standard deviation says
    assert np.abs(proxy.density_mean - proxy.density_mean[::-1, ::-1]).max() < 0.15
    assert proxy.density_std.max() > 0.1
    # the answers themselves: the object and its twin, each as likely as the other
    assert until(lambda: proxy.pattern_seq_num == 1)
    weights, best = proxy.mode_weight, proxy.mode_1_mean
    assert weights.shape == (4,) and weights[0] + weights[1] > 0.8 and weights[1] > 0.2
    alike = [np.corrcoef(best.ravel(), one.ravel())[0, 1] for one in (u, u[::-1, ::-1])]
    assert max(alike) > 0.9 and max(alike) > np.corrcoef(proxy.density_mean.ravel(), u.ravel())[0, 1]
    assert np.corrcoef(proxy.measured.ravel(), counts.ravel())[0, 1] > 0.99
