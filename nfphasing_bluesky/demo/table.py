"""The demo's one table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table

from nfphasing_bluesky.demo.readback import FrameLine

_WIDTH = 120


def results_table(
    stored: Sequence[FrameLine],
    served: FrameLine,
    ledger: Mapping[str, float],
    model: str,
    headings: Mapping[str, str],
) -> str:
    """Return a table of every stored frame and of the last one as Tango serves it, and the ledger below.

    Where a model gives several answers, their weights stand side by side.

    Args:
        stored: from the catalog.
        served: from the Tango device.
        ledger: of the derived run.
        model: name of the model.
        headings: parameter -> heading of its column.
    """
    counts = ", ".join(f"{int(ledger[n])} {n}" for n in ("received", "reconstructed", "dropped", "failed"))
    times = (
        f"median {1e3 * ledger['latency_p50_s']:.0f} ms, 99 % below {1e3 * ledger['latency_p99_s']:.0f} ms"
    )
    table = Table(title=f"{model}: median ± standard deviation")
    for heading in ("from", "frame", "sample"):
        table.add_column(heading, no_wrap=True)
    several = ("answers, %",) if any(line.modes for line in stored) else ()
    for heading in (*headings.values(), *several, "reduced χ²", "verdict", "latency, ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in stored:
        table.add_row("tiled", *_cells(line, headings, bool(several)))
    table.add_section()
    table.add_row("Tango", *_cells(served, headings, bool(several)))
    text = StringIO()
    Console(file=text, width=_WIDTH, force_terminal=False).print(table)
    return f"{text.getvalue().rstrip()}\nledger: {counts}; latency {times}"


def _cells(line: FrameLine, names: Iterable[str], several: bool) -> list[str]:
    answers = [" + ".join(f"{100 * weight:.0f}" for weight in line.modes)] if several else []
    return [
        str(line.seq_num),
        line.sample,
        *(_measured(*line.parameters[name]) for name in names),
        *answers,
        f"{line.reduced_chi2:.3g}",
        line.verdict,
        f"{1e3 * line.latency_s:.1f}",
    ]


def _measured(median: float, std: float) -> str:
    """Two digits of the uncertainty."""
    if not (math.isfinite(std) and std > 0):
        return f"{median:.4g} ± {std:.2g}"
    digits = max(0, 1 - math.floor(math.log10(std)))
    return f"{median:.{digits}f} ± {std:.{digits}f}"
