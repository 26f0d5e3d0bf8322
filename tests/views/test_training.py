"""Pictures of learning curves."""

import csv
from dataclasses import asdict

import pytest
from matplotlib.image import imread

from nfphasing_bluesky.training import StepLog, checkpoint
from nfphasing_bluesky.views.training import draw_curve

NAN = float("nan")


def line(step: int, nll: float, physics: float) -> StepLog:
    return StepLog(step, float(step), nll, 0.1, physics, physics, physics, 1e-3, 1.0)


@pytest.mark.parametrize(("physics", "inches"), [(NAN, 3.5), (0.5, 6.0)])
def test_there_is_a_panel_for_the_physics_loss_where_there_is_one(tmp_path, physics, inches):
    for step in range(5):
        checkpoint.append_curve(tmp_path, asdict(line(step, -1.0, physics)))
    picture = imread(draw_curve(tmp_path))
    assert picture.shape[:2] == (120 * inches, 960)


def test_a_bad_step_does_not_flatten_the_curve(tmp_path):
    """The steps before and after it are drawn over more than a third of the height."""
    for step in range(200):
        checkpoint.append_curve(tmp_path, asdict(line(step, 1e6 if step == 90 else float(step % 2), NAN)))
    rows = list(csv.DictReader((tmp_path / checkpoint.CURVE).read_text().splitlines()))
    assert float(rows[90]["nll"]) == 1e6
    picture = imread(draw_curve(tmp_path))[..., :3]
    grey = (abs(picture - 0.7) < 0.02).all(-1)
    columns = grey[:, 300:380].any(1).nonzero()[0]
    assert columns.max() - columns.min() > picture.shape[0] / 3
