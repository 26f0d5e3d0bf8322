"""The device's side of the worker's sockets. Knows nothing of Tango and holds no torch."""

import contextlib
import logging
import queue
from dataclasses import dataclass

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.streaming.child import is_alive, pid_space
from nfphasing_bluesky.streaming.client import Listener, ask, ask_with_keys
from nfphasing_bluesky.streaming.curve import ClientKeys
from nfphasing_bluesky.streaming.endpoints import check_endpoint
from nfphasing_bluesky.streaming.pattern import PatternResult
from nfphasing_bluesky.streaming.protocol import FrameResult, ObjectResult, Verb, WorkerStatus
from nfphasing_bluesky.streaming.settings import WorkerSettings
from tango_device.keeper import HUNG_S, Keeper

logger = logging.getLogger(__name__)

_ANSWER_S = 2.0
_WAITING_AT_MOST = 256


@dataclass(frozen=True)
class Health:
    """How the worker is, as seen from here.

    Args:
        reachable: it was heard and is not known to be gone.
        problem: why it is not reachable, and what to do; empty when it is.
        status: its last word; None before the first.
    """

    reachable: bool
    problem: str
    status: WorkerStatus | None


@dataclass(frozen=True)
class Ends:
    """Where a worker is reached.

    Args:
        documents: endpoint for documents.
        results: endpoint of what it publishes.
        control: endpoint for orders.
        keys: for a worker on another machine; None for one on this.
    """

    documents: str
    results: str
    control: str
    keys: ClientKeys | None = None


class WorkerLink:
    """Attaches to a worker, or keeps one as a child, and hands on what it says.

    Args:
        ends: where the worker is reached.
        child: settings of a worker to start here, and again when it dies; None attaches to one that runs.
        silence_limit_s: after so long without a heartbeat the worker counts as hung.

    Raises:
        TransportError: an endpoint is on another machine and there are no keys.
    """

    def __init__(self, ends: Ends, child: WorkerSettings | None = None, silence_limit_s: float = 3.0) -> None:
        self._ends, self._limit_s = ends, silence_limit_s
        self._frames: queue.Queue[FrameResult] = queue.Queue(_WAITING_AT_MOST)
        self.not_shown = 0
        """Frames that waited for `next_frame` and gave way to later ones."""
        self._object: ObjectResult | None = None
        self._pattern: PatternResult | None = None
        self._status: WorkerStatus | None = None
        check_endpoint(ends.control, ends.keys is not None)
        check_endpoint(ends.documents, ends.keys is not None)
        self._keeper = None if child is None else Keeper(child)
        self._listener = Listener(
            ends.results,
            self._hear_status,
            self._hear_frame,
            on_object=self._hear_object,
            on_pattern=self._hear_pattern,
            keys=ends.keys,
        ).start()

    def health(self) -> Health:
        """Look after the child, if any, and say how the worker is."""
        status, silence = self._status, self._listener.silence_s
        if self._keeper is not None:
            self._keeper.look(None if status is None else status.pid, silence)
        where = self._ends.results
        if status is None:
            return Health(False, f"No worker heard at {where}. {self._cure('Start one with')}", None)
        if status.machine and status.machine == pid_space() and not is_alive(status.pid):
            dead = f"The worker (process {status.pid}) has died. {self._cure('Start it with')}"
            return Health(False, f"{dead} The device goes on by itself then.", status)
        if silence > self._limit_s:
            return Health(
                False,
                f"The worker (process {status.pid}) at {where} has been silent for {silence:.0f} s. "
                f"{self._if_it_lasts}",
                status,
            )
        if self._keeper is not None and not self._keeper.owns(status.pid):
            return Health(
                True, f"Another worker (process {status.pid}) holds {where}. {self._keeper.told}", status
            )
        return Health(True, "", status)

    def answering(self) -> WorkerStatus | None:
        """Return the worker's last word, None while it is not reachable."""
        health = self.health()
        return health.status if health.reachable else None

    @property
    def _if_it_lasts(self) -> str:
        if self._keeper is None:
            return "If that lasts, end it and start it again: `nfphasing serve`."
        return f"After {HUNG_S:.0f} s it is ended and started again; wait for that."

    def _cure(self, otherwise: str) -> str:
        return f"{otherwise} `nfphasing serve`." if self._keeper is None else self._keeper.told

    def next_frame(self, timeout_s: float) -> FrameResult | None:
        """Take the oldest result that is waiting; None when none comes in time."""
        try:
            return self._frames.get(timeout=timeout_s)
        except queue.Empty:
            return None

    @property
    def stitched(self) -> ObjectResult | None:
        """The latest state of the stitched object; None before the first."""
        return self._object

    @property
    def pattern(self) -> PatternResult | None:
        """The latest frame beside its prediction; None before the first."""
        return self._pattern

    def forget(self) -> None:
        """Forget the object and the pattern that were heard."""
        self._object = self._pattern = None

    def ask(self, verb: Verb, **arguments: object) -> WorkerStatus:
        """Ask the worker for something.

        Raises:
            TransportError: when it refuses, or does not answer.
        """
        health = self.health()
        if not health.reachable:
            raise TransportError(health.problem)
        control, keys = self._ends.control, self._ends.keys
        if keys is None:
            self._status = ask(verb, control, timeout_s=_ANSWER_S, **arguments)
        else:
            self._status = ask_with_keys(verb, control, keys, timeout_s=_ANSWER_S, **arguments)
        return self._status

    def close(self) -> None:
        """Stop listening and end the child, if any."""
        self._listener.close()
        if self._keeper is not None:
            self._keeper.close()

    def _hear_status(self, status: WorkerStatus) -> None:
        self._status = status
        if self._keeper is not None and status.loaded:
            self._keeper.keep_model(status.pid, status.loaded)

    def _hear_object(self, result: ObjectResult) -> None:
        self._object = result

    def _hear_pattern(self, result: PatternResult) -> None:
        self._pattern = result

    def _hear_frame(self, result: FrameResult) -> None:
        while True:
            try:
                self._frames.put_nowait(result)
                return
            except queue.Full:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._frames.get_nowait()
            if not self.not_shown:
                logger.warning("frames come faster than they can be shown; frames_not_shown counts them")
            self.not_shown += 1
