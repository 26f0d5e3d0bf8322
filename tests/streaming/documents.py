"""Raw documents for the tests of this room, made by event_model."""

import event_model
import numpy as np


def raw_run(n=3, shape=(20,), data_key="det", stream="primary", seed=0, stop=True, md=None):
    """Yield the documents of a run with `n` events that hold an array inline."""
    rng = np.random.default_rng(seed)
    run = event_model.compose_run(metadata=md or {})
    yield "start", run.start_doc
    keys = {data_key: {"source": "test", "dtype": "array", "shape": list(shape)}}
    stream_bundle = run.compose_descriptor(name=stream, data_keys=keys)
    yield "descriptor", stream_bundle.descriptor_doc
    for i in range(n):
        data = {data_key: rng.poisson(100, shape).astype(float)}
        yield (
            "event",
            stream_bundle.compose_event(data=data, timestamps={data_key: float(i)}),
        )
    if stop:
        yield "stop", run.compose_stop()


def stream_run(blocks=((0, 4), (4, 10)), data_key="det"):
    """Yield the documents of a run whose frames lie in a file."""
    run = event_model.compose_run()
    yield "start", run.start_doc
    keys = {data_key: {"source": "test", "dtype": "array", "shape": [8, 8], "external": "STREAM:"}}
    bundle = run.compose_descriptor(name="primary", data_keys=keys)
    yield "descriptor", bundle.descriptor_doc
    resource, compose_datum = run.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri="file://localhost/nowhere.h5",
        data_key=data_key,
        parameters={"dataset": "/data"},
    )
    yield "stream_resource", resource
    for start, stop in blocks:
        yield (
            "stream_datum",
            compose_datum(
                descriptor=bundle.descriptor_doc,
                indices={"start": start, "stop": stop},
                seq_nums={"start": start + 1, "stop": stop + 1},
            ),
        )
    yield "stop", run.compose_stop()
