"""Queues with a policy, transports (RunEngine callback, 0MQ), the worker process.

Names are loaded when they are asked for: the Tango server imports this room and must not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfphasing_bluesky.streaming.callback import ReconstructionCallback
    from nfphasing_bluesky.streaming.processor import StreamProcessor
    from nfphasing_bluesky.streaming.serve import serve
    from nfphasing_bluesky.streaming.settings import WorkerSettings

_HOMES = {
    "ReconstructionCallback": "callback",
    "StreamProcessor": "processor",
    "WorkerSettings": "settings",
    "serve": "serve",
}

__all__ = ["ReconstructionCallback", "StreamProcessor", "WorkerSettings", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
