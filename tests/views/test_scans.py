"""A scan on disk becomes one object: its file, its figure, what is said about it."""

import io
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from nfphasing_bluesky.core import Frame, FrameError, Origin, PtychographyGeometry, Stitcher, StreamSettings
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
from nfphasing_bluesky.storage.nexus import read_posterior
from nfphasing_bluesky.storage.objects import FrameRecord, read_object, scan_trust
from nfphasing_bluesky.storage.ptychography import read_probe
from nfphasing_bluesky.storage.results import object_as_json
from nfphasing_bluesky.streaming.processor import StreamProcessor
from nfphasing_bluesky.views.batch import BatchJob, reconstruct_files
from nfphasing_bluesky.views.live import LiveReconstruction
from nfphasing_bluesky.views.objects import figure_object
from tests.known_object import INFO, PROBE, SHAPE, KnownObject, counts, deviation, places, raw_scan

PIXEL_M = 2e-8


def write(path, **changes):
    where = places()
    arrays = {
        "data": counts(where),
        "positions_px": where,
        "probe": PROBE,
        "object_pixel_m": PIXEL_M,
    } | changes
    np.savez(path, **arrays)
    return path


def reconstruct(tmp_path, reconstructor, *, keep_frames=False, **changes):
    console = Console(file=io.StringIO(), width=200)
    job = BatchJob(tmp_path / "out", keep_frames=keep_frames)
    (result,) = reconstruct_files(reconstructor, [write(tmp_path / "scan.npz", **changes)], job, console)
    return result, console.file.getvalue()


def test_one_object_for_one_scan(tmp_path):
    reconstructor = KnownObject()
    result, said = reconstruct(tmp_path, reconstructor)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "scan_known-object.h5",
        "scan_known-object.png",
    ]
    assert result["trust"]["verdict"] == "VALID" and result["trust"]["reason"] == ""
    assert result["object"] == {
        "shape": [60, 72],
        "pixel": PIXEL_M,
        "pixel_unit": "m",
        "frames": 63,
        "stitched": 63,
        "left_out": 0,
        "doubtful_share": 0.0,
        "components": 1,
        "verdicts": {"VALID": 63},
    }
    assert {"input", "model", "modality", "output", "figure", "parameters", "latency_s"} <= set(result)
    json.dumps(result, allow_nan=False)
    assert "63 of 63 frames stitched" in said
    found = read_object(result["output"])
    inner = deviation(_framed(found.mean), _framed(found.std))[12:-16, 12:-12]
    # three posteriors see the same frames: cautious by that factor here, where their noise is independent
    assert 0.2 < np.nanmean(inner**2) < 1.2
    # every frame looked at its nearest two
    assert {len(frame.neighbours) for frame in reconstructor.seen} == {2}


def _framed(image):
    """The object that was scanned, as large as the truth."""
    whole = np.full(SHAPE, np.nan, dtype=image.dtype)
    whole[: image.shape[0], : image.shape[1]] = image
    return whole


def test_the_file_opens_at_the_phase_and_has_every_frame(tmp_path):
    bad = counts(places())
    bad[4] = 0
    result, _ = reconstruct(tmp_path, KnownObject(alarms=(2, 3)), data=bad)
    assert result["trust"]["verdict"] == "VALID"
    assert result["object"]["verdicts"] == {"VALID": 60, "ALARM": 2, "FAILED": 1}
    assert result["object"]["left_out"] == 0 and result["object"]["stitched"] == 62
    with h5py.File(result["output"]) as file:
        entry = file[file.attrs["default"]]
        plot = entry[entry.attrs["default"]]
        assert plot.attrs["signal"] == "phase" and list(plot.attrs["axes"]) == ["y", "x"]
        assert plot["phase"].attrs["units"] == "rad" and plot["x"].attrs["units"] == "m"
        np.testing.assert_allclose(plot["phase"][()], np.angle(entry["object/mean"][()]), atol=1e-6)
        np.testing.assert_allclose(
            entry["amplitude/amplitude"][()], np.abs(entry["object/mean"][()]), rtol=1e-6
        )
        assert entry["object/mean"].dtype == np.complex64
        frames = entry["frames"]
        assert frames["seq_num"][()].tolist() == list(range(1, 64))
        verdicts = frames["verdict"].asstr()[()]
        assert verdicts[1] == verdicts[2] == "ALARM" and verdicts[4] == "FAILED"
        assert "no photons" in frames["reason"].asstr()[4]
        assert frames["row"].attrs["units"] == "px" and np.isnan(frames["row"][4])
        assert entry["process/model"].asstr()[()] == "known-object"


def test_odd_files_fail_by_name_and_the_others_go_on(tmp_path):
    images = {"fresnel_number": 0.01, "photons": 100.0}
    odd = {
        "complex": ({"data": np.ones((64, 64), complex), **images}, "complex128"),
        "words": ({"data": np.full((64, 64), "a"), **images}, "<U1"),
        "no holograms": ({"data": np.ones((0, 64, 64)), **images}, "no frame"),
        "no patterns": ({"data": np.ones((0, 9, 9)), "qx": np.arange(9), "qy": np.arange(9)}, "no frame"),
        "no scan": ({"data": np.ones((0, 24, 24)), "probe": PROBE, "positions_px": np.ones((0, 2))}, "no fr"),
        "empty": ({"data": np.ones((5, 0, 0)), **images}, "no frame"),
    }
    files = []
    for name, (arrays, _) in odd.items():
        files.append(tmp_path / f"{name}.npz")
        np.savez(files[-1], **arrays)
    console = Console(file=io.StringIO(), width=200)
    job = BatchJob(tmp_path / "out")
    files.append(write(tmp_path / "scan.npz"))
    *failed, good = reconstruct_files(KnownObject(), files, job, console)
    for (name, (_, words)), result in zip(odd.items(), failed, strict=True):
        assert words in result["error"] and name in result["error"], result
    assert good["object"]["stitched"] == 63


def test_an_error_that_nobody_foresaw_is_of_its_file_alone(tmp_path, caplog):
    class Broken(KnownObject):
        def survey(self, frames):
            if frames[0].origin.label.startswith("bad"):
                raise RuntimeError("a bug")
            return super().survey(frames)

    files = [write(tmp_path / "bad.npz"), write(tmp_path / "good.npz")]
    console = Console(file=io.StringIO(), width=200)
    bad, good = reconstruct_files(Broken(), files, BatchJob(tmp_path / "out"), console)
    assert bad["error"] == "RuntimeError: a bug" and good["object"]["stitched"] == 63
    assert "Traceback" in caplog.text


def test_the_probe_is_kept_and_serves_the_next_scan(tmp_path):
    result, _ = reconstruct(tmp_path, KnownObject())
    np.testing.assert_array_equal(read_probe(Path(result["output"])), PROBE[None].astype(np.complex64))


def test_every_frame_too_when_asked(tmp_path):
    result, _ = reconstruct(tmp_path, KnownObject(), keep_frames=True)
    files = sorted((tmp_path / "out").glob("*_0*.h5"))
    assert len(files) == 63
    again = read_posterior(files[10])
    assert again.place == tuple(places()[10]) and again.density.shape == (2, 24, 24)
    stitcher = Stitcher(INFO.neighbours)
    for file in files:
        stitcher.add(read_posterior(file))
    np.testing.assert_allclose(stitcher.result().std, read_object(result["output"]).std, rtol=1e-6)


def test_what_spoils_a_scan_is_said(tmp_path):
    whole, _ = reconstruct(tmp_path, KnownObject())
    for alarms, verdict, count in ((11, "WARNING", 10), (40, "ALARM", 39), (64, "ALARM", 63)):
        result, _ = reconstruct(tmp_path, KnownObject(alarms=range(1, alarms)))
        trust, shown = result["trust"], result["object"]
        assert trust["verdict"] == verdict
        said = f"{shown['doubtful_share']:.0%} of the pixels rest on {count} of 63 frames that are not to be"
        assert said in trust["reason"] and "(median reduced chi-squared 9)" in trust["reason"]
        # what only they saw is there, less well known
        assert shown["stitched"] == 63 and shown["shape"] == whole["object"]["shape"]
    assert trust["reason"].startswith("no frame is to be trusted, nor is the object")
    found = read_object(result["output"])
    assert found.doubtful and found.doubted[found.seen].all()
    result, said = reconstruct(tmp_path, KnownObject(info=replace(INFO, neighbours=0), fails=True))
    assert "none of 63 frames could be used; the first: out of order" in result["error"]
    assert "none of 63 frames" in said


def test_a_pixel_is_as_it_was_said():
    """Far from the origin differences of places have other digits."""
    reconstructor = KnownObject()
    found, records = stitched(reconstructor, places()[:3])
    far = replace(found, axes=tuple(replace(a, values=a.values * PIXEL_M + 0.1) for a in found.axes))
    files = {name: Path("x") for name in ("input_path", "output", "figure")}
    said = object_as_json(far, records, reconstructor.info, latency_s=1.0, **files)
    assert said["object"]["pixel"] == PIXEL_M


def test_islands_are_a_warning():
    reconstructor = KnownObject()
    where = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 40.0]])
    found, records = stitched(reconstructor, where)
    trust = scan_trust(found, records)
    assert trust.verdict == "WARNING" and "2 parts without overlap" in trust.reason


def stitched(reconstructor, where):
    stitcher, records = Stitcher(), []
    for i, (image, place) in enumerate(zip(counts(where), where, strict=True)):
        frame = Frame(image, PtychographyGeometry(PROBE, tuple(place)), origin=Origin("s", seq_num=i + 1))
        (result,) = reconstructor([frame])
        stitcher.add(result)
        records.append(FrameRecord.of(result))
    return stitcher.result(), records


def test_the_figure_shows_what_was_seen_the_right_way_up():
    found, records = stitched(KnownObject(), places()[:9])
    figure = figure_object(found, "a scan", scan_trust(found, records))
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert set(panels) == {"phase", "amplitude", "standard deviation"}
    image = panels["phase"].images[0]
    np.testing.assert_array_equal(image.get_array().filled(np.nan), found.parts[0])
    assert image.origin == "upper" and panels["phase"].get_xlabel() == "x (px)"
    left, right, bottom, top = image.get_extent()
    assert (left, top) == (-0.5, -0.5) and bottom > top and right - left == found.mean.shape[1]
    assert figure._suptitle.get_text().startswith("a scan   ·   9 frames")
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert "phase (rad)" in labels
    assert not panels["standard deviation"].collections
    doubted = found.seen & (np.arange(found.mean.shape[0])[:, None] < 12)
    hatched = figure_object(replace(found, doubted=doubted), "a scan", scan_trust(found, records)).axes[2]
    (marked,) = (path.vertices for path in hatched.collections[0].get_paths())
    assert marked[:, 1].max() == pytest.approx(11.5) and marked[:, 1].min() == 0
    assert "rests on ALARM frames" in hatched.get_xlabel()
    nothing = replace(found, component=np.zeros_like(found.component))
    with pytest.raises(FrameError, match="nothing was seen"):
        figure_object(nothing, "a scan", scan_trust(found, records))


def test_the_live_view_follows_the_object(tmp_path):
    where, processed = places(), []
    np.savez(tmp_path / "probe.npz", probe=PROBE)
    settings = StreamSettings(data_key="eiger", probe=tmp_path / "probe.npz", object_every_s=0, batch_size=16)
    view = LiveReconstruction(interval_s=60)
    processor = StreamProcessor(
        settings,
        DerivedFiles(tmp_path / "arrays"),
        [view, lambda name, doc: processed.append(name)],
        reconstructor=KnownObject(),
    )
    for name, doc in raw_scan(where):
        processor(name, doc)
        if len(processed) > 2 and view.received == 16:
            shown = view._state.snapshot().load_density()
            # no object is written before the end where the extents are not known: a patch is shown
            assert shown.info.quantity == "phase" and shown.mean.shape == (24, 24)
    view.update()
    shown = view._state.snapshot().load_density()
    assert shown.info.quantity == "phase of the object" and shown.info.units == "rad"
    assert [axis.name for axis in shown.info.axes] == ["y", "x"]
    assert shown.mean.shape == shown.std.shape == (60, 72) and np.isfinite(shown.mean).all()
    view.close()
    assert view.errors == 0 and view.received == 63
    titles = {axes.get_title() for axes in view.figure.axes}
    assert {"posterior mean", "standard deviation"} <= titles
    posterior = KnownObject()([Frame(counts(where[:1])[0], PtychographyGeometry(PROBE, (0.0, 0.0)))])[0]
    shown = LiveReconstruction(interval_s=60)
    shown.show(posterior, INFO)
    shown.close()
    assert shown.errors == 0 and shown.drawn == 1
