"""The demo's one table."""

from collections.abc import Mapping, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table

from nfphasing_bluesky.demo.readback import PARAMETERS, FrameLine

_WIDTH = 120


def results_table(
    stored: Sequence[FrameLine], served: FrameLine, ledger: Mapping[str, float], model: str
) -> str:
    """Return a table of every stored frame and of the last one as Tango serves it, and the ledger below.

    Args:
        stored: from the catalog.
        served: from the Tango device.
        ledger: of the derived run.
        model: name of the model.
    """
    counts = ", ".join(f"{int(ledger[n])} {n}" for n in ("received", "reconstructed", "dropped", "failed"))
    times = (
        f"median {1e3 * ledger['latency_p50_s']:.0f} ms, 99 % below {1e3 * ledger['latency_p99_s']:.0f} ms"
    )
    table = Table(title=f"{model}: median ± standard deviation")
    for heading in ("from", "frame", "sample"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Rg, Å", "Dmax, Å", "reduced χ²", "verdict", "latency, ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in stored:
        table.add_row("tiled", *_cells(line))
    table.add_section()
    table.add_row("Tango", *_cells(served))
    text = StringIO()
    Console(file=text, width=_WIDTH, force_terminal=False).print(table)
    return f"{text.getvalue().rstrip()}\nledger: {counts}; latency {times}"


def _cells(line: FrameLine) -> list[str]:
    pairs = [line.parameters[name] for name in PARAMETERS]
    return [
        str(line.seq_num),
        line.sample,
        *(f"{median:.1f} ± {std:.2f}" for median, std in pairs),
        f"{line.reduced_chi2:.3g}",
        line.verdict,
        f"{1e3 * line.latency_s:.1f}",
    ]
