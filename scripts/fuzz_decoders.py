"""Coverage-guided fuzzing of what reads strangers' bytes: `fuzz_decoders.py TARGET --minutes 10`.

TARGET `wire`: messages of any bytes, and what is read from them (documents, requests, statuses, results);
nothing but a TransportError may come of it. TARGET `documents`: runs whose documents were spoiled, through
queue and processor; the run after them must be reconstructed whole, every derived run must be ended, and no
ledger may be negative.

Needs `pip install atheris` (not among the project's own tools). What fails is written to the folder of
`--output` as `crash-...`; `--replay FILE` runs that input again. The exit status is not 0 then.
"""

import argparse
import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import atheris
import event_model

sys.path.append(str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["nfphasing_bluesky"]):
    from nfphasing_bluesky.core import Policy, StreamSettings, TransportError
    from nfphasing_bluesky.documents import handlers as handlers_
    from nfphasing_bluesky.documents import router, streams
    from nfphasing_bluesky.streaming import wire
    from nfphasing_bluesky.streaming.frames import FrameIndex
    from nfphasing_bluesky.streaming.pattern import PatternResult
    from nfphasing_bluesky.streaming.processor import StreamProcessor
    from nfphasing_bluesky.streaming.protocol import FrameResult, ObjectResult, WorkerStatus
    from nfphasing_bluesky.streaming.queue import DocumentQueue
    from nfphasing_bluesky.streaming.speaker import read_request
    from tests.streaming import documents as raw
    from tests.streaming.tiny import LineReconstructor

READERS = (
    wire.unpack_document,
    wire.waited_s,
    read_request,
    lambda data: FrameResult.from_message(wire.unpack(data)),
    lambda data: ObjectResult.from_message(wire.unpack(data)),
    lambda data: PatternResult.from_message(wire.unpack(data)),
    lambda data: WorkerStatus.from_message(wire.unpack(data)),
)
ODD = (None, -1, 0, 2**62, float("nan"), "", "det", [], {}, b"\x00", [1, 2], {"a": 1}, True)
ODD += ("{:9000000000}", "%9000000000d", "{0.__class__}", "%s", "../../etc/passwd", "/dev/zero")
RUNS = [
    list(raw.stream_run()),
    list(raw.raw_run(3)),
    list(raw.raw_run(3, shape=(4, 5))),
    list(raw.stream_run(uri="file://localhost/nowhere/", template="img_{:05d}.tif")),
    list(raw.resource_run()),
]
CHECKED_ONCE_IN = 64
_ANYTHING = SimpleNamespace(validate=lambda document: None)
GOOD, RIGHT = list(raw.raw_run(4, seed=1)), (4, 4, 0, 0)


def read_wire(data: bytes) -> None:
    """Read bytes in each of the ways that a socket's message is read."""
    if data:
        try:
            READERS[data[0] % len(READERS)](data[1:])
        except TransportError:
            pass


def read_documents(data: bytes) -> None:
    """Spoil the documents of a run as the bytes say, and reconstruct it and a good one after it."""
    choose = atheris.FuzzedDataProvider(data)
    bad = RUNS[choose.ConsumeIntInRange(0, len(RUNS) - 1)]
    items = [(name, _copied(doc)) for name, doc in bad]
    for _ in range(choose.ConsumeIntInRange(0, 6)):
        _spoil(items[choose.ConsumeIntInRange(0, len(items) - 1)][1], choose)
    if choose.ConsumeBool():
        items.insert(
            choose.ConsumeIntInRange(0, len(items)), items[choose.ConsumeIntInRange(0, len(items) - 1)]
        )
    with _schemas_of_derived(choose.ConsumeIntInRange(0, CHECKED_ONCE_IN - 1) == 0):
        ledgers = _ledgers([*items, *GOOD])
    found = [tuple(d[k] for k in ("received", "reconstructed", "failed", "lost")) for d in ledgers]
    if RIGHT not in found or any(min(counts) < 0 for counts in found):
        raise AssertionError(f"ledgers {found}, expected one of {RIGHT}, none negative")


@contextlib.contextmanager
def _schemas_of_derived(checked: bool) -> Iterator[None]:
    """Let event-model check what is composed against its schemas, or not: that is most of an input's time."""
    found = dict(event_model.schema_validators)
    if not checked:
        event_model.schema_validators.update(dict.fromkeys(found, _ANYTHING))
    try:
        yield
    finally:
        event_model.schema_validators.update(found)


def _ledgers(items: list) -> list[dict]:
    """Do as intake and worker do: what a document raises is logged there, and the next one is taken."""
    settings, ledgers, ends = StreamSettings(data_key="det"), [], []

    def hear(name: str, doc: dict) -> None:
        if name == "event":
            ledgers.append(doc["data"])
        elif name in ("start", "stop"):
            ends.append(doc.get("run_start", doc["uid"]))

    queue = DocumentQueue(1000, Policy.BLOCK, FrameIndex(settings))
    processor = StreamProcessor(
        settings,
        raw.MemoryStore(),
        [hear],
        reconstructor=LineReconstructor(),
    )
    processor._router._wait_s = 0.0  # noqa: SLF001, files that don't exist are waited for otherwise
    for item in items:
        try:
            queue.put(*item)
        except Exception:  # noqa: S112
            continue
        while (taken := queue.get(0)) is not None:
            try:
                processor(*taken)
            except Exception:  # noqa: S110
                pass
    processor.close()
    if unended := [uid for uid in set(ends) if ends.count(uid) != 2]:
        raise AssertionError(f"derived runs {unended} were begun and not ended")
    return ledgers


def _spoil(node: dict, choose: atheris.FuzzedDataProvider) -> None:
    """Remove or replace one value, at any depth."""
    while node:
        key = sorted(node, key=str)[choose.ConsumeIntInRange(0, len(node) - 1)]
        if isinstance(node[key], dict) and node[key] and choose.ConsumeBool():
            node = node[key]
            continue
        kind = choose.ConsumeIntInRange(0, 4)
        if kind == 0:
            del node[key]
        elif kind == 1:
            node[key] = choose.ConsumeInt(8)
        elif kind == 2:
            node[key] = choose.ConsumeUnicodeNoSurrogates(6)
        else:
            node[key] = ODD[choose.ConsumeIntInRange(0, len(ODD) - 1)]
        return


def _copied(value):
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, dict) else value


def _seeds(target: str, folder: Path) -> None:
    """Write inputs to begin with: good messages for every reader."""
    folder.mkdir(parents=True, exist_ok=True)
    if target == "documents":
        (folder / "seed").write_bytes(bytes(range(64)))
        return
    import numpy as np

    messages = [wire.pack_document(*item) for item in raw.raw_run(1)]
    messages += [wire.pack({"verb": "health", "arguments": {}}), wire.pack({"a": np.zeros((2, 3), "<f4")})]
    messages += [
        wire.pack(WorkerStatus(state="ON").to_message()),
        wire.pack(FrameResult("u", 1, 1, "VALID").to_message()),
    ]
    for number, message in enumerate(messages):
        for reader in range(len(READERS)):
            (folder / f"seed-{number}-{reader}").write_bytes(bytes([reader]) + message)


def main() -> None:
    """Fuzz one target for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=("wire", "documents"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=Path("fuzz-results"))
    parser.add_argument("--replay", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    handlers = router.discover_handlers()
    handlers_.RETRIES_S = ()  # nor are they tried again
    router.discover_handlers = lambda: handlers  # once, not for every input
    streams.MOST_ROWS = 1000  # a hundred thousand failed frames take an input many seconds
    corpus = chosen.output / chosen.target
    _seeds(chosen.target, corpus)
    what = [str(chosen.replay)] if chosen.replay else [str(corpus)]
    options = [
        f"-max_total_time={round(60 * chosen.minutes)}",
        f"-artifact_prefix={chosen.output}/",
        "-rss_limit_mb=2048",
        "-timeout=20",
        "-max_len=4096",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, *what], read_wire if chosen.target == "wire" else read_documents)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
