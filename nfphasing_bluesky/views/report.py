"""`nfphasing report`: one self-contained page of HTML, to read, to print and to keep with the data."""

import base64
import html
import io
import json
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from nfphasing_bluesky.core import StorageError, Verdict
from nfphasing_bluesky.views.colours import LIGHTS
from nfphasing_bluesky.views.report_data import Report
from nfphasing_bluesky.views.report_figures import report_figures

_MOST_ROWS = 40


def write_report(report: Report, path: Path, card: Mapping[str, Any] | None = None) -> Path:
    """Write the page.

    Args:
        report: from `read_report`.
        path: of the HTML file.
        card: what the model's card says; None where it is not at hand.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(report, card), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: the report cannot be written ({error})") from error
    return path


def page(report: Report, card: Mapping[str, Any] | None = None) -> str:
    """Return the page; it asks for nothing from elsewhere."""
    made = report.start["nfphasing"]
    title = f"Scan {report.start.get('scan_id', '')}, reconstructed with {made['model']}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        _verdicts(report),
        *(f"<p class=remark>{_text(remark)}</p>" for remark in report.remarks),
        "<h2>Run</h2>",
        _table(_run_rows(report)),
        *(_figure(caption, figure) for caption, figure in report_figures(report)),
        "<h2>Ledger</h2>",
        _table(_ledger_rows(report.ledger)) if report.ledger else "<p>No ledger.</p>",
        _doubts(report),
        "<h2>Model card</h2>",
        _card(card, made),
    ]
    template = (files("nfphasing_bluesky.views") / "report.html").read_text(encoding="utf-8")
    return template.replace("{{title}}", _text(title)).replace("{{body}}", "\n".join(parts))


def _verdicts(report: Report) -> str:
    if report.density is None:
        return "<p class=light style='background:#9e9e9e'>no frame was reconstructed</p>"
    found = report.density["verdict"].values.tolist()
    lights = [
        f"<span class=light style='background:{LIGHTS[verdict]}'>{found.count(str(verdict))} {verdict}</span>"
        for verdict in Verdict
        if str(verdict) in found
    ]
    return f"<p>{' '.join(lights)} of {len(found)} frames</p>"


def _run_rows(report: Report) -> list[tuple[str, Any]]:
    start, made, raw = report.start, report.start["nfphasing"], report.raw_start
    ended = report.stop.get("exit_status", "never: it is open, or its program died")
    return [
        ("measured", _when(raw.get("time"))),
        ("plan", raw.get("plan_name", "")),
        ("sample", raw.get("sample", raw.get("sample_name", ""))),
        ("raw run", start["original_run_uid"]),
        ("reconstruction", start["uid"]),
        ("reconstructed", _when(start.get("time"))),
        ("ended", f"{ended} {report.stop.get('reason', '')}".strip()),
        ("model", f"{made['model']} ({made['modality']}), sha256 {made['model_sha256'][:16]}"),
        ("draws, seed", f"{made['n_samples']}, {made['seed']}"),
        ("program", f"nfphasing-bluesky {made['version']}"),
        ("frames", f"{made.get('data_key')} of stream {made.get('stream')}"),
    ]


def _ledger_rows(ledger: Mapping[str, float]) -> list[tuple[str, Any]]:
    counts = [(name, int(ledger[name])) for name in ("received", "reconstructed", "dropped", "failed")]
    left = counts[0][1] - sum(count for _, count in counts[1:])
    latencies = [
        (f"latency, {p} % of frames within", f"{1000 * ledger[f'latency_p{p}_s']:.1f} ms")
        for p in (50, 90, 99)
        if np.isfinite(ledger.get(f"latency_p{p}_s", np.nan))
    ]
    lost = [("lost: never received, in no other count", int(ledger["lost"]))] if "lost" in ledger else []
    return [*counts, ("not accounted for", left), *lost, *latencies]


def _doubts(report: Report) -> str:
    """Say why frames are not VALID, the same reason once."""
    if report.density is None:
        return ""
    numbers: dict[str, list[int]] = {}
    rows = zip(report.density["reason"].values, report.density["raw_seq_num"].values, strict=True)
    for reason, number in rows:
        if str(reason):
            numbers.setdefault(str(reason), []).append(int(number))
    if not numbers:
        return ""
    shown = list(numbers.items())[:_MOST_ROWS]
    more = f"<p>and {len(numbers) - len(shown)} more reasons</p>" if len(numbers) > len(shown) else ""
    rows_ = [(_frames(found), reason) for reason, found in shown]
    return f"<h2>Frames that are not VALID</h2>{_table(rows_)}{more}"


def _frames(numbers: list[int]) -> str:
    text = ", ".join(map(str, numbers[:8]))
    return f"frame {text}" + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def _card(card: Mapping[str, Any] | None, made: Mapping[str, Any]) -> str:
    if card is None:
        return f"<p class=remark>The card of {_text(made['model'])} is not on this machine.</p>"
    remark = ""
    if card["sha256"] != made["model_sha256"]:
        remark = "<p class=remark>This card is of other weights than those that the run was made with.</p>"
    ranges = {name: f"{low:.4g} to {high:.4g}" for name, (low, high) in card.get("ranges", {}).items()}
    blocks = [
        ("Calibrated for", list(ranges.items())),
        ("Certificate", _flat(card.get("metrics", {}))),
        ("Training", _flat(card.get("training", {}))),
    ]
    return remark + "".join(f"<h3>{name}</h3>{_table(rows)}" for name, rows in blocks if rows)


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    plain = [(k, v) for k, v in values.items() if isinstance(v, (int, float, str, bool))]
    deep = [(k, v) for k, v in values.items() if isinstance(v, (dict, list))]
    return [(k, f"{v:.4g}" if isinstance(v, float) else v) for k, v in plain] + [
        (k, text) for k, v in deep if len(text := json.dumps(v)) < 300
    ]


def _figure(caption: str, figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = _text(caption)
    return f"<figure><h2>{alt}</h2><img alt='{alt}' src='data:image/png;base64,{data}'></figure>"


def _table(rows: list[tuple[str, Any]]) -> str:
    cells = (f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in rows if v not in ("", None))
    return f"<table>{''.join(cells)}</table>"


def _when(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
