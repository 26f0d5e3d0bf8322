"""Raw documents for the tests of this room, made by event_model."""

import event_model
import numpy as np

Q = np.linspace(0.01, 0.3, 20)


def curve(rng):
    """A straight line with unit errors, which the tiny reconstructor can fit."""
    return 100 + 10 * np.linspace(0, 1, Q.size) + rng.normal(size=Q.size)


def raw_run(
    n=3, data_key="det", stream="primary", seed=0, stop=True, md=None, poison=None, status=None, shape=None
):
    """Yield the documents of a run whose `n` events hold a curve with its q and sigma, or images of a shape.

    `poison` maps a sequence number to a function that spoils the curve.
    """
    rng = np.random.default_rng(seed)
    run = event_model.compose_run(metadata=md or {})
    yield "start", run.start_doc
    array = {"source": "test", "dtype": "array", "shape": list(shape or [Q.size])}
    names = [data_key] if shape else [data_key, f"{data_key}_q", f"{data_key}_sigma"]
    keys = {name: dict(array) for name in names}
    if not shape:
        keys[f"{data_key}_q"]["units"] = "1/angstrom"
    bundle = run.compose_descriptor(name=stream, data_keys=keys)
    yield "descriptor", bundle.descriptor_doc
    for i in range(n):
        spoil = (poison or {}).get(i + 1, lambda values: values)
        data = dict(zip(names, [spoil(curve(rng)), Q, np.ones(Q.size)], strict=False))
        yield "event", bundle.compose_event(data=data, timestamps=dict.fromkeys(names, float(i)))
    if stop:
        yield "stop", run.compose_stop(**({"exit_status": status} if status else {}))


def stream_run(
    blocks=((0, 4), (4, 10)), data_key="det", uri="file://localhost/nowhere.h5", shape=(8, 8), template=None
):
    """Yield the documents of a run whose frames lie in a file, or in numbered images."""
    run = event_model.compose_run()
    yield "start", run.start_doc
    keys = {data_key: {"source": "test", "dtype": "array", "shape": list(shape), "external": "STREAM:"}}
    bundle = run.compose_descriptor(name="primary", data_keys=keys)
    yield "descriptor", bundle.descriptor_doc
    compose = event_model.ComposeStreamResource(run.start_doc)
    resource = compose(
        mimetype="multipart/related;type=image/tiff" if template else "application/x-hdf5",
        uri=uri,
        data_key=data_key,
        parameters={"template": template} if template else {"dataset": "/data"},
    )
    yield "stream_resource", resource.stream_resource_doc
    for start, stop in blocks:
        yield (
            "stream_datum",
            resource.compose_stream_datum(
                descriptor=bundle.descriptor_doc,
                indices={"start": start, "stop": stop},
                seq_nums={"start": start + 1, "stop": stop + 1},
            ),
        )
    yield "stop", run.compose_stop()


def resource_run(n=3, data_key="det", shape=(8, 8), template="%s%s_%6.6d.tif"):
    """Yield the documents of a run whose frames are data of a resource."""
    run = event_model.compose_run()
    yield "start", run.start_doc
    key = {"source": "test", "dtype": "array", "shape": list(shape), "external": "FILESTORE:"}
    bundle = run.compose_descriptor(name="primary", data_keys={data_key: key})
    yield "descriptor", bundle.descriptor_doc
    resource = run.compose_resource(
        spec="AD_TIFF",
        root="/",
        resource_path="nowhere",
        resource_kwargs={"template": template, "filename": "img", "frame_per_point": 1},
    )
    yield "resource", resource.resource_doc
    for i in range(n):
        datum = resource.compose_datum(datum_kwargs={"point_number": i})
        yield "datum", datum
        data, times = {data_key: datum["datum_id"]}, {data_key: float(i)}
        yield "event", bundle.compose_event(data=data, timestamps=times, filled={data_key: False})
    yield "stop", run.compose_stop()


class MemoryStore:
    """Keeps the arrays of derived runs in memory."""

    def __init__(self, broken=False):
        self.blocks, self.broken = {}, broken

    def open(self, spec):
        from nfphasing_bluesky.core import StorageError
        from nfphasing_bluesky.documents.sinks import Written

        store, rows = self, {"n": 0}

        class Writer:
            def append(self, block):
                if store.broken:
                    raise StorageError("no space left on device")
                store.blocks.setdefault(spec.uid, []).append({k: v.copy() for k, v in block.items()})
                first, count = rows["n"], len(next(iter(block.values())))
                rows["n"] += count
                paths = {name: f"/{name}" for name in block}
                return Written("file://localhost/memory.h5", paths, first, first + count, 8)

            def close(self):
                pass

        return Writer()
