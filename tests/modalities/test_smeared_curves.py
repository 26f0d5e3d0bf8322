"""A resolution as a matrix, against the quadrature of the forward model."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame
from nfphasing_bluesky.modalities import smeared_curves
from nfphasing_bluesky.modalities.saxs1d_particles import SaxsParticles
from nfphasing_bluesky.modalities.smeared_curves import has_resolution, matrix_of, places, resolution_of
from nfphasing_bluesky.physics import saxs

EVEN, LOG = np.linspace(0.005, 0.25, 200), np.geomspace(0.004, 0.3, 90)


@pytest.mark.parametrize("q", [EVEN, LOG], ids=["even", "log"])
@pytest.mark.parametrize("radius", [30.0, 100.0, 300.0])
@pytest.mark.parametrize("relative", [1e-3, 0.02, 0.1, 0.3])
def test_it_sees_what_the_quadrature_sees(q, radius, relative):
    sizes = torch.tensor([radius], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)

    def sphere(at):
        return saxs.sphere(torch.as_tensor(at).reshape(1, -1), *sizes)

    dq = relative * q
    exact = saxs.smear(sphere, torch.from_numpy(q), torch.from_numpy(dq), nodes=200)[0].numpy()
    grid = places(q, dq)
    assert np.all(np.diff(grid) > 0) and grid[0] > 0 and np.isin(q, grid).all()
    seen = matrix_of(q, dq, grid) @ sphere(grid)[0].numpy()
    np.testing.assert_allclose(seen, exact, rtol=2e-3)


def test_a_background_stays_and_a_point_without_resolution_too():
    dq = np.where(np.arange(200) % 3, 0.1 * EVEN, 0.0)
    matrix = matrix_of(EVEN, dq, places(EVEN, dq))
    np.testing.assert_allclose(matrix.sum(1), 1.0, rtol=1e-12)
    grid = places(EVEN, dq)
    for row in matrix[::3]:
        assert np.count_nonzero(np.abs(row) > 1e-12) == 1
    np.testing.assert_allclose(matrix[::3] @ grid, EVEN[::3], rtol=1e-12)


def frame(dq):
    return Frame(np.ones(200), CurveGeometry(EVEN, dq), np.ones(200))


def test_where_there_is_one(monkeypatch):
    nan = np.full(200, np.nan)
    assert not any(map(has_resolution, [frame(None), frame(0 * EVEN), frame(nan)]))
    assert resolution_of([frame(None)], 200) is None
    made = resolution_of([frame(0.1 * EVEN), frame(None)], 210)
    assert made is not None and made.matrix.shape[:2] == (2, 210) and made.q.shape == made.matrix[:, 0].shape
    curve = torch.rand(1, made.q.shape[1])
    torch.testing.assert_close(made.seen(curve, torch.tensor([1]))[0, :200], curve[0, :200])
    monkeypatch.setattr(smeared_curves, "MOST_VALUES", 1000)
    assert not has_resolution(frame(0.1 * EVEN)), "too large: left to the warning"


def test_slopes_of_a_fit_are_those_of_what_is_seen():
    modality = SaxsParticles()
    made = resolution_of([frame(0.1 * EVEN)], 200)
    for k in range(len(modality.classes)):
        target = modality._target(k)
        y = torch.full((1, len(modality.classes[k].free)), 0.3, dtype=torch.float64)
        theta = target.box.inverse(y, y)[0].float()
        seen, slopes = target.slopes(theta, made.packed)
        step = 1e-3 * torch.ones_like(theta)
        for d in range(theta.shape[1]):
            moved = theta.clone()
            moved[:, d] += step[:, d]
            rise = (target.slopes(moved, made.packed)[0] - seen) / step[:, d]
            torch.testing.assert_close(
                slopes[:, d].float(), rise.float(), rtol=0.05, atol=2e-2 * float(slopes[:, d].abs().max())
            )
