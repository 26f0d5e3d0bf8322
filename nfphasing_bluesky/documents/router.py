"""Documents of any number of interleaved runs in, Frames out."""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import event_model

from nfphasing_bluesky.core import DetectorGeometry, Failure, Frame, StreamSettings, Window
from nfphasing_bluesky.documents.handlers import ResourceAssets, discover_handlers
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.documents.run_frames import Integrate, RunFrames
from nfphasing_bluesky.documents.scan_frames import Beam
from nfphasing_bluesky.documents.streams import StreamAssets

log = logging.getLogger(__name__)

_STATUSES = ("success", "abort", "fail")


class RunListener(Protocol):
    """What takes the frames of a FrameRouter."""

    def run_started(self, start: Document) -> None:
        """Hear that a raw run begins; `start` is its start document."""

    def frame(self, frame: Frame | Failure) -> None:
        """Take one frame, or why there is none; `origin.raw_uid` says of which run."""

    def run_stopped(self, raw_uid: str, exit_status: str, reason: str) -> None:
        """Hear that a raw run ended: success, abort or fail, as its stop document says."""


class FrameRouter:
    """Routes raw documents, whatever run they are of, and tells a listener about runs and their frames.

    Never raises for what documents contain. Runs that carry `original_run_uid` are derived and ignored, and
    so are documents of runs whose start was not seen.

    Args:
        listener: is told of runs and frames, on the caller's thread.
        settings: stream and data key.
        geometry: of two-dimensional frames (from a PONI file), over what the documents say.
        integrate: called with each two-dimensional frame, returns the frame to reconstruct.
        handlers: spec -> handler class; None for the installed ones.
        root_map: path prefix in the documents -> prefix on this machine.
        wait_s: how long to wait for a file that documents announce.
        beam: of ptychographic scans; with it every two-dimensional frame is taken for one of these.
    """

    def __init__(
        self,
        listener: RunListener,
        settings: StreamSettings | None = None,
        *,
        geometry: DetectorGeometry | None = None,
        integrate: Integrate | None = None,
        handlers: Mapping[str, Any] | None = None,
        root_map: Mapping[str, str] | None = None,
        wait_s: float = 5.0,
        beam: Beam | None = None,
    ) -> None:
        self._listener = listener
        self._settings = settings or StreamSettings()
        self._geometry = geometry
        self._integrate = integrate
        self._handlers = discover_handlers() if handlers is None else dict(handlers)
        self._root_map = dict(root_map or {})
        self._wait_s = wait_s
        self._beam = beam
        self._router = event_model.RunRouter([self._begin], filler_class=_Unfilled)  # type: ignore[arg-type]
        self._runs: dict[str, RunFrames] = {}
        self._owners: dict[str, str] = {}

    def __call__(self, name: str, doc: Document) -> None:
        """Take one raw document."""
        if not self._belongs(name, doc):
            log.debug("%s document of a run whose start was not seen is ignored", name)
            return
        if name == "event":
            # past event-model's router, which makes a page of every event and an event of every page
            run = self._runs.get(self._owners[doc["descriptor"]])
            if run is not None:
                run.event(dict(doc))
            return
        self._router(name, dict(doc))
        if name == "stop":
            status = doc.get("exit_status", "success")
            known = status in _STATUSES if isinstance(status, str) else False
            self._end(doc["run_start"], status if known else "fail", str(doc.get("reason") or ""))

    def close(self, reason: str = "no stop document arrived") -> None:
        """End the runs that are still open, with exit status abort and this reason."""
        for uid in list(self._runs):
            self.close_run(uid, reason)

    def close_run(self, uid: str, reason: str) -> None:
        """End one run that is open, with exit status abort and this reason."""
        self._router("stop", {"run_start": uid, "uid": "", "time": 0.0, "exit_status": "abort"})
        self._end(uid, "abort", reason)

    def owner(self, doc: Document) -> str:
        """Return the uid of the open run that a document is of; empty where it is not known."""
        for key in ("run_start", "descriptor", "resource", "uid"):
            if isinstance(uid := doc.get(key), str) and uid in self._owners:
                return self._owners[uid]
        return ""

    @property
    def open_runs(self) -> tuple[str, ...]:
        """Uids of the raw runs that have started and not stopped."""
        return tuple(self._runs)

    def window(self, raw_uid: str) -> Window | None:
        """Rectangle of the object that a scan will cover, once a frame of it has come; None where unknown."""
        run = self._runs.get(raw_uid)
        return None if run is None else run.window()

    def notes(self, raw_uid: str) -> dict[str, str]:
        """What was found out about a scan once a frame of it has come, by name; empty where nothing was."""
        run = self._runs.get(raw_uid)
        return {} if run is None else run.notes()

    def remarks(self, raw_uid: str) -> list[str]:
        """What a run's documents say in vain, in words; empty where nothing."""
        run = self._runs.get(raw_uid)
        return [] if run is None else run.remarks

    def _begin(self, name: str, start: Document) -> tuple[list[RunFrames], list[Any]]:
        if start.get("original_run_uid"):
            return [], []
        run = RunFrames(
            self._settings,
            self._listener.frame,
            ResourceAssets(self._handlers, self._root_map),
            StreamAssets(self._wait_s, self._root_map),
            self._geometry,
            self._integrate,
            self._beam,
        )
        self._runs[start["uid"]] = run
        self._listener.run_started(start)
        return [run], []

    def _end(self, uid: str, exit_status: str, reason: str) -> None:
        run = self._runs.pop(uid, None)
        unnamed_too = not self._runs
        self._owners = {
            key: owner for key, owner in self._owners.items() if owner != uid and (owner or not unnamed_too)
        }
        if run is None:
            return
        if not reason and self._settings.stream not in run.streams_seen:
            seen = ", ".join(run.streams_seen) or "none"
            reason = f"the run has no stream {self._settings.stream!r}; it has {seen}"
        self._listener.run_stopped(uid, exit_status, reason or run.problem)

    def _belongs(self, name: str, doc: Document) -> bool:
        """Return True when the document is of a run whose start was seen; remembers what refers to what."""
        if name == "start":
            if self._owners.setdefault(doc["uid"], doc["uid"]) == doc["uid"] and doc["uid"] in self._runs:
                log.warning("start document %s arrived twice; the second is ignored", doc["uid"])
                return False
            return True
        if name in ("event", "event_page"):
            return doc["descriptor"] in self._owners
        if name in ("datum", "datum_page"):
            return doc["resource"] in self._owners
        if name == "stream_datum":
            return doc["stream_resource"] in self._owners and doc["descriptor"] in self._owners
        # Resources from before event-model 1.11 name no run: the RunRouter shows them to every open one.
        owner = doc.get("run_start", "")
        if owner and owner not in self._owners:
            return False
        if name != "stop":
            self._owners[doc["uid"]] = owner
        return True


class _Unfilled(event_model.DocumentRouter):
    """In place of the RunRouter's own Filler: each run reads its assets itself, when they are wanted."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def event_page(self, doc: Any) -> Any:
        return doc
