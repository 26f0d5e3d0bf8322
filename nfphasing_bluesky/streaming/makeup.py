"""Frames that were lost, dropped or failed live, made up for from the raw catalog."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nfphasing_bluesky.core import (
    DataKeyError,
    ModelError,
    ModelInfo,
    ReconstructionSettings,
    StreamSettings,
    settings_sha256,
)
from nfphasing_bluesky.documents.growing import points_of
from nfphasing_bluesky.documents.keys import Document, choose_data_key, own_metadata
from nfphasing_bluesky.documents.seen import Seen, in_words
from nfphasing_bluesky.documents.sinks import DocumentSink
from nfphasing_bluesky.storage.successors import Chain, chain_of, raw_documents
from nfphasing_bluesky.streaming.frames import FrameIndex
from nfphasing_bluesky.streaming.outputs import Outputs
from nfphasing_bluesky.streaming.processor import ReconstructorLike, StreamProcessor

if TYPE_CHECKING:
    from tiled.client.container import Container

logger = logging.getLogger(__name__)

GetReconstructor = Callable[[ReconstructionSettings | None], ReconstructorLike]
"""Gives the model with these settings; with None, with those of whoever asks."""


@dataclass(frozen=True)
class MadeUp:
    """What became of one raw run.

    Args:
        raw_uid: of the raw run.
        predecessor: first derived run of it; empty when there was none.
        derived_uid: the run that was written; empty when nothing was to do.
        frames: that the raw catalog has.
        missing: that had no reconstruction before.
        reconstructed, failed: of these, now.
        lacking: sequence numbers in words that the raw catalog does not have either.
    """

    raw_uid: str
    predecessor: str = ""
    derived_uid: str = ""
    frames: int = 0
    missing: int = 0
    reconstructed: int = 0
    failed: int = 0
    lacking: str = ""

    def in_words(self) -> str:
        """One line for people."""
        lacking = f"; the raw catalog lacks frames {self.lacking}" if self.lacking else ""
        if not self.derived_uid:
            return f"run {self.raw_uid}: {self.frames} frames, nothing is left to make up for{lacking}"
        return (
            f"run {self.raw_uid}: {self.missing} of {self.frames} frames were missing, {self.reconstructed} "
            f"reconstructed, {self.failed} failed, in run {self.derived_uid}{lacking}"
        )


def make_up(
    catalog: "Container",
    uid: str,
    outputs: Outputs,
    get_reconstructor: GetReconstructor,
    stream: StreamSettings,
) -> MadeUp:
    """Reconstruct the frames of a raw run that no derived run has, into a successor of that one.

    The same model with the same settings is used, so that a frame gets the numbers that it would have got
    live. Doing it again changes nothing: what failed when it was made up for is not tried a third time. The
    object of a scan shows in all frames together, so its successor has all of them.

    Args:
        catalog: with `raw` and `processed`.
        uid: of the raw run, or of a derived run of it.
        outputs: where the successor goes.
        get_reconstructor: called only when there is something to do.
        stream: geometry, mask, probe as live; stream and data key are those of the derived run, if any.

    Raises:
        StorageError: no such run, or a derived run of it is not closed yet.
        ModelError: the model or its settings are not those of the derived run.
    """
    making = MakingUp(read_job(catalog, uid, stream), outputs, get_reconstructor)
    while making.step():
        pass
    outputs.flush(None)
    return making.found()


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be made up of one raw run.

    Args:
        chain: derived runs that there are.
        documents: of the raw run.
        stream: which stream and data key, as live.
        there: sequence numbers of the frames in the documents.
        missing: those of them to reconstruct.
        lacking: sequence numbers in words that the documents lack.
    """

    chain: Chain
    documents: Sequence[tuple[str, Document]]
    stream: StreamSettings
    there: frozenset[int]
    missing: frozenset[int]
    lacking: str

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.missing) or not self.chain.runs


def read_job(catalog: "Container", uid: str, stream: StreamSettings) -> Job:
    """Read from a catalog what is to be made up of a run; arguments and errors as for `make_up`."""
    chain = chain_of(catalog, uid)
    documents = raw_documents(catalog, chain.raw_uid)
    if chain.runs:
        chosen = {"stream": chain.made["stream"], "data_key": chain.made["data_key"] or stream.data_key}
        stream = stream.model_copy(update=chosen)
    there, lacking = _frames(documents, stream)
    missing = frozenset(there - chain.reconstructed - chain.given_up)
    return Job(chain, documents, stream, frozenset(there), missing, lacking)


def unsuited(job: Job, info: ModelInfo) -> str:
    """Say why a run that nobody has reconstructed is not for this model; empty where it may be.

    Its start document may name model or modality under `nfphasing`.
    """
    if job.chain.runs:
        return ""
    start = job.documents[0][1]
    said = own_metadata(start)
    for what, mine in (("model", info.name), ("modality", info.modality)):
        if said.get(what) not in (None, mine):
            return f"its start document asks for {what} {said[what]!r}, the worker has {mine!r}"
    if not job.there:
        return f"it has no frame in stream {job.stream.stream!r}"
    try:
        if points_of(start, job.stream) is None:
            for name, doc in job.documents:
                if name == "descriptor" and doc.get("name") == job.stream.stream:
                    choose_data_key(start, doc, job.stream.data_key)
    except DataKeyError as error:
        return str(error)
    return ""


class MakingUp:
    """Makes up for one raw run, a document at a time, so that others come in between.

    Args:
        job: from `read_job`.
        outputs: where the successor goes.
        get_reconstructor: called only when there is something to do.
        sink: takes the derived documents too.

    Raises:
        ModelError: the model or its settings are not those of the derived run.
    """

    def __init__(
        self,
        job: Job,
        outputs: Outputs,
        get_reconstructor: GetReconstructor,
        sink: DocumentSink | None = None,
    ) -> None:
        self._job, self._uid = job, ""
        self._left: Iterator[tuple[str, Document]] = iter(())
        self._processor: StreamProcessor | None = None
        if not job.needed:
            return
        reconstructor = get_reconstructor(_settings(job.chain))
        _check_same(job.chain, reconstructor)
        whole = job.chain.stitches or not job.chain.runs
        self._left = iter(job.documents)
        self._processor = StreamProcessor(
            job.stream,
            outputs.arrays,
            [*outputs.sinks, self._note, *([] if sink is None else [sink])],
            reconstructor=reconstructor,
            wanted=None if whole else lambda _, number: number in job.missing,
            successor_of=job.chain.uid,
        )

    def step(self) -> bool:
        """Take the next document; False when all is done."""
        item = next(self._left, None)
        if self._processor is None:
            return False
        if item is None:
            self.stop("the raw run has no stop document")
            return False
        self._processor(*item)
        return True

    def stop(self, reason: str) -> None:
        """End the derived run, as aborted when the raw run's end has not come."""
        if self._processor is not None:
            self._processor.close(reason)

    @property
    def trouble(self) -> str:
        """Why results could not be stored; empty when they were."""
        return "" if self._processor is None else self._processor.trouble

    def found(self) -> MadeUp:
        """Say what became of the raw run."""
        job, done = self._job, self._processor
        return MadeUp(
            job.chain.raw_uid,
            job.chain.uid,
            self._uid,
            len(job.there),
            len(job.missing),
            0 if done is None else done.reconstructed,
            0 if done is None else done.failed,
            job.lacking,
        )

    def _note(self, name: str, doc: Document) -> None:
        if name == "start":
            self._uid = doc["uid"]


def _frames(documents: Sequence[tuple[str, Document]], stream: StreamSettings) -> tuple[set[int], str]:
    """Sequence numbers of the frames in some documents; and which are missing among them, in words."""
    numbers: set[int] = set()
    index, seen, announced, first = FrameIndex(stream), Seen(), 0, 1
    for name, doc in documents:
        if name == "stop":
            announced, first = index.announced(dict(doc)), index.first(doc["run_start"])
        span = index(name, dict(doc))
        if span:
            numbers.update(span.seq_nums)
            seen.add(span.seq_nums)
    return numbers, in_words(seen.missing(announced, first))


def _settings(chain: Chain) -> ReconstructionSettings | None:
    made = chain.made.get("settings")
    return None if made is None else ReconstructionSettings(**made)


def _check_same(chain: Chain, reconstructor: ReconstructorLike) -> None:
    if not chain.runs:
        return
    info, made = reconstructor.info, chain.made
    if info.sha256 != made["model_sha256"]:
        raise ModelError(
            f"derived run {chain.uid} is by model {made['model']} with sha256 {made['model_sha256'][:12]}, "
            f"found {info.name} with {info.sha256[:12]}; pass the folder of that model (--model)"
        )
    if settings_sha256(reconstructor.settings) != made["settings_sha256"]:
        raise ModelError(
            f"derived run {chain.uid} was made with other reconstruction settings; pass its settings file"
        )
