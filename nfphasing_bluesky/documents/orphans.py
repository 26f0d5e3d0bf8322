"""An honest end for a derived run whose writer was killed: a ledger of what is there, and a stop document."""

import math
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from nfphasing_bluesky.documents.latencies import Latencies
from nfphasing_bluesky.documents.ledger import Ledger, ledger_keys
from nfphasing_bluesky.documents.remedy import remedy

Documents = list[tuple[str, dict[str, Any]]]

REASON = "the writing process ended before the run did"


def completed(documents: Sequence[tuple[str, dict[str, Any]]]) -> Documents:
    """Return the documents of one run, with a stop document at the end if there was none.

    The added one has exit status abort and says how far the run came; a derived run gets a ledger before it,
    counted from its events. Whatever is added has uids made from the run's, so that doing it twice gives the
    same documents.

    Args:
        documents: of one run, its start first.
    """
    documents = list(documents)
    if documents[-1][0] == "stop":
        return documents
    start, reason = documents[0][1], REASON
    if "original_run_uid" in start:
        documents = _with_ledger(documents)
        reason = f"{REASON}; {_extent(documents)}; {remedy(start)}"
    times = [doc["time"] for _, doc in documents if isinstance(doc.get("time"), float)]
    stop = {
        "uid": _uid(start, "stop"),
        "run_start": start["uid"],
        "time": max(times, default=start["time"]),
        "exit_status": "abort",
        "reason": reason,
        "num_events": _num_events(documents),
    }
    return [*documents, ("stop", stop)]


def density_rows(documents: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[tuple[int, float]]:
    """Yield (raw_seq_num, latency_s) of every event of the stream `density`; a NaN latency: it failed."""
    streams = {doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == "density"}
    for name, doc in documents:
        if name == "event_page" and doc["descriptor"] in streams:
            latencies = [math.nan if value is None else value for value in doc["data"]["latency_s"]]
            yield from zip(doc["data"]["raw_seq_num"], latencies, strict=True)


def _with_ledger(documents: Documents) -> Documents:
    ledgers = {doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == "ledger"}
    if any(name == "event" and doc["descriptor"] in ledgers for name, doc in documents):
        return documents
    documents = [(name, doc) for name, doc in documents if name != "descriptor" or doc["name"] != "ledger"]
    start = documents[0][1]
    latencies = [latency for _, latency in density_rows(documents)]
    done = [latency for latency in latencies if not math.isnan(latency)]
    ledger = Ledger(len(latencies), len(done), 0, len(latencies) - len(done), latencies_s=Latencies(done))
    time = max((doc["time"] for _, doc in documents if isinstance(doc.get("time"), float)), default=0.0)
    descriptor = {
        "uid": _uid(start, "ledger"),
        "run_start": start["uid"],
        "time": time,
        "name": "ledger",
        "data_keys": ledger_keys(f"nfphasing:{start['nfphasing']['model']}"),
        "configuration": {},
        "hints": {},
        "object_keys": {},
    }
    event = {
        "uid": _uid(start, "ledger-event"),
        "descriptor": descriptor["uid"],
        "seq_num": 1,
        "time": time,
        "data": ledger.data(),
        "timestamps": dict.fromkeys(ledger.data(), time),
        "filled": {},
    }
    return [*documents, ("descriptor", descriptor), ("event", event)]


def _extent(documents: Documents) -> str:
    numbers = [number for number, _ in density_rows(documents)]
    if not numbers:
        return "no frame is here; what came is lost"
    return f"{len(numbers)} frames, the last is {max(numbers)}; what came after is lost"


def _num_events(documents: Documents) -> dict[str, int]:
    names = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    counts = dict.fromkeys(names.values(), 0)
    for name, doc in documents:
        if name in ("event", "event_page") and doc["descriptor"] in names:
            counts[names[doc["descriptor"]]] += 1 if name == "event" else len(doc["seq_num"])
    return counts


def _uid(start: dict[str, Any], what: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"nfphasing:{start['uid']}:{what}"))
