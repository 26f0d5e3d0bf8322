"""The page for Prometheus: the memory of the GPU that the model is on."""

import httpx
import pytest
import torch

from nfphasing_bluesky.streaming.metrics import Metrics
from nfphasing_bluesky.streaming.protocol import WorkerState, WorkerStatus
from tests.waiting import free_port

RESERVED = {"cuda:0": 100.0, "cuda:1": 200.0, None: 100.0}


@pytest.mark.parametrize(
    ("device", "said"), [("cuda:1", "200.0"), ("cuda:0", "100.0"), ("auto", "100.0"), ("cpu", "")]
)
def test_the_memory_is_that_of_the_devices_own_card(device, said, monkeypatch):
    """Two cards, as torch would tell of them; there is none here."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda of=None: RESERVED[of])
    address = f"127.0.0.1:{free_port()}"
    metrics = Metrics(address, device)
    try:
        metrics.show(WorkerStatus(WorkerState.ON))
        page = httpx.get(f"http://{address}/metrics").text
    finally:
        metrics.close()
    lines = [line for line in page.splitlines() if line.startswith("nfphasing_gpu_memory_bytes")]
    assert lines == ([f"nfphasing_gpu_memory_bytes {said}"] if said else [])
