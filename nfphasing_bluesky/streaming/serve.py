"""What `nfphasing serve` does, also `python -m nfphasing_bluesky.streaming.serve JSON`: run a worker."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from nfphasing_bluesky.core import keep_freed_memory, sleep_while_waiting
from nfphasing_bluesky.streaming.logs import write_json_lines, write_text_lines
from nfphasing_bluesky.streaming.model_watch import Find, model_folder
from nfphasing_bluesky.streaming.outputs import open_outputs
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.streaming.worker import Loader, Worker, load_reconstructor

logger = logging.getLogger(__name__)

_GRACE_S = 10.0


def serve(settings: WorkerSettings, load: Loader = load_reconstructor, find: Find = model_folder) -> None:
    """Run a worker in this process until SIGTERM, SIGINT, a `shutdown`, or the end of its parent.

    It then works off what has arrived, for at most `drain_s`, and stores it, for at most `drain_s` more;
    a second signal cuts the first short. A process that has not ended ten seconds after that, because a disk
    does not answer, is ended: the backup folder has what the next worker needs to close its runs.

    Raises:
        TransportError: an endpoint is taken.
        StorageError: the catalog cannot be opened.
    """
    if settings.log == "json":
        write_json_lines()
    outputs, ended = open_outputs(settings.catalog, settings.files, settings.backup), threading.Event()
    try:
        worker = Worker(settings, outputs, load, find)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        ended = watch_end(worker, settings.drain_s)
        if settings.parent_pid is not None:
            watch_parent(settings.parent_pid, worker.stop, settings.drain_s + 5.0)
        logger.info(
            "%s; documents at %s, results at %s, control at %s; Ctrl-C ends it",
            f"loading {settings.model}"
            if settings.model
            else "no model yet (`nfphasing status --load MODEL`)",
            *(settings.documents, settings.results, settings.control),
        )
        worker.run()
    finally:
        outputs.close(max(1.0, settings.drain_s))
        ended.set()


def watch_end(worker: Worker, drain_s: float) -> threading.Event:
    """End this process when it has been told to and does not: what it waits for may never come.

    Returns:
        To be set when the worker has ended by itself.
    """
    ended = threading.Event()

    def watch() -> None:
        worker.wait_for_stop()
        end = time.monotonic() + 2 * max(1.0, drain_s) + _GRACE_S
        while time.monotonic() < end and not worker.hurried:
            if ended.wait(0.1):
                return
        left_s = end - time.monotonic()
        if ended.wait(max(0.0, min(left_s, max(1.0, drain_s) + _GRACE_S))):
            return
        # a log that nobody reads may hang, too
        last_words = threading.Thread(target=_say_why, args=(worker,), daemon=True)
        last_words.start()
        last_words.join(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="nfphasing-end-watch", daemon=True).start()
    return ended


def _say_why(worker: Worker) -> None:
    logger.critical(
        "the worker does not end (%s), its process is ended; the backup folder has what the catalog lacks, "
        "and `nfphasing replay RUN --missing` makes up for frames",
        worker.status().reason or "it computes or stores",
    )


def watch_parent(pid: int, stop: Callable[[], None], grace_s: float = 5.0) -> threading.Thread:
    """Stop, and after the grace time end this process, once its parent is no longer `pid`."""

    def watch() -> None:
        while os.getppid() == pid:
            time.sleep(0.2)
        stop()
        time.sleep(grace_s)
        os._exit(1)

    thread = threading.Thread(target=watch, name="nfphasing-parent-watch", daemon=True)
    thread.start()
    return thread


if __name__ == "__main__":
    write_text_lines()
    keep_freed_memory()
    sleep_while_waiting()
    serve(WorkerSettings.model_validate_json(sys.argv[1]))
