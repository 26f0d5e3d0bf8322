"""Frames in files: Resource and Datum, StreamResource and StreamDatum, and files that are broken."""

import json
import os
import struct
from importlib.metadata import EntryPoint
from pathlib import Path

import bluesky.tests.examples as examples
import fabio
import h5py
import numpy as np
import pytest

from nfphasing_bluesky.core import StreamSettings
from nfphasing_bluesky.documents.handlers import AnnouncedHandler, discover_handlers
from nfphasing_bluesky.documents.router import FrameRouter

SI = {"wavelength_m": 1e-10, "distance_m": 2.0, "pixel_size_m": [1e-4, 1e-4], "poni_m": [0.0, 0.0]}
GEOMETRY = {"nfphasing": {"geometry": SI}}
IMAGES = np.random.default_rng(0).poisson(5.0, size=(8, 13, 17))


def write_images(path: Path, images: np.ndarray = IMAGES, name: str = "/entry/data/data_2") -> Path:
    with h5py.File(path, "w") as file:
        file[name] = images
    return path


def route(heard, documents, wait_s=0.2, **settings):
    router = FrameRouter(heard, StreamSettings(**settings), wait_s=wait_s)
    for name, doc in documents:
        router(name, doc)
    router.close()
    return heard


def stream_run(raw_run, key_of, path, rows=((0, 3),), shape=(1, 13, 17), **parameters):
    run = raw_run({"eiger": key_of(shape, external="STREAM:")}, **GEOMETRY)
    resource = run.bundle.compose_stream_resource(
        mimetype=parameters.pop("mimetype", "application/x-hdf5"),
        uri=f"file://localhost{path}",
        data_key="eiger",
        parameters={"dataset": "/entry/data/data_2", **parameters},
    )
    run.documents.append(("stream_resource", dict(resource.stream_resource_doc)))
    for start, stop in rows:
        datum = resource.compose_stream_datum(
            indices={"start": start, "stop": stop},
            seq_nums={"start": start + 1, "stop": stop + 1},
            descriptor=run.descriptor.descriptor_doc,
        )
        run.documents.append(("stream_datum", dict(datum)))
    return run


def example(name: str, root: Path, **start) -> list[tuple[str, dict]]:
    text = (Path(examples.__path__[0]) / f"{name}.json").read_text()
    text = text.replace("{{ root_path }}", str(root).lstrip("/")).replace("{{ uuid }}", "an-example")
    documents = [(entry["name"], entry["doc"]) for entry in json.loads(text)]
    documents[0][1].update(start)
    return documents


def test_stream_datum_of_several_rows(heard, raw_run, key_of, tmp_path):
    path = write_images(tmp_path / "a.h5")
    route(heard, stream_run(raw_run, key_of, path, rows=((0, 3), (3, 5))).documents)
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 2, 3, 4, 5]
    for index, frame in enumerate(heard.frames):
        np.testing.assert_array_equal(frame.intensity, IMAGES[index])


def test_two_exposures_an_event_are_two_rows(heard, raw_run, key_of, tmp_path):
    path = write_images(tmp_path / "a.h5")
    run = stream_run(raw_run, key_of, path, shape=(2, 13, 17))
    run.documents[0][1]["nfphasing"] = {"geometry": SI, "exposures": "sum"}
    route(heard, run.documents)
    np.testing.assert_array_equal(heard.frames[2].intensity, IMAGES[4] + IMAGES[5])


def test_path_with_spaces_and_root_map(heard, raw_run, key_of, tmp_path):
    (tmp_path / "my data").mkdir()
    write_images(tmp_path / "my data" / "a.h5")
    run = stream_run(raw_run, key_of, "/beamline/my%20data/a.h5")
    router = FrameRouter(heard, root_map={"/beamline": str(tmp_path)}, wait_s=0.1)
    for name, doc in run.documents:
        router(name, doc)
    assert len(heard.frames) == 3


def test_documents_ahead_of_the_file_wait_for_it(heard, raw_run, key_of, tmp_path):
    import threading

    path = tmp_path / "late.h5"
    timer = threading.Timer(0.3, write_images, args=(path,))
    timer.start()
    route(heard, stream_run(raw_run, key_of, path).documents, wait_s=5.0)
    timer.join()
    assert len(heard.frames) == 3


def test_growing_file_is_refreshed(heard, raw_run, key_of, tmp_path):
    path = tmp_path / "growing.h5"
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset(
            "/entry/data/data_2", shape=(0, 13, 17), maxshape=(None, 13, 17), dtype="i8"
        )
        file.swmr_mode = True
        run = stream_run(raw_run, key_of, path, rows=((0, 2), (2, 5)))
        router = FrameRouter(heard, wait_s=0.2)
        for name, doc in run.documents:
            if name == "stream_datum":
                stop = doc["indices"]["stop"]
                data.resize(stop, axis=0)
                data[:stop] = IMAGES[:stop]
                data.flush()
            router(name, doc)
        assert [frame.origin.seq_num for frame in heard.frames] == [1, 2, 3, 4, 5]
        np.testing.assert_array_equal(heard.frames[4].intensity, IMAGES[4])


@pytest.mark.parametrize(
    ("dtype", "shape", "chunks", "compression", "says"),
    [
        ("f8", (3, 20_000, 20_000), (1, 20_000, 20_000), None, "one event needs 3052 MB, at most 512"),
        ("u1", (3000, 1000, 1000), (1000, 1000, 1000), "gzip", "one event needs 954 MB, at most 512"),
        (h5py.string_dtype(), (3, 13, 17), None, None, "expected numbers"),
    ],
)
def test_files_that_are_small_and_hold_too_much_are_not_read(
    heard, raw_run, key_of, tmp_path, dtype, shape, chunks, compression, says
):
    path = tmp_path / "sparse.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("/entry/data/data_2", shape, dtype, chunks=chunks, compression=compression)
    assert path.stat().st_size < 100_000
    route(heard, stream_run(raw_run, key_of, path, rows=((0, 1),)).documents)
    assert len(heard.failures) == 1 and says in heard.failures[0].reason, heard.failures


def test_templates_that_would_take_all_memory_fail_their_frames(heard, raw_run, key_of, tmp_path):
    run = stream_run(
        raw_run,
        key_of,
        f"{tmp_path}/",
        mimetype="multipart/related;type=image/tiff",
        template="{:9000000000}",
    )
    route(heard, run.documents)
    assert len(heard.failures) == 3 and "has other fields than whole numbers" in heard.failures[0].reason


@pytest.mark.parametrize("kind", ["application/x-hdf5", "multipart/related;type=image/tiff"])
def test_a_pipe_is_not_waited_for(heard, raw_run, key_of, tmp_path, kind):
    os.mkfifo(tmp_path / "img_00000.tif")
    images = kind != "application/x-hdf5"
    parameters = {"template": "img_{:05d}.tif"} if images else {}
    path = f"{tmp_path}/" if images else tmp_path / "img_00000.tif"
    run = stream_run(raw_run, key_of, path, rows=((0, 1),), mimetype=kind, **parameters)
    route(heard, run.documents)
    assert "is no regular file" in heard.failures[0].reason


def test_an_image_that_says_it_is_huge_is_not_read(heard, raw_run, key_of, tmp_path):
    entries = [(256, 4, 1, 40_000), (257, 4, 1, 40_000), (258, 3, 1, 16), (273, 4, 1, 8), (279, 4, 1, 8)]
    head = b"II" + struct.pack("<HIH", 42, 8, len(entries))
    tags = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    (tmp_path / "img_00000.tif").write_bytes(head + tags + bytes(4))
    run = stream_run(
        raw_run,
        key_of,
        f"{tmp_path}/",
        rows=((0, 1),),
        mimetype="multipart/related;type=image/tiff",
        template="img_{:05d}.tif",
    )
    route(heard, run.documents)
    assert len(heard.failures) == 1 and "at most 512 are read" in heard.failures[0].reason, heard.failures


def test_truncated_file_fails_its_frames(heard, raw_run, key_of, tmp_path):
    path = write_images(tmp_path / "cut.h5")
    path.write_bytes(path.read_bytes()[:3000])
    run = stream_run(raw_run, key_of, path)
    run.stop()
    route(heard, run.documents)
    assert len(heard.failures) == 3 and not heard.frames
    assert "truncated" in heard.failures[0].reason and "cut.h5" in heard.failures[0].reason
    assert heard.stopped[0][1] == "success"


def test_file_with_fewer_rows_than_announced(heard, raw_run, key_of, tmp_path):
    path = write_images(tmp_path / "short.h5", IMAGES[:2])
    route(heard, stream_run(raw_run, key_of, path, rows=((0, 4),)).documents)
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 2]
    assert [failure.origin.seq_num for failure in heard.failures] == [3, 4]
    assert "has 2 rows, expected at least 3" in heard.failures[0].reason


def test_unreadable_kinds_of_resources(heard, raw_run, key_of, tmp_path):
    route(heard, stream_run(raw_run, key_of, tmp_path / "x", rows=((0, 1),), mimetype="video/mp4").documents)
    assert "'video/mp4' cannot be read here" in heard.failures[0].reason
    run = stream_run(raw_run, key_of, tmp_path / "x", rows=((0, 1),))
    run.documents[2][1]["uri"] = "s3://bucket/x.h5"
    route(heard, run.documents)
    assert "not s3://" in heard.failures[1].reason


def test_numbered_tiff_files(heard, raw_run, key_of, tmp_path):
    for index in range(2):
        fabio.tifimage.TifImage(data=IMAGES[index].astype(np.uint32)).write(tmp_path / f"img_{index:05d}.tif")
    run = stream_run(
        raw_run,
        key_of,
        f"{tmp_path}/",
        rows=((0, 3),),
        mimetype="multipart/related;type=image/tiff",
        template="img_{:05d}.tif",
    )
    route(heard, run.documents)
    np.testing.assert_array_equal(heard.frames[1].intensity, IMAGES[1])
    assert "img_00002.tif cannot be read" in heard.failures[0].reason


def resource_run(raw_run, key_of, path, spec="AD_HDF5", points=2, **kwargs):
    run = raw_run({"pilatus": key_of((1, 13, 17), external="FILESTORE:")}, **GEOMETRY)
    resource = run.bundle.compose_resource(
        spec=spec,
        root="/",
        resource_path=str(path).lstrip("/"),
        resource_kwargs=kwargs,
        path_semantics="posix",
    )
    run.documents.append(("resource", dict(resource.resource_doc)))
    for point in range(points):
        datum = dict(resource.compose_datum(datum_kwargs={"point_number": point}))
        run.documents.append(("datum", datum))
        event = run.descriptor.compose_event(
            data={"pilatus": datum["datum_id"]}, timestamps={"pilatus": 0.0}, filled={"pilatus": False}
        )
        run.documents.append(("event", dict(event)))
    run.stop()
    return run


def test_resource_and_datum(heard, raw_run, key_of, tmp_path, oracle):
    oracle("area_detector_handlers")
    path = write_images(tmp_path / "ad.h5", name="/entry/data/data")
    route(heard, resource_run(raw_run, key_of, path, frame_per_point=1).documents)
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 2], heard.failures
    np.testing.assert_array_equal(heard.frames[1].intensity, IMAGES[1])


def test_datum_after_its_event(heard, raw_run, key_of, tmp_path, oracle):
    oracle("area_detector_handlers")
    path = write_images(tmp_path / "ad.h5", name="/entry/data/data")
    documents = resource_run(raw_run, key_of, path, points=1, frame_per_point=1).documents
    documents[3], documents[4] = documents[4], documents[3]
    assert [name for name, _ in documents[3:5]] == ["event", "datum"]
    assert len(route(heard, documents).frames) == 1


def test_datum_that_never_comes(heard, raw_run, key_of, tmp_path):
    documents = resource_run(raw_run, key_of, tmp_path / "x.h5", points=1).documents
    route(heard, [entry for entry in documents if entry[0] != "datum"])
    assert heard.failures[0].reason == "event 1: pilatus had not arrived when the run ended"


def test_handler_that_is_not_installed(heard, raw_run, key_of, tmp_path):
    assert "AD_NEW_KIND" not in discover_handlers()
    route(heard, resource_run(raw_run, key_of, tmp_path / "x.h5", spec="AD_NEW_KIND").documents)
    assert len(heard.failures) == 2 and heard.stopped[0][1] == "success"
    assert (
        "'AD_NEW_KIND'" in heard.failures[0].reason and "area-detector-handlers" in heard.failures[0].reason
    )


def test_a_handler_whose_package_is_broken(heard, raw_run, key_of, tmp_path):
    handlers = {"AD_HDF5": AnnouncedHandler(EntryPoint("AD_HDF5", "no_such_package:Handler", "any"))}
    router = FrameRouter(heard, handlers=handlers)
    for name, doc in resource_run(raw_run, key_of, tmp_path / "x.h5", frame_per_point=1).documents:
        router(name, doc)
    assert len(heard.failures) == 2 and heard.stopped[0][1] == "success"
    assert "no_such_package" in heard.failures[0].reason


def test_handler_of_a_truncated_file(heard, raw_run, key_of, tmp_path, oracle):
    oracle("area_detector_handlers")
    path = write_images(tmp_path / "ad.h5", name="/entry/data/data")
    path.write_bytes(path.read_bytes()[:2500])
    route(heard, resource_run(raw_run, key_of, path, frame_per_point=1).documents)
    assert len(heard.failures) == 2
    assert "'AD_HDF5' could not read" in heard.failures[1].reason and "truncated" in heard.failures[1].reason


def test_bluesky_example_external_assets(heard, tmp_path):
    write_images(tmp_path / "dataset.h5", IMAGES[:3])
    route(heard, example("external_assets", tmp_path, **GEOMETRY), data_key="det-key2")
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 2, 3]
    np.testing.assert_array_equal(heard.frames[2].intensity, IMAGES[2])


def test_bluesky_example_two_files_for_one_key(heard, tmp_path):
    write_images(tmp_path / "dataset.h5", IMAGES[:3])
    write_images(tmp_path / "dataset_part2.h5", IMAGES[3:8])
    route(heard, example("external_assets_single_key", tmp_path, **GEOMETRY))
    assert len(heard.frames) == 8
    np.testing.assert_array_equal(heard.frames[7].intensity, IMAGES[7])


def test_bluesky_example_legacy_resources_without_run_start(heard, tmp_path):
    documents = example("external_assets_legacy", tmp_path, **GEOMETRY)
    route(heard, documents)
    assert len(heard.failures) == 3
    assert "AD_HDF5_SWMR_STREAM" in heard.failures[0].reason

    class Slices:
        def __init__(self, path, **kwargs):
            self._path = path

        def __call__(self, dataset, frame):
            with h5py.File(self._path) as file:
                return file[dataset][frame]

    write_images(tmp_path / "dataset.h5", IMAGES[:3])
    documents[2][1]["root"] = "/" + documents[2][1]["root"]
    documents[2][1]["resource_path"] = documents[2][1]["resource_path"].lstrip("/")
    router = FrameRouter(heard, handlers={"AD_HDF5_SWMR_STREAM": Slices})
    for name, doc in documents:
        router(name, doc)
    assert len(heard.frames) == 3
    np.testing.assert_array_equal(heard.frames[2].intensity, IMAGES[2])


def test_bluesky_example_internal_events(heard, tmp_path):
    route(heard, example("internal_events", tmp_path))
    assert heard.stopped and heard.stopped[0][1] == "success"
    assert len(heard.started) == 1
