"""CUDA graphs: a network that is called again and again with the same shapes is launched as a whole.

A small network is hundreds of kernels that take less time than it takes to launch them. What a graph has
recorded is launched at once. Recording is refused for whatever looks at its values on the way; then, and
where a recording gives other values than the network itself, the network goes on being called.
"""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nfphasing_bluesky.flows import Chain, CurveNetwork
from nfphasing_bluesky.flows.image import ImageEncoder, Level

logger = logging.getLogger(__name__)

CALLS_BEFORE, MOST = 2, 16
"""Calls with the same shapes before a recording, and recordings that a network keeps."""
WARM_UP = 3
TOLERANCE = 1e-3

Tensors = list[Tensor]
Launch = Callable[[], Tensors]
Record = Callable[[Callable[[], Tensors]], Launch]

RECORDED: dict[type[nn.Module], str] = {
    CurveNetwork: "forward",
    ImageEncoder: "forward",
    Chain: "inverse",
    Level: "inverse",
}
"""What of a network only sees tensors: its encoder, and the pass from noise to draws."""


def record_cuda(function: Callable[[], Tensors]) -> Launch:
    """Record what a function of no arguments does on the GPU; the tensors it returned are written anew."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
        made = function()

    def launch() -> Tensors:
        graph.replay()
        return made

    return launch


@lru_cache(maxsize=1)
def _pool() -> Any:
    """Memory that all recordings share: what one returns is copied before the next is launched."""
    return torch.cuda.graph_pool_handle()


def replay(network: nn.Module, record: Record = record_cuda) -> None:
    """Record the parts of a network that can be, each once its shapes have come before."""
    for module in network.modules():
        name = RECORDED.get(type(module))
        if name is not None:
            setattr(module, name, Replayed(getattr(module, name), record))


class Replayed:
    """A function of tensors, of which there is a recording for every set of shapes that keeps coming.

    With gradients the function itself is called.

    Args:
        function: takes and returns tensors, or tuples and dataclasses of them.
        record: makes a recording.
    """

    def __init__(self, function: Callable[..., Any], record: Record) -> None:
        self._function, self._record = function, record
        self._calls: dict[Any, int] = {}
        self._kept: dict[Any, _Recording | None] = {}
        self._lock = Lock()

    def __call__(self, *args: Any) -> Any:
        """Call the function, or launch its recording."""
        leaves, form = pytree.tree_flatten(args)
        if torch.is_grad_enabled():
            return self._function(*args)
        key = form, *(_kind(leaf) for leaf in leaves)
        with self._lock:
            if key not in self._kept:
                return self._first(key, args, leaves)
            recording = self._kept[key]
            return self._function(*args) if recording is None else recording(leaves)

    def _first(self, key: Any, args: Sequence[Any], leaves: list[Any]) -> Any:
        expected = self._function(*args)
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] >= CALLS_BEFORE and len(self._kept) < MOST:
            self._kept[key] = self._recorded(args, leaves, expected)
        return expected

    def _recorded(self, args: Sequence[Any], leaves: list[Any], expected: Any) -> "_Recording | None":
        try:
            made = _Recording(self._function, args, leaves, self._record)
            found = made(leaves)
        except RuntimeError as error:
            logger.info("no CUDA graph of %s: %s", self._function, error)
            return None
        for one, other in zip(_tensors(found), _tensors(expected), strict=True):
            scale = float(other.abs().nan_to_num(0.0, 0.0, 0.0).amax()) if other.numel() else 0.0
            if not torch.allclose(one, other, TOLERANCE, TOLERANCE * scale, equal_nan=True):
                logger.warning("a CUDA graph of %s gives other values; it is not used", self._function)
                return None
        return made


class _Recording:
    """A recording with its own inputs; what it returns is copied, because the next launch writes there."""

    def __init__(
        self, function: Callable[..., Any], args: Sequence[Any], leaves: list[Any], record: Record
    ) -> None:
        own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        _, form = pytree.tree_flatten(args)
        self._own = own
        self._form: Any = None

        def called() -> Tensors:
            values, self._form = pytree.tree_flatten(function(*pytree.tree_unflatten(own, form)))
            return values

        self._launch = record(called)

    def __call__(self, leaves: list[Any]) -> Any:
        for own, leaf in zip(self._own, leaves, strict=True):
            if isinstance(own, Tensor):
                own.copy_(leaf)
        return pytree.tree_unflatten([value.clone() for value in self._launch()], self._form)


def _kind(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _tensors(value: Any) -> Tensors:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
