"""A worker under load: frames a second, latency, what it keeps over time, and ledgers that add up."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import event_model
import numpy as np
import zmq

from nfphasing_bluesky.core import ReconstructionSettings, StreamSettings
from nfphasing_bluesky.documents.derived import DerivedRun
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.client import Listener, ask
from nfphasing_bluesky.streaming.endpoints import connect, private_folder
from nfphasing_bluesky.streaming.protocol import Counts, Verb, WorkerState
from nfphasing_bluesky.streaming.settings import WorkerSettings
from tests.benchmarks.figures import Figure
from tests.benchmarks.identity import SIDE, Identity

PATIENCE_S = 300.0
GEOMETRY = {"nfphasing": {"geometry": {"fresnel_number": 1e-3, "photons": 100.0}}}
FRAME = np.random.default_rng(0).poisson(100.0, (SIDE, SIDE)).astype(np.float32)


class Images:
    """Documents of one run of 256 x 256 float32 images, packed as they go over the wire."""

    def __init__(self) -> None:
        self._run = event_model.compose_run(metadata=GEOMETRY)
        key = {"source": "bench", "dtype": "array", "shape": [SIDE, SIDE], "dtype_numpy": "<f4"}
        self._stream = self._run.compose_descriptor(name="primary", data_keys={"det": key})
        self._event = self._stream.compose_event(data={"det": FRAME}, timestamps={"det": 0.0})
        self.head = [
            wire.pack_document("start", self._run.start_doc),
            wire.pack_document("descriptor", self._stream.descriptor_doc),
        ]

    def event(self, number: int) -> bytes:
        """The event of this sequence number, from 1."""
        return wire.pack_document("event", {**self._event, "seq_num": number})

    def stop(self, frames: int) -> bytes:
        """The stop document of a run of this many frames."""
        stop = {"uid": "stop", "run_start": self._run.start_doc["uid"], "time": 0.0, "exit_status": "success"}
        return wire.pack_document("stop", {**stop, "num_events": {"primary": frames}})


@contextmanager
def worker(stores: bool = False) -> Iterator[tuple[WorkerSettings, int, zmq.Socket]]:
    """A worker process with the identity model, over Unix sockets; arrays go to a scratch folder.

    With `stores` there is an embedded catalog in that folder, which the derived runs go to.
    """
    sockets, files = private_folder(), Path(tempfile.mkdtemp(prefix="nfphasing-bench-"))
    (files / "derived").mkdir()
    names = ("documents", "results", "control")
    settings = WorkerSettings(
        model="identity",
        stream=StreamSettings(data_key="det", batch_size=8, deadline_s=0.005, queue_size=32),
        files=files / "derived",
        catalog=str(files / "catalog") if stores else None,
        **{name: f"ipc://{sockets}/{name}" for name in names},
    )
    command = [sys.executable, str(Path(__file__).with_name("identity.py")), settings.model_dump_json()]
    process, context = subprocess.Popen(command), zmq.Context()
    try:
        push = connect(context, zmq.PUSH, settings.documents, 16)
        until(lambda: _state(settings) is WorkerState.ON)
        yield settings, process.pid, push
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        context.destroy(linger=0)
        shutil.rmtree(sockets)
        shutil.rmtree(files)


def sustained(seconds: float) -> list[Figure]:
    """Frames a second from 0MQ to a subscriber's derived documents, with the policy `block` and no loss."""
    with worker() as (settings, pid, push):
        images, sent, numbers = Images(), 0, []

        def hear(name: str, doc: dict) -> None:
            if name == "event_page":
                numbers.extend(doc["data"]["raw_seq_num"])

        listener = Listener(settings.results, on_document=hear).start()
        until(lambda: listener.silence_s < 1)
        for message in images.head:
            push.send(message)
        before, began = cpu_s(pid), time.perf_counter()
        while time.perf_counter() - began < seconds:
            sent += 1
            push.send(images.event(sent))
        push.send(images.stop(sent))
        until(lambda: ask(Verb.HEALTH, settings.control, 10).counts.reconstructed == sent)
        until(lambda: ask(Verb.HEALTH, settings.control, 10).statistics["open_runs"] == 0)
        until(lambda: len(numbers) >= sent)
        took, cpu = time.perf_counter() - began, cpu_s(pid) - before
        status = ask(Verb.HEALTH, settings.control, 10)
        listener.close()
    if numbers != list(range(1, sent + 1)):
        raise RuntimeError(
            f"a subscriber heard of {len(numbers)} frames, expected {sent}, each once, in order"
        )
    if status.counts != Counts(sent, sent, 0, 0) or status.statistics["frames_lost"]:
        raise RuntimeError(f"{status.counts}, {status.statistics}, expected {sent} frames and no loss")
    how = (
        f"{sent} frames of {SIDE}x{SIDE} float32 in {took:.1f} s, their documents heard by a subscriber; "
        f"the worker got {cpu / took:.2f} cores, "
        f"which is {sent / cpu:.0f} frames/s a core"
    )
    return [Figure("0MQ to derived documents", sent / took, "frames/s", 1000, "higher", how)]


def latency(seconds: float, rate_hz: float = 100.0) -> list[Figure]:
    """From the sending of a frame's document to its result in another process, at a fixed rate."""
    with worker() as (settings, _, push):
        images, sent, heard = Images(), {}, {}
        listener = Listener(
            settings.results, on_frame=lambda r: heard.setdefault(r.seq_num, time.perf_counter())
        ).start()
        try:
            until(lambda: listener.silence_s < 1)
            for message in images.head:
                push.send(message)
            began = time.perf_counter()
            for number in range(1, int(seconds * rate_hz) + 1):
                time.sleep(max(0.0, began + number / rate_hz - time.perf_counter()))
                message = images.event(number)
                sent[number] = time.perf_counter()
                push.send(message)
            push.send(images.stop(len(sent)))
            until(lambda: len(heard) == len(sent))
        finally:
            listener.close()
    times = 1e3 * np.array([heard[number] - sent[number] for number in sent])
    how = f"{len(sent)} frames of {SIDE}x{SIDE} float32 at {rate_hz:g} a second, to a subscriber's hands"
    p50, p99 = np.percentile(times, (50, 99))
    return [
        Figure("latency, frame to result: median", float(p50), "ms", 10, "lower", how),
        Figure("latency, frame to result: 99 %", float(p99), "ms", 50, "lower", how),
    ]


def endurance(seconds: float, rate_hz: float = 50.0) -> list[Figure]:
    """What a worker's memory, threads and open files grow by, in runs of 500 frames that a catalog takes.

    Thirty short runs come first: until then tiled's server in the worker fills its caches.
    """
    runs = max(2, int(seconds * rate_hz / 500))
    warm_up, total, before = 500 * max(1, runs // 4), 500 * runs, 300
    with worker(stores=True) as (settings, pid, push):
        for _ in range(30):
            for message in _of_ten(Images()):
                push.send(message)
        until(lambda: ask(Verb.HEALTH, settings.control, 10).counts.reconstructed == before)
        until(lambda: all_stored(settings))
        began, marks, images, inside = time.perf_counter(), [], Images(), 0
        for number in range(1, total + 1):
            time.sleep(max(0.0, began + number / rate_hz - time.perf_counter()))
            if inside == 0:
                images = Images()
                for message in images.head:
                    push.send(message)
            inside += 1
            push.send(images.event(inside))
            if inside == 500:
                push.send(images.stop(inside))
                inside = 0
                _forget_all_but_the_last(settings.files)
            if number in (warm_up, total):
                done = before + number
                until(lambda n=done: ask(Verb.HEALTH, settings.control, 10).counts.reconstructed == n)
                until(lambda: all_stored(settings))
                marks.append(held(pid))
    (rss, threads, files), (rss_end, threads_end, files_end) = marks
    how = f"{total} frames at {rate_hz:g} a second, compared with those after {warm_up}"
    return [
        Figure("memory growth", 100 * (rss_end / rss - 1), "%", 2, "lower", f"{how}; {rss / 1e6:.0f} MB"),
        Figure("threads and files more", threads_end + files_end - threads - files, "", 0, "lower", how),
    ]


def all_stored(settings: WorkerSettings) -> bool:
    """Whether the catalog has every run that has ended: nothing waits beside it."""
    if problem := ask(Verb.HEALTH, settings.control, 10).reason:
        raise RuntimeError(problem)
    return not list(Path(settings.files).with_name("backup").glob("*.jsonl"))


def _forget_all_but_the_last(folder: Path, kept: int = 1) -> None:
    """Take files of runs away that are over, as an hour of them fills a disk."""
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-kept]:
        path.unlink()


def storing(n: int, batch: int = 64) -> list[Figure]:
    """Mean and standard deviation of 256 x 256 float32 into HDF5, with the documents that say where."""
    folder = Path(tempfile.mkdtemp(prefix="nfphasing-bench-"))
    try:
        identity, documents = Identity(), []
        (posterior,) = identity([_Frame()])
        run = DerivedRun(
            event_model.compose_run().start_doc,
            identity.info,
            ReconstructionSettings(n_samples=2),
            lambda name, doc: documents.append(name),
            DerivedFiles(folder),
        )
        cpu, began = time.process_time(), time.perf_counter()
        for _ in range(n // batch):
            run.add([posterior] * batch)
        run.close()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        size = sum(path.stat().st_size for path in folder.iterdir())
    finally:
        shutil.rmtree(folder)
    if run.ledger.reconstructed != n or size < 2 * n * FRAME.nbytes:
        raise RuntimeError(f"{run.ledger}, {size} bytes, expected {n} frames stored")
    how = f"{n} frames in blocks of {batch}, {len(documents)} documents; {n / cpu:.0f} frames/s of CPU time"
    return [Figure("mean and deviation stored", n / took, "frames/s", 1500, "higher", how)]


def ledgers(n: int) -> list[Figure]:
    """Runs of ten images through a worker, interleaved two by two: how many ledgers do not add up."""
    found: list[dict] = []
    with worker() as (settings, _, push):

        def hear(name: str, doc: dict) -> None:
            if name == "event" and "received" in doc["data"]:
                found.append(doc["data"])

        listener = Listener(settings.results, on_document=hear).start()
        until(lambda: listener.silence_s < 1)
        began = time.perf_counter()
        for _ in range(0, n, 2):
            pair = Images(), Images()
            for messages in zip(*(_of_ten(images) for images in pair), strict=True):
                for message in messages:
                    push.send(message)
            _forget_all_but_the_last(settings.files, 32)
        until(lambda: len(found) >= n)
        took = time.perf_counter() - began
        left = ask(Verb.HEALTH, settings.control, 10).statistics["open_runs"]
        listener.close()
    right = {"received": 10, "reconstructed": 10, "dropped": 0, "failed": 0, "lost": 0}
    wrong = sum(any(ledger[key] != value for key, value in right.items()) for ledger in found)
    how = f"{len(found)} runs of ten frames in {took:.1f} s, {left:g} left open"
    return [Figure("ledgers that are wrong", wrong + abs(n - len(found)), "", 0, "lower", how)]


def _of_ten(images: Images) -> list[bytes]:
    return [*images.head, *(images.event(number) for number in range(1, 11)), images.stop(10)]


class _Frame:
    """Just what the identity looks at."""

    def __init__(self) -> None:
        from nfphasing_bluesky.core import Origin

        self.intensity, self.origin = FRAME, Origin("det", "raw", "primary", "det", 1, 0.0)


def cpu_s(pid: int) -> float:
    """Processor time that a process of this machine has used, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def held(pid: int) -> tuple[int, int, int]:
    """Resident bytes, threads and open files of a process of this machine: the least within a second.

    A question asked of a worker leaves a connection that takes a moment to be closed.
    """
    looks = []
    for _ in range(20):
        looks.append(_held_now(pid))
        time.sleep(0.05)
    size, threads, files = map(min, zip(*looks, strict=True))
    return size, threads, files


def _held_now(pid: int) -> tuple[int, int, int]:
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 1024 * int(lines["VmRSS"].split()[0]), int(lines["Threads"]), files


def _state(settings: WorkerSettings) -> WorkerState | None:
    try:
        return ask(Verb.HEALTH, settings.control, 1.0).state
    except ConnectionError:
        return None


def until(condition) -> None:
    """Wait for a condition, for minutes if need be."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {PATIENCE_S:g} s")
        time.sleep(0.05)
