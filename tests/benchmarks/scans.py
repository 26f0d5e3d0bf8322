"""What reconstruction costs a scan, what the worker needs, and what the wire carries."""

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import bluesky.plans as bp
import numpy as np
import zmq
from bluesky import RunEngine

from nfphasing_bluesky.streaming import ReconstructionCallback, wire
from nfphasing_bluesky.streaming.endpoints import bind, connect, private_folder
from nfphasing_bluesky.streaming.protocol import Counts
from tests.benchmarks import subjects
from tests.benchmarks.figures import Figure
from tests.streaming.test_callback import KEY, Saxs

TINY = Path(__file__).resolve().parents[1] / "streaming" / "tiny.py"
SLOW_S = 0.02
PATIENCE_S = 300.0
GIB = 2.0**30


def callback_cost(n: int) -> list[Figure]:
    """Milliseconds a document that the callback holds the RunEngine, with inference slower than the scan.

    The worker is a child process whose model is made to take 20 ms a frame, so that this is no measure of
    the model. Raises RuntimeError when the scan was the slower one, or frames are missing.
    """
    command = (sys.executable, str(TINY))
    callback = ReconstructionCallback(f"tiny-line:{SLOW_S}", data_key=KEY, command=command)
    try:
        callback.wait(PATIENCE_S)
        engine = RunEngine({})
        engine.subscribe(callback)
        began = time.perf_counter()
        engine(bp.count([Saxs(name="saxs")], num=n))
        scan = time.perf_counter() - began
        callback.wait(PATIENCE_S)
        total = time.perf_counter() - began
        median, worst = callback.cost_s()
        _check(callback.ledger(), n)
    finally:
        callback.close()
    if total < 1.5 * scan:
        raise RuntimeError(f"the scan took {scan:.2f} s of {total:.2f} s: inference was not the slower one")
    how = f"{n} exposures in {scan:.2f} s, reconstructed after {total:.2f} s"
    return [
        Figure("callback, a document: median", 1e3 * median, "ms", 1, "lower", how),
        Figure("callback, a document: largest", 1e3 * worst, "ms", detail=how),
    ]


def worker_memory(n: int) -> list[Figure]:
    """Peak memory of a worker process that reconstructed and stored n frames with a shipped model."""
    with tempfile.TemporaryDirectory(prefix="nfphasing-bench-") as folder:
        callback = ReconstructionCallback("saxs1d-pr", Path(folder) / "catalog", data_key=subjects.DATA_KEY)
        try:
            for name, document in subjects.scan(subjects.exposures(subjects.protein(), n)):
                callback(name, document)
            if not callback.wait(PATIENCE_S):
                raise RuntimeError(f"the worker did not finish {n} frames within {PATIENCE_S:g} s")
            _check(callback.ledger(), n)
            peak = peak_bytes(callback._engine.child.pid)
        finally:
            callback.close()
    how = f"VmHWM of a worker that reconstructed {n} curves with saxs1d-pr and stored them"
    return [Figure("worker, peak memory", peak / GIB, "GiB", 1.5, "lower", how)]


def peak_bytes(pid: int) -> int:
    """Largest resident size that a process of this machine ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/status has no VmHWM; peak memory needs Linux")


def wire_rate(shape: tuple[int, ...], n: int) -> list[Figure]:
    """Event documents with a float32 array, packed, sent and unpacked."""
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
    how = f"{'x'.join(map(str, shape))} float32, {n * array.nbytes / seconds / 1e6:.4g} MB/s"
    return [Figure("wire", n / seconds, "documents/s", detail=how)]


def _check(ledger: Counts, n: int) -> None:
    if (ledger.received, ledger.reconstructed) != (n, n):
        raise RuntimeError(f"{ledger}, expected {n} frames received and reconstructed")
