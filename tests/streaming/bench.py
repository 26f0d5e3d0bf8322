"""Figures of the streaming room, one JSON object: `python tests/streaming/bench.py [MODEL]`.

With a model name the callback's child runs that model, else the straight-line one slowed to 20 ms a frame.
"""

import importlib.util
import json
import shutil
import sys
import threading
import time
from pathlib import Path

import bluesky.plans as bp
import numpy as np
import zmq
from bluesky import RunEngine

from nfphasing_bluesky.streaming import ReconstructionCallback, wire
from nfphasing_bluesky.streaming.child import COMMAND
from nfphasing_bluesky.streaming.endpoints import bind, connect, private_folder

HERE = Path(__file__).resolve().parent


def wire_rate(shape, n):
    """Documents/s and MB/s of event documents with a float32 array, packed, sent and unpacked."""
    folder, context = private_folder(), zmq.Context()
    pull = bind(context, zmq.PULL, f"ipc://{folder}/wire", 16)
    push = connect(context, zmq.PUSH, f"ipc://{folder}/wire", 16)
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    document = {"descriptor": "d", "uid": "u", "seq_num": 1, "time": 0.0, "data": {"det": array}}
    reader = threading.Thread(target=lambda: [wire.unpack_document(pull.recv()) for _ in range(n)])
    began = time.perf_counter()
    reader.start()
    for _ in range(n):
        push.send(wire.pack_document("event", document))
    reader.join()
    seconds = time.perf_counter() - began
    pull.close()
    push.close()
    context.destroy(linger=0)
    shutil.rmtree(folder)
    return {"documents_per_s": n / seconds, "megabytes_per_s": n * array.nbytes / seconds / 1e6}


def callback_cost(model=None, n=300):
    """Milliseconds a document that the callback holds the RunEngine's thread, inference in its child."""
    spec = importlib.util.spec_from_file_location("bench_callback", HERE / "test_callback.py")
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    command = COMMAND if model else (sys.executable, str(HERE / "tiny.py"))
    callback = ReconstructionCallback(model or "tiny-line:0.02", data_key=tests.KEY, command=command)
    try:
        callback.wait(120)
        engine = RunEngine({})
        engine.subscribe(callback)
        began = time.perf_counter()
        engine(bp.count([tests.Saxs(name="saxs")], num=n))
        scan = time.perf_counter() - began
        callback.wait(120)
        total = time.perf_counter() - began
        median, worst = callback.cost_s()
        ledger = callback.ledger()
    finally:
        callback.close()
    return {
        "median_ms": 1e3 * median,
        "max_ms": 1e3 * worst,
        "scan_s": scan,
        "until_reconstructed_s": total,
        "received": ledger.received,
        "reconstructed": ledger.reconstructed,
    }


if __name__ == "__main__":
    model = sys.argv[1] if len(sys.argv) > 1 else None
    figures = {
        "wire_curve_500": wire_rate((500,), 20_000),
        "wire_image_256": wire_rate((256, 256), 2_000),
        "callback": callback_cost(model),
    }
    print(json.dumps(figures, indent=2))
