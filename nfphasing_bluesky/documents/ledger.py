"""The ledger of a derived run: what became of every frame, and how long it took."""

from dataclasses import dataclass, field
from typing import Any

from nfphasing_bluesky.documents.latencies import Latencies

COUNTS = ("received", "reconstructed", "dropped", "failed")
LOST = "lost"
PERCENTILES = (50, 90, 99)


@dataclass
class Ledger:
    """Counts of one run. `received` is counted where frames arrive, the others where they end.

    `lost` frames were never received: their sequence numbers are missing. They are in no other count.
    """

    received: int = 0
    reconstructed: int = 0
    dropped: int = 0
    failed: int = 0
    lost: int = 0
    latencies_s: Latencies = field(default_factory=Latencies)

    @property
    def unaccounted(self) -> int:
        """Frames that were received and became nothing; 0 in an honest ledger."""
        return self.received - self.reconstructed - self.dropped - self.failed

    def percentiles(self) -> dict[str, float]:
        """Return latency percentiles, s, as `latency_p50_s` and so on; NaN when nothing was reconstructed."""
        values = self.latencies_s.percentiles(PERCENTILES)
        return {f"latency_p{p}_s": value for p, value in zip(PERCENTILES, values, strict=True)}

    def data(self) -> dict[str, Any]:
        """Return the ledger as the data of its event."""
        return {name: int(getattr(self, name)) for name in (*COUNTS, LOST)} | self.percentiles()


def ledger_keys(source: str) -> dict[str, dict[str, Any]]:
    """Return the data keys of the stream `ledger`."""
    counts = {
        name: {"source": source, "dtype": "integer", "dtype_numpy": "<i8", "shape": [], "units": "frames"}
        for name in (*COUNTS, LOST)
    }
    times = {
        f"latency_p{p}_s": {
            "source": source,
            "dtype": "number",
            "dtype_numpy": "<f8",
            "shape": [],
            "units": "s",
        }
        for p in PERCENTILES
    }
    return counts | times
