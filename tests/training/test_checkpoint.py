"""What a kill or a full disk does to the folder of a training run."""

import json

import pytest
import torch
from safetensors.torch import save_file

from nfphasing_bluesky.core import ModelIntegrityError
from nfphasing_bluesky.training import checkpoint
from nfphasing_bluesky.views.training import _smooth

HEAD = "step,seconds,nll"


@pytest.mark.parametrize("torn", ["3,0.", "3", "3,0.3,", "", "\x00\x00", "13,0.3,1.0"])
def test_a_line_of_the_learning_curve_that_a_kill_cut_short_is_dropped(tmp_path, torn):
    path = tmp_path / checkpoint.CURVE
    path.write_text(f"{HEAD}\n1,0.1,5\n2,0.2,4\n{torn}")
    checkpoint.truncate_curve(tmp_path, 5)
    assert path.read_text() == f"{HEAD}\n1,0.1,5\n2,0.2,4\n"
    checkpoint.append_curve(tmp_path, {"step": 3, "seconds": 0.5, "nll": 3.0})
    assert path.read_text().endswith("2,0.2,4\n3,0.5,3\n")


def test_a_curve_without_its_head_begins_anew(tmp_path):
    path = tmp_path / checkpoint.CURVE
    path.write_text("")
    checkpoint.truncate_curve(tmp_path, 5)
    checkpoint.append_curve(tmp_path, {"step": 6, "nll": 3.0})
    assert path.read_text() == "step,nll\n6,3\n"


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_checkpoint_that_was_cut_short_is_named(tmp_path, size):
    path = tmp_path / checkpoint.TENSORS
    save_file({"prior.mean": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelIntegrityError, match=r"checkpoint\.safetensors cannot be read.*start afresh"):
        checkpoint.prior_state(tmp_path)


def test_what_is_no_checkpoint_is_named(tmp_path):
    save_file({"prior.mean": torch.ones(3)}, tmp_path / checkpoint.TENSORS)
    with pytest.raises(ModelIntegrityError, match="lacks progress"):
        checkpoint.prior_state(tmp_path)


@pytest.mark.parametrize("content", [b'{"modality": "sax', b"\xff\xfe", b""])
def test_a_description_that_was_cut_short_is_named(tmp_path, content):
    save_file({"progress": torch.zeros(2)}, tmp_path / checkpoint.TENSORS)
    (tmp_path / checkpoint.STATE).write_bytes(content)
    with pytest.raises(ModelIntegrityError, match=r"checkpoint\.json does not belong"):
        checkpoint.describe(tmp_path)


def test_a_kill_while_the_description_is_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    (tmp_path / "checkpoint.json").write_text(json.dumps({"modality": "saxs1d-pr"}))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint._replace(tmp_path / "checkpoint.json", '{"modality')
    assert json.loads((tmp_path / "checkpoint.json").read_text()) == {"modality": "saxs1d-pr"}


def test_the_running_mean_of_the_figure_does_not_hang_on_its_first_value():
    smooth = _smooth([100.0] + [0.0] * 99)
    assert smooth[0] == 100.0 and smooth[1] == pytest.approx(50.0, abs=1.0)
    assert smooth[-1] < 4.0, "it was 13"
    assert _smooth([float("nan"), 2.0, float("nan")])[1:] == [2.0, 2.0]
