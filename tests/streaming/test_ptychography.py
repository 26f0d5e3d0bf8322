"""A ptychographic scan through the processor: neighbours, the derived run and its object, tiled."""

from pathlib import Path

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from event_model import DocumentNames, schema_validators
from ophyd.sim import SynAxis, SynSignal

from nfphasing_bluesky.core import StreamSettings
from nfphasing_bluesky.storage.catalogs import close_catalog, open_catalog
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
from nfphasing_bluesky.storage.queries import object_dataset
from nfphasing_bluesky.storage.sink import CatalogSink
from nfphasing_bluesky.streaming.processor import StreamProcessor
from tests.engine import running_engine
from tests.known_object import PROBE, SHAPE, SIDE, KnownObject, counts, deviation

PIXEL_M = 2e-8
STEP_PX = 6
ROWS, COLUMNS = 7, 9


class Stage(SynAxis):
    """A motor in micrometres."""

    def describe(self):
        return {name: {**key, "units": "um"} for name, key in super().describe().items()}


@pytest.fixture(scope="module")
def raw():
    """Documents of a grid scan over the known object, with one dark frame."""
    step_um = STEP_PX * PIXEL_M * 1e6
    slow, fast = Stage(name="sam_y"), Stage(name="sam_x")
    shots = []

    def shot():
        place = np.array([m.position / step_um * STEP_PX for m in (slow, fast)]).round()
        image = counts(place[None], seed=len(shots))[0]
        shots.append(place)
        return image * (len(shots) != 5)

    camera = SynSignal(name="eiger", func=shot)
    documents = []
    last = ((ROWS - 1) * step_um, (COLUMNS - 1) * step_um)
    with running_engine() as RE:
        RE.subscribe(lambda name, doc: documents.append((name, doc)))
        RE(
            bp.grid_scan([camera], slow, 0, last[0], ROWS, fast, 0, last[1], COLUMNS, snake_axes=True),
            nfphasing={"geometry": {"object_pixel_m": PIXEL_M, "wavelength_m": 1e-10}},
        )
    return documents


@pytest.fixture
def settings(tmp_path):
    np.savez(tmp_path / "probe.npz", probe=PROBE)
    return StreamSettings(
        data_key="eiger", probe=tmp_path / "probe.npz", batch_size=8, object_every_s=0, check_frames=0
    )


def process(raw, settings, arrays, reconstructor=None, sinks=()):
    derived = []

    def check(name, doc):
        schema_validators[DocumentNames[name]].validate(doc)
        derived.append((name, doc))

    reconstructor = reconstructor or KnownObject()
    processor = StreamProcessor(settings, arrays, [check, *sinks], reconstructor=reconstructor)
    for name, doc in raw:
        processor(name, doc)
    processor.close()
    assert processor.trouble == ""
    return derived, reconstructor


def stream(derived, name):
    """Descriptor of a stream, its columns, and the files of its arrays."""
    (descriptor,) = (d for n, d in derived if n == "descriptor" and d["name"] == name)
    pages = [d for n, d in derived if n == "event_page" and d["descriptor"] == descriptor["uid"]]
    columns = {key: [v for page in pages for v in page["data"][key]] for key in pages[0]["data"]}
    uids = {
        d["stream_resource"]
        for n, d in derived
        if n == "stream_datum" and d["descriptor"] == descriptor["uid"]
    }
    files = {
        d["data_key"]: (d["uri"].removeprefix("file://localhost"), d["parameters"])
        for n, d in derived
        if n == "stream_resource" and d["uid"] in uids
    }
    return descriptor, columns, files


def read(files, key):
    path, parameters = files[key]
    with h5py.File(path) as file:
        return file[parameters["dataset"]][()]


def transmission(parts):
    return np.exp(1j * parts[0] - parts[1])


def test_a_grid_scan_grows_an_object(raw, settings, tmp_path):
    derived, reconstructor = process(raw, settings, DerivedFiles(tmp_path / "arrays"))
    descriptor, columns, files = stream(derived, "object")
    frames = columns["object_frames"]
    assert frames == sorted(frames) and frames[-1] == ROWS * COLUMNS - 1 and len(frames) == 8
    assert columns["object_components"][-1] == 1
    assert descriptor["data_keys"]["object_mean"]["dims"] == ["part", "y", "x"]
    mean, std = read(files, "object_mean"), read(files, "object_std")
    assert mean.dtype == np.float32 and mean.shape == (8, 2, *std.shape[1:])
    # known from the extents of the grid, and a margin
    row, column = columns["object_row"][-1], columns["object_column"][-1]
    assert (row, column) == (-3, -3) and std.shape[1:] == (36 + SIDE + 6, 48 + SIDE + 6)
    seen = [np.isfinite(one).sum() for one in std]
    assert seen == sorted(seen) and seen[0] < seen[-1]
    within = deviation(_framed(transmission(mean[-1])), _framed(std[-1]))[12:48, 12:60]
    assert np.isfinite(within).all() and 0.2 < np.mean(within**2) < 1.2
    assert descriptor["configuration"]["nfphasing"]["data"]["y"][3] == pytest.approx(0)
    assert descriptor["configuration"]["nfphasing"]["data_keys"]["x"]["units"] == "m"
    # earlier neighbours, the nearest ones
    seventh = reconstructor.seen[6]
    assert [n.origin.seq_num for n in seventh.neighbours] == [7, 6]
    assert [len(f.neighbours) for f in reconstructor.seen[:3]] == [0, 1, 2]
    with h5py.File(files["object_mean"][0]) as file:
        group = file["entry"][file["entry"].attrs["default"]]
        assert group.attrs["signal"] == "mean" and list(group.attrs["axes"]) == [".", "part", "y", "x"]
        assert group["y"].attrs["units"] == "m" and group["std"].shape == std.shape


def _framed(image):
    """The part of a window from (-3, -3) that the truth has."""
    whole = np.full(SHAPE, np.nan, dtype=image.dtype)
    part = image[3:, 3:][: SHAPE[0], : SHAPE[1]]
    whole[: part.shape[0], : part.shape[1]] = part
    return whole


def test_the_ledger_and_the_frames_are_as_ever(raw, settings, tmp_path):
    derived, _ = process(raw, settings, DerivedFiles(tmp_path / "arrays"))
    (stop,) = (d for n, d in derived if n == "stop")
    assert stop["exit_status"] == "success"
    ledger = [d for n, d in derived if n == "event"][-1]["data"]
    assert (ledger["received"], ledger["reconstructed"], ledger["failed"]) == (63, 62, 1)
    _, columns, files = stream(derived, "density")
    assert columns["verdict"].count("ALARM") == 1
    assert "no photons" in columns["reason"][columns["verdict"].index("ALARM")]
    assert read(files, "density_mean").shape == (63, 2, SIDE, SIDE)


def test_without_extents_the_object_is_written_once(raw, settings, tmp_path):
    bare = [(n, {k: v for k, v in d.items() if k != "extents"} if n == "start" else d) for n, d in raw]
    derived, _ = process(bare, settings, DerivedFiles(tmp_path / "arrays"), KnownObject(alarms=(10, 11)))
    _, columns, files = stream(derived, "object")
    assert columns["object_frames"] == [62] and columns["object_left_out"] == [0]
    # their neighbours saw all of it better
    assert columns["object_doubtful_share"] == [0.0] and columns["object_doubtful"] == [0]
    assert read(files, "object_std").shape == (1, 60, 72)


def test_a_run_of_which_no_frame_is_to_be_trusted_says_so(raw, settings, tmp_path):
    derived, _ = process(raw, settings, DerivedFiles(tmp_path / "arrays"), KnownObject(alarms=range(1, 64)))
    _, columns, _ = stream(derived, "object")
    assert columns["object_doubtful_share"][-1] == 1 and columns["object_frames"][-1] == 62
    derived, _ = process(raw, settings, DerivedFiles(tmp_path / "more"), KnownObject(alarms=range(1, 30)))
    _, columns, _ = stream(derived, "object")
    assert columns["object_doubtful"][0] == 1 and columns["object_doubtful"][-1] == 0
    assert columns["object_frames"][-1] == 62 and 0.2 < columns["object_doubtful_share"][-1] < 0.5


def test_rows_come_at_a_limited_rate_and_the_last_is_the_whole(raw, settings, tmp_path):
    slow = settings.model_copy(update={"object_every_s": 3600.0})
    derived, _ = process(raw, slow, DerivedFiles(tmp_path / "arrays"))
    _, columns, files = stream(derived, "object")
    assert columns["object_frames"] == [62]
    fast, _ = process(raw, settings, DerivedFiles(tmp_path / "more"))
    np.testing.assert_array_equal(
        read(stream(fast, "object")[2], "object_mean")[-1], read(files, "object_mean")[-1]
    )


def test_a_full_disk_loses_the_object_and_nothing_else(raw, settings, tmp_path):
    from nfphasing_bluesky.core import StorageError

    class NoRoomForObjects(DerivedFiles):
        def open(self, spec):
            if spec.group == "object":
                raise StorageError("no space left on device")
            return super().open(spec)

    derived, _ = process(raw, settings, NoRoomForObjects(tmp_path / "arrays"))
    _, columns, files = stream(derived, "object")
    assert columns["object_frames"][-1] == 62 and not files
    assert [d["exit_status"] for n, d in derived if n == "stop"] == ["success"]


def test_a_catalog_has_the_object(raw, settings, tmp_path):
    files = tmp_path / "arrays"
    client = open_catalog(tmp_path / "catalog", readable=[files])
    try:
        sink = CatalogSink(client, tmp_path / "backup")
        derived, _ = process(raw, settings, DerivedFiles(files), sinks=[sink])
        assert sink.flush(60) and not sink.problems
        assert sink.close()
        uid = derived[0][1]["uid"]
        dataset = object_dataset(client["processed"][uid])
        assert dataset["object_mean"].dims == ("time", "part", "y", "x")
        assert dataset["x"].attrs["units"] == "m" and dataset["object_frames"][-1] == 62
        mean = dataset["object_mean"].to_numpy()
        assert mean.shape[:2] == (8, 2) and mean.dtype == np.float32
        _, _, arrays = stream(derived, "object")
        np.testing.assert_array_equal(mean, read(arrays, "object_mean"))
    finally:
        close_catalog(client)


def test_a_run_without_a_probe_says_where_it_is_from(raw, settings, tmp_path):
    asked = settings.model_copy(update={"probe": Path("retrieve"), "probe_frames": 30, "check_frames": 20})
    derived, reconstructor = process(raw, asked, DerivedFiles(tmp_path / "arrays"))
    start, ledger = derived[0][1], [d for n, d in derived if n == "event"][-1]["data"]
    assert "retrieved from the first 29 frames with light" in start["nfphasing"]["scan"]["probe"]
    assert (ledger["received"], ledger["reconstructed"], ledger["failed"]) == (63, 62, 1)
    assert [f.origin.seq_num for f in reconstructor.seen] == [1, 2, 3, *range(5, 64)]
    _, columns, _ = stream(derived, "density")
    assert sorted(columns["raw_seq_num"]) == list(range(1, 64))


def test_a_known_probe_is_named_too(raw, settings, tmp_path):
    derived, _ = process(raw, settings, DerivedFiles(tmp_path / "arrays"))
    assert derived[0][1]["nfphasing"]["scan"] == {"probe": "probe.npz", "orientation": "not looked at"}


def test_frames_that_lie_against_their_places_are_said_to(raw, settings, tmp_path):
    asked = settings.model_copy(update={"orientation": "transpose", "check_frames": 20})
    derived, reconstructor = process(raw, asked, DerivedFiles(tmp_path / "arrays"))
    assert "--orientation as-is" in derived[0][1]["nfphasing"]["scan"]["orientation"]
    assert all(frame.doubt for frame in reconstructor.seen)
