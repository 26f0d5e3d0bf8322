"""The benchmark's own bookkeeping, and one cheap measurement from end to end."""

import json
import math

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Frame, PtychographyGeometry
from nfphasing_bluesky.physics.ptychography import FarField
from tests.benchmarks import ptychography, subjects
from tests.benchmarks.__main__ import main
from tests.benchmarks.figures import Figure
from tests.simulated_scan import places, simulate


@pytest.fixture
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("value", "target", "better", "met"),
    [
        (19.0, 20, "lower", True),
        (21.0, 20, "lower", False),
        (401.0, 400, "higher", True),
        (399.0, 400, "higher", False),
        (math.nan, 20, "lower", False),
        (math.nan, 20, "higher", False),
        (5.0, None, "lower", None),
    ],
)
def test_a_target_is_met_or_not(value, target, better, met):
    assert Figure("x", value, "ms", target, better).met is met


def test_one_measurement_from_command_to_files(tmp_path, capsys, same_threads):
    assert main(["--output", str(tmp_path), "--quick", "--only", "wire"]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    (figure,) = written["figures"]
    assert figure["name"] == "wire" and figure["value"] > 10 and figure["met"] is None
    assert written["machine"]["torch_threads"] == 2 and written["machine"]["cores"] >= 1
    assert f"{figure['value']:.4g} documents/s" in (tmp_path / "bench.md").read_text()
    assert "wire" in capsys.readouterr().out


def test_a_measurement_that_fails_is_shown_and_ends_with_1(tmp_path, monkeypatch, capsys, same_threads):
    def broken(shape, n):
        raise OSError("no sockets left")

    monkeypatch.setattr("tests.benchmarks.scans.wire_rate", broken)
    assert main(["--output", str(tmp_path), "--quick", "--only", "wire"]) == 1
    (figure,) = json.loads((tmp_path / "bench.json").read_text())["figures"]
    assert figure["value"] is None and figure["met"] is False and "no sockets left" in figure["detail"]


def test_an_unknown_measurement_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--output", str(tmp_path), "--only", "luck"])
    assert exit_.value.code == 2 and "luck" in capsys.readouterr().err


def test_exposures_differ_by_their_noise_and_are_numbered():
    frame = subjects.sphere()
    frames = subjects.exposures(frame, 200)
    assert [f.origin.seq_num for f in frames] == list(range(1, 201))
    pulls = [(f.intensity - frame.intensity) / frame.sigma for f in frames]
    assert torch.tensor(pulls[0]).std() > 0.8 and not (pulls[0] == pulls[1]).any()


def test_the_misfit_of_an_object_is_that_of_its_frames():
    field = FarField(centred=False)
    # whole pixels, each frame all within the object
    simulated = simulate(field, where=places(4, 4).round())
    counts, corners = simulated.exposures.counts.numpy(), simulated.exposures.position.numpy()
    frames = [
        Frame(image, PtychographyGeometry(simulated.probe.numpy(), tuple(place), centred=False))
        for image, place in zip(counts, corners, strict=True)
    ]
    image = simulated.image.numpy()
    scan = ptychography.Scan(frames, corners, image)
    assert ptychography.misfit(scan, image) == pytest.approx(1, abs=0.05)
    assert ptychography.misfit(scan, image[2:, 1:], (2, 1)) == pytest.approx(1, abs=0.05)
    assert ptychography.misfit(scan, np.roll(image, 1, 0)) > 2
