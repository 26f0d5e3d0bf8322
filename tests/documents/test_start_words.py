"""What a start document says in vain is named, and the scan goes on."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from nfphasing_bluesky.core import PlaneGeometry
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.documents.start_words import WORDS, unknown_words

ROOT = Path(__file__).parents[2]
CONTRAST = 2.8e10


def said(heard, run):
    """What a router remarks on the documents of a run, and its frames."""
    router = FrameRouter(heard, wait_s=0.1)
    for name, doc in run.documents:
        router(name, doc)
    return router.remarks(run.uid)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("contrast", "contrast_inv_cm2"),
        ("Absolute", "absolute"),
        ("qkey", "q_key"),
        ("sigma_unit", "sigma"),
        ("geometri", "geometry"),
        ("position_sign", "positions_sign"),
    ],
)
def test_a_misspelt_word_is_named_with_the_nearest_one(heard, raw_run, caplog, word, meant):
    run = raw_run(nfphasing={word: 1, "absolute": True})
    run.curve(30.0)
    with caplog.at_level(logging.WARNING):
        (remark,) = said(heard, run)
    assert f"{word!r} under nfphasing" in remark and f"did you mean {meant!r}?" in remark
    assert len(heard.frames) == 1 and heard.frames[0].geometry.absolute
    (line,) = [r.getMessage() for r in caplog.records]
    assert line == f"run {run.uid}: {remark}"


def test_a_word_that_is_like_none_and_no_words_at_all(heard, raw_run):
    run = raw_run(nfphasing={"xyzzy": 1})
    (remark,) = said(heard, run)
    assert "known are absolute, accumulate" in remark
    (remark,) = unknown_words({"nfphasing": "saxs1d-pr"})
    assert "'saxs1d-pr'" in remark and "expected a dict" in remark
    assert unknown_words({}) == unknown_words({"nfphasing": {}}) == []


def test_every_word_of_the_documentation_is_known():
    texts = [path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    found = {word for text in texts for word in re.findall(r"nfphasing=\{\s*[\"'](\w+)", text)}
    assert len(found) > 4 and found <= WORDS


def test_a_contrast_without_the_scale_is_named_once_and_the_frames_are_made(heard, raw_run):
    run = raw_run(nfphasing={"contrast_inv_cm2": CONTRAST})
    run.curve(30.0)
    run.curve(30.0)
    (remark,) = said(heard, run)
    assert "contrast_inv_cm2" in remark and "'absolute': True" in remark and "saxs" in remark
    assert len(heard.frames) == 2 and not heard.frames[0].geometry.absolute


@pytest.mark.parametrize(
    ("units", "absolute", "factor"),
    [("1/cm", None, 1), ("1/m", None, 0.01), ("cm^-1", False, None), ("", True, 1), ("1/m", True, 0.01)],
)
def test_the_units_of_the_data_key_say_the_scale(heard, raw_run, key_of, q, units, absolute, factor):
    keys = {"saxs": key_of(q.shape, units), "saxs_q": key_of(q.shape, "1/angstrom")}
    keys["saxs_sigma"] = key_of(q.shape, units)
    words = {"contrast_inv_cm2": CONTRAST} | ({} if absolute is None else {"absolute": absolute})
    run = raw_run(keys, nfphasing=words)
    run.event(saxs=np.full_like(q, 5.0), saxs_q=q, saxs_sigma=np.ones_like(q))
    remarks = said(heard, run)
    (frame,) = heard.frames
    assert frame.geometry.absolute == (factor is not None) == (not remarks)
    np.testing.assert_allclose(frame.intensity, 5.0 * (factor or 1))
    np.testing.assert_allclose(frame.sigma, factor or 1)


def test_a_reduced_pattern_has_the_scale_of_its_data_key(heard, raw_run, key_of):
    axis = np.linspace(-0.1, 0.1, 8).tolist()
    geometry = {"qx_inv_angstrom": axis, "qy_inv_angstrom": axis}
    for units in ("1/cm", ""):
        run = raw_run(
            {"saxs": key_of((8, 8), units)}, nfphasing={"geometry": geometry, "contrast_inv_cm2": CONTRAST}
        )
        run.event(saxs=np.ones((8, 8)))
        assert bool(said(heard, run)) == (not units)
        assert isinstance(heard.frames[-1].geometry, PlaneGeometry)
        assert heard.frames[-1].geometry.absolute == bool(units)


@pytest.mark.parametrize(
    "said_wrong",
    [{"contrast_inv_cm2": value} for value in ("2.8e10", 0, float("nan"), [1, 2])]
    + [{"q_relative_error": value} for value in ("much", -0.1, None)],
)
def test_a_number_that_is_none_fails_the_frame_and_is_named(heard, raw_run, said_wrong):
    run = raw_run(nfphasing={**said_wrong, "absolute": True})
    run.curve(30.0)
    said(heard, run)
    (failure,) = heard.failures
    assert not heard.frames and f"{next(iter(said_wrong))}=" in failure.reason
