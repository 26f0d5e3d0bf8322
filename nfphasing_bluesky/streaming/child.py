"""Start a worker as a child process, and know whether a process still lives. No torch here."""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.streaming.client import ask
from nfphasing_bluesky.streaming.protocol import Verb
from nfphasing_bluesky.streaming.settings import WorkerSettings

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "nfphasing_bluesky.streaming.serve")
"""What starts a worker; its settings follow as one argument of JSON."""

_TO_ANSWER_S, _TO_END_S = 3.0, 5.0


class Child:
    """A worker that belongs to this process and ends with it.

    It has a session of its own, so that Ctrl-C at the prompt stops the plan and not the worker.

    Args:
        settings: of the worker; `parent_pid` is filled in.
        command: what to run instead of `python -m nfphasing_bluesky.streaming.serve`.
    """

    def __init__(self, settings: WorkerSettings, command: Sequence[str] = COMMAND) -> None:
        self.settings = settings.model_copy(update={"parent_pid": os.getpid()})
        self._process = subprocess.Popen(  # noqa: S603 (our own program, no shell)
            [*command, self.settings.model_dump_json()], stdin=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once it has ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once; for one that does not answer."""
        self._process.kill()
        self._process.wait()

    def close(self, grace_s: float | None = None) -> None:
        """End it: politely, then by SIGTERM, then by SIGKILL.

        Args:
            grace_s: how long it has to end politely; left out, as long as its settings let it work off and
                store what has arrived. A worker that does not answer gets none of it. After SIGTERM it has
                five seconds at most.
        """
        if grace_s is None:
            grace_s = 2 * self.settings.drain_s + _TO_END_S
        try:
            if self.running:
                ask(Verb.SHUTDOWN, self.settings.control, timeout_s=_TO_ANSWER_S)
                self._process.wait(grace_s)
        except (TransportError, subprocess.TimeoutExpired) as error:
            # a TimeoutExpired names the whole command, and with it every setting
            why = error if isinstance(error, TransportError) else f"not within {grace_s:g} s"
            logger.warning("the worker does not end by itself (%s); it is terminated", why)
            self._process.terminate()
            try:
                self._process.wait(min(grace_s, _TO_END_S))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@cache
def pid_space() -> str:
    """Where a process number means one process: this boot of this machine and a namespace in it.

    A worker behind a forwarded port or in a container is elsewhere. Empty where the system does not say.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Return whether a process runs, a number of our own `pid_space`; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return not Path("/proc/self/stat").exists()
