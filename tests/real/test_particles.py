"""Particles: another code's core-shell curve, and measured cubes that are in no class of the prior."""

import json

import pytest

from nfphasing_bluesky.core import Verdict
from nfphasing_bluesky.storage.readers import read_frames


@pytest.fixture(scope="module")
def core_shell(shared_data):
    folder = shared_data / "saxs1d/sim_sasmodels_core_shell"
    truth = json.loads((folder / "truth.json").read_text())
    return read_frames(folder / "core_shell_noisy.dat")[0], truth


@pytest.fixture(scope="module")
def core_shell_posterior(polished_particles, core_shell):
    return polished_particles([core_shell[0]])[0]


def test_the_right_class(core_shell_posterior):
    assert core_shell_posterior.classes["core_shell_sphere"] > 0.9


@pytest.mark.parametrize(
    ("name", "true_name"), [("radius_angstrom", "radius"), ("shell_thickness_angstrom", "thickness")]
)
def test_true_sizes_are_inside_the_intervals(core_shell_posterior, core_shell, name, true_name):
    summary = core_shell_posterior.summary()[name]
    assert summary.q025 < core_shell[1][true_name] < summary.q975


def test_truncated_cubes_are_not_called_valid(particles, shared_data):
    path = shared_data / "saxs1d/npsize4_bam/nPSize4.dat"
    frame = read_frames(path, columns=(0, 3, 4), q_unit="1/nm")[0]
    (posterior,) = particles([frame])
    assert posterior.trust.verdict is not Verdict.VALID
    assert posterior.trust.reason
