"""Which run is worked at, for whoever writes a log line about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

RAW_UID: ContextVar[str] = ContextVar("nfphasing_raw_uid", default="")


@contextmanager
def about(raw_uid: str) -> Iterator[None]:
    """Say of which raw run the lines are that are logged inside, in this thread."""
    token = RAW_UID.set(raw_uid)
    try:
        yield
    finally:
        RAW_UID.reset(token)
