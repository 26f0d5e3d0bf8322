"""The whole chain once, with real parts: RunEngine, worker, catalog, Tango database and server."""

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nfphasing_bluesky.core import (
    Failure,
    Frame,
    ModelError,
    Posterior,
    Stitcher,
    StorageError,
    TransportError,
)
from nfphasing_bluesky.core.neighbours import Neighbours
from nfphasing_bluesky.demo.readback import (
    FrameLine,
    check_same,
    first_image,
    same,
    stored_frames,
    stored_ledger,
    stored_lines,
    tango_line,
)
from nfphasing_bluesky.demo.subjects import Subject, subject
from nfphasing_bluesky.demo.table import results_table
from nfphasing_bluesky.demo.tango_services import DEVICE, nfphasing_server, tango_database, wait_until
from nfphasing_bluesky.demo.worker import announcing, read_addresses
from nfphasing_bluesky.documents.reduction import reduced
from nfphasing_bluesky.storage.catalogs import RAW, close_catalog, embedded_catalog
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.storage.sink import CatalogSink
from nfphasing_bluesky.streaming.callback import ReconstructionCallback

if TYPE_CHECKING:
    import tango
    from tiled.client.container import Container

    from nfphasing_bluesky.inference import Reconstructor

MODEL_S, RECONSTRUCTION_S, TANGO_S = 240.0, 240.0, 60.0
REPLAY_TOLERANCE = 1e-3

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo did and where it is.

    Args:
        raw_uid, derived_uid: the two runs.
        catalog: folder of the embedded catalog that holds both.
        figures: a PNG of each distinct curve.
        frames: every frame as the catalog has it.
        tango: the last frame as Tango served it.
        ledger: of the derived run.
        seconds: the whole of it took.
    """

    raw_uid: str
    derived_uid: str
    catalog: Path
    figures: tuple[Path, ...]
    frames: tuple[FrameLine, ...]
    tango: FrameLine
    ledger: Mapping[str, float]
    seconds: float


def run_demo(
    output: Path,
    report: Report,
    *,
    modality: str = "saxs1d",
    model: str | None = None,
    shared_data: Path | None = None,
) -> DemoResult:
    """Scan, reconstruct live, store, serve over Tango, and read both back.

    Every process that this starts has ended when it returns or raises.

    Args:
        output: folder of catalog, figures and logs; made, or added to.
        report: is told what happens, line by line, and given the table.
        modality: what is shown, a key of `subjects.SUBJECTS`.
        model: name or folder of a model in place of the subject's own.
        shared_data: where glucose isomerase is; see `measured_curves`.

    Raises:
        ModelError: the model cannot be loaded.
        StorageError: the catalog, or a measured curve, cannot be read or written.
        TransportError: worker, Tango database or server do not come up, or Tango and the catalog differ.
    """
    began = time.perf_counter()
    output = Path(output).expanduser().resolve()
    shown = subject(modality, output / "catalog" / "detector", shared_data)
    shown = replace(shown, model=model or shown.model)
    report(shown.origin)
    with _ended_by_sigterm(), contextlib.ExitStack() as stack:
        catalog = embedded_catalog(output / "catalog")
        stack.callback(close_catalog, catalog)
        callback, proxy = _start(stack, output, shown, report)
        raw_uid = _scan(catalog, output / "catalog" / "backup", callback, shown)
        report(f"scan {raw_uid} is done; it felt {1e3 * callback.cost_s()[0]:.2f} ms a document (median)")
        derived = _finished(callback, catalog, raw_uid)
        raw = catalog[RAW][raw_uid]
        stored = stored_lines(raw, derived, f"{shown.detector.name}_sample", tuple(shown.headings))
        served = _last_served(proxy, raw_uid, stored[-1])
        ledger = stored_ledger(derived)
        figures = _figures(catalog, raw_uid, stored, shown, output / "figures")
        if shown.follows is not None:
            figures = (*figures, _growth_figure(stored, shown, output / "figures" / "growth.png"))
    report(results_table(stored, served, ledger, shown.model, shown.headings))
    result = DemoResult(
        raw_uid,
        str(derived.metadata["start"]["uid"]),
        output / "catalog",
        figures,
        tuple(stored),
        served,
        ledger,
        time.perf_counter() - began,
    )
    report(
        f"catalog and Tango agree on frame {served.seq_num}; the raw run, replayed, gives the same densities"
    )
    report(f"catalog  {result.catalog}")
    for path in figures:
        report(f"figure   {path}")
    report(f"raw run  {result.raw_uid}\nderived  {result.derived_uid}\n{result.seconds:.0f} s in all")
    return result


def _start(
    stack: contextlib.ExitStack, output: Path, shown: Subject, report: Report
) -> tuple[ReconstructionCallback, "tango.DeviceProxy"]:
    """Start worker, Tango database and server, and wait until the device sees the worker with its model."""
    import tango

    addresses_file = output / "worker.json"
    addresses_file.unlink(missing_ok=True)
    callback = ReconstructionCallback(
        shown.model,
        output / "catalog",
        data_key=shown.data_key,
        settings=shown.stream,
        reconstruction=shown.settings,
        command=announcing(addresses_file),
    )
    stack.callback(callback.close)
    report("worker started; starting a Tango database and the NfPhasing server")
    host = stack.enter_context(tango_database(output / "tango"))
    addresses = wait_until(lambda: read_addresses(addresses_file), MODEL_S)
    if addresses is None:
        raise TransportError(
            f"the worker did not start within {MODEL_S:g} s; run `nfphasing serve` to see what it lacks"
        )
    properties = {
        "worker": "attach",
        "results_endpoint": addresses.results,
        "control_endpoint": addresses.control,
    }
    proxy = stack.enter_context(nfphasing_server(output / "tango", host, properties))
    wait_until(lambda: callback.trouble or proxy.state() == tango.DevState.ON, MODEL_S)
    if callback.trouble:
        raise ModelError(callback.trouble)
    if proxy.state() != tango.DevState.ON:
        raise TransportError(
            f"{DEVICE} is {proxy.state()} after {MODEL_S:g} s, expected ON: {proxy.status()}"
        )
    report(f"{DEVICE} is ON at tango://{host}: {proxy.status()}")
    return callback, proxy


def _scan(catalog: "Container", backup: Path, callback: ReconstructionCallback, shown: Subject) -> str:
    """Run the subject's plan, stored as it runs; returns the raw run's uid."""
    from bluesky import RunEngine
    from bluesky.plans import count

    uids: list[str] = []
    store = CatalogSink(catalog, backup, container=RAW, normalize=True)
    try:
        RE = RunEngine({})
        RE.subscribe(store)
        RE.subscribe(callback)
        RE.subscribe(lambda name, doc: uids.append(doc["uid"]), "start")
        counted = count([shown.detector], num=shown.exposures)
        RE(counted if shown.plan is None else shown.plan(shown.detector), **shown.metadata)
    finally:
        stored = store.close(RECONSTRUCTION_S)
    if store.problems or not stored:
        raise StorageError(f"the raw run was not stored: {'; '.join(store.problems) or 'timeout'}")
    return uids[-1]


def _finished(callback: ReconstructionCallback, catalog: "Container", raw_uid: str) -> Any:
    """Wait for the derived run and return it."""
    if not callback.wait(RECONSTRUCTION_S):
        raise TransportError(
            f"the reconstruction of {raw_uid} did not end within {RECONSTRUCTION_S:g} s: "
            f"{callback.ledger()}; {callback.trouble or 'the worker is too slow'}"
        )
    runs = reconstructions_of(catalog, raw_uid)
    if len(runs) != 1:
        raise StorageError(
            f"{len(runs)} derived runs of {raw_uid} in the catalog, expected one; {callback.trouble}"
        )
    return runs[0]


def _last_served(proxy: "tango.DeviceProxy", raw_uid: str, last: FrameLine) -> FrameLine:
    """Read the scan's last frame over Tango and compare it with what is stored."""

    def there() -> bool:
        compared = not last.modes or proxy.pattern_seq_num == last.seq_num
        return proxy.raw_uid == raw_uid and proxy.seq_num == last.seq_num and compared

    if not wait_until(there, TANGO_S):
        raise TransportError(
            f"{DEVICE} shows frame {proxy.seq_num} of run {proxy.raw_uid!r} after {TANGO_S:g} s, expected "
            f"frame {last.seq_num} of {raw_uid!r}; its status is: {proxy.status()}"
        )
    served = replace(tango_line(proxy, tuple(last.parameters), bool(last.modes)), sample=last.sample)
    check_same(last, served)
    return served


def _figures(
    catalog: "Container", raw_uid: str, stored: Sequence[FrameLine], shown: Subject, folder: Path
) -> tuple[Path, ...]:
    """Replay the first frame of each sample from the stored raw run, compare, and draw it.

    Of a frame, or a sample, that grows the last is drawn. Of a scan over one object all frames are replayed,
    and the object is drawn.
    """
    from nfphasing_bluesky.inference import Reconstructor
    from nfphasing_bluesky.views.figures import save_figure

    lines = {line.seq_num: line for line in stored}
    settings = shown.stream.model_copy(update={"data_key": shown.data_key})
    first = {line.sample: line.seq_num for line in reversed(stored)}
    chosen = sorted(first.values())
    reconstructor = Reconstructor.load(shown.model, settings=shown.settings)
    neighbours = Neighbours(reconstructor.info.neighbours)
    frames = [
        neighbours.attach(frame).with_origin(label=lines[frame.origin.seq_num].sample)
        for frame in stored_frames(catalog, raw_uid, settings)
    ]
    if frames[-1].grows or shown.follows is not None:
        chosen = [frames[-1].origin.seq_num]
    if frames[0].place is not None:
        return (_object_figure(reconstructor, frames, stored, folder / "object.png"),)
    frames = [frame for frame in frames if frame.origin.seq_num in chosen]
    if reconstructor.info.takes_curves:
        frames = [frame if frame.intensity.ndim == 1 else reduced(frame) for frame in frames]
    paths = []
    for frame, result in zip(frames, reconstructor(frames), strict=True):
        line = lines[frame.origin.seq_num]
        posterior = _as_stored(result, line)
        name = re.sub(r"\W+", "-", line.sample.lower()).strip("-")
        paths.append(save_figure(shown.draw(frame, posterior, reconstructor.info), folder / f"{name}.png"))
    return tuple(paths)


def _growth_figure(stored: Sequence[FrameLine], shown: Subject, path: Path) -> Path:
    """Draw the parameter that a subject follows over time, as it is stored, with the truth."""
    from nfphasing_bluesky.views.figures import save_figure
    from nfphasing_bluesky.views.trend import Trend, figure_trend

    assert shown.follows is not None  # noqa: S101  the caller has asked
    name, truth = shown.follows
    seconds = np.array([line.seconds for line in stored])
    median, std = np.array([line.parameters[name] for line in stored]).T
    trend = Trend(shown.headings[name], seconds, median, std, [line.verdict for line in stored])
    true = np.array([truth[(line.seq_num - 1) % len(truth)] for line in stored])
    figure = figure_trend(trend, f"{stored[-1].sample}   ·   {shown.model}", (seconds, true))
    return save_figure(figure, path)


def _as_stored(result: Posterior | Failure, line: FrameLine) -> Posterior:
    """Return a frame that was reconstructed again. Raises StorageError unless it is what is stored."""
    if not isinstance(result, Posterior) or not same(first_image(result.mean), line.mean, REPLAY_TOLERANCE):
        raise StorageError(
            f"frame {line.seq_num} ({line.sample}), replayed, is not what is stored; expected the same "
            "density from the same model, settings and seed"
        )
    return result


def _object_figure(
    reconstructor: "Reconstructor", frames: Sequence[Frame], stored: Sequence[FrameLine], path: Path
) -> Path:
    """Stitch the frames of a scan again, compare each with what is stored, and draw the object."""
    from nfphasing_bluesky.storage.objects import FrameRecord, scan_trust
    from nfphasing_bluesky.views.figures import save_figure
    from nfphasing_bluesky.views.objects import figure_object

    stitcher, records = Stitcher(reconstructor.info.neighbours), []
    for result, line in zip(reconstructor(frames), stored, strict=True):
        posterior = _as_stored(result, line)
        records.append(FrameRecord.of(posterior))
        stitcher.add(posterior)
    found = stitcher.result()
    if found is None:
        raise StorageError("no frame of the scan could be stitched; see the reasons in the derived run")
    title = f"{len(frames)} frames   ·   {reconstructor.info.name}"
    return save_figure(figure_object(found, title, scan_trust(found, records)), path)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that what was started is ended; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
