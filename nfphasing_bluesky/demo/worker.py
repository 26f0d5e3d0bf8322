"""The worker of a callback that writes down where it can be reached: `python -m ... ADDRESSES JSON`.

A `ReconstructionCallback(command=announcing(path))` runs this instead of the plain worker, so that a Tango
server can attach to it.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import NamedTuple

from nfphasing_bluesky.core import StorageError, keep_freed_memory, sleep_while_waiting
from nfphasing_bluesky.streaming.serve import serve
from nfphasing_bluesky.streaming.settings import WorkerSettings


class Addresses(NamedTuple):
    """Endpoints of a worker."""

    results: str
    control: str


def announcing(path: Path) -> tuple[str, ...]:
    """Return the command of a worker that writes its addresses to a file; its settings follow as JSON."""
    return (sys.executable, "-m", __name__, str(path))


def read_addresses(path: Path) -> Addresses | None:
    """Return what a worker wrote down; None as long as it has not.

    Raises:
        StorageError: the file holds something else.
    """
    try:
        return Addresses(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StorageError(f"{path}: not the addresses of a worker ({error}); remove it") from error


def _main(path: Path, settings: WorkerSettings) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(Addresses(settings.results, settings.control)._asdict()))
    os.replace(partial, path)
    serve(settings)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    keep_freed_memory()
    sleep_while_waiting()
    _main(Path(sys.argv[1]), WorkerSettings.model_validate_json(sys.argv[2]))
