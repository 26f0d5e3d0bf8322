"""What a worker says of itself to Prometheus, when it is asked to: counts, queue, latency, GPU memory."""

import sys
import threading
from collections.abc import Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Histogram, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.streaming.protocol import WorkerState, WorkerStatus

BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_OUTCOMES = ("received", "reconstructed", "dropped", "failed")


class Metrics:
    """A page that Prometheus scrapes. Nothing is counted for it but latencies: it reads the status.

    Args:
        address: HOST:PORT to serve `/metrics` at; the settings have checked that it is on this machine.
        device: that the model computes on, as the settings name it.

    Raises:
        TransportError: the port is taken.
    """

    def __init__(self, address: str, device: str = "auto") -> None:
        host, _, port = address.rpartition(":")
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "nfphasing_latency_seconds",
            "From the arrival of a frame's documents to its result.",
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._status: WorkerStatus | None = None
        self._device = device
        self._registry.register(self)
        try:
            self._server: WSGIServer
            self._thread: threading.Thread
            self._server, self._thread = start_http_server(int(port), host, self._registry)
        except OSError as error:
            raise TransportError(
                f"cannot serve metrics at {address}: {error}; choose another port"
            ) from error

    def observe(self, latency_s: float) -> None:
        """Count one frame's latency."""
        self._latency.observe(latency_s)

    def show(self, status: WorkerStatus) -> None:
        """Keep a status for the next scrape; its counts must be those since the start of the process."""
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Give the status as metrics (called at a scrape)."""
        status = self._status
        if status is None:
            return
        frames = CounterMetricFamily("nfphasing_frames", "Frames by what became of them.", labels=["outcome"])
        for outcome in _OUTCOMES:
            frames.add_metric([outcome], getattr(status.counts, outcome))
        yield frames
        for name in ("frames_lost", "messages_refused", "peers_refused"):
            yield CounterMetricFamily(f"nfphasing_{name}", _HELP[name], status.statistics.get(name, 0))
        for name in ("waiting_frames", "waiting_documents", "open_runs", "uptime_s"):
            yield GaugeMetricFamily(f"nfphasing_{name}", _HELP[name], status.statistics.get(name, 0))
        states = GaugeMetricFamily("nfphasing_state", "1 for the present state.", labels=["state"])
        for state in WorkerState:
            states.add_metric([str(state)], float(state is status.state))
        yield states
        memory = _gpu_memory(self._device)
        if memory is not None:
            yield GaugeMetricFamily(
                "nfphasing_gpu_memory_bytes", "Memory that torch holds on the GPU.", memory
            )

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


_HELP = {
    "frames_lost": "Frames that never arrived, seen from their sequence numbers.",
    "messages_refused": "Messages that were no documents.",
    "peers_refused": "Attempts to connect without a key that may.",
    "waiting_frames": "Documents with frames in the queue.",
    "waiting_documents": "Documents in the queue.",
    "open_runs": "Raw runs that are being reconstructed.",
    "uptime_s": "Seconds since the worker began.",
}


def _gpu_memory(device: str) -> float | None:
    """Bytes reserved on the GPU of this name; None without one, and where torch was not loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized() or not device.startswith(("auto", "cuda")):
        return None
    return float(torch.cuda.memory_reserved(None if device == "auto" else device))
