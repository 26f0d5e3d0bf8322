"""A RunEngine whose thread and loop end with it: one a test, not one a process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from bluesky import RunEngine


@contextmanager
def running_engine() -> Iterator[RunEngine]:
    """RunEngine with a loop of its own, halted and closed at the end."""
    loop = asyncio.new_event_loop()
    engine = RunEngine({}, loop=loop, context_managers=[])
    try:
        yield engine
    finally:
        if engine.state != "idle":
            engine.halt()
        thread = engine._th
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
