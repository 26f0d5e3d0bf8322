"""Tensors that say they are on a GPU and compute on the processor.

What mixes devices raises, as on a GPU, so a machine without one can tell whether code would run there.
Tensors that a function makes for itself on the processor are found, and reading one that was not brought
back. Copies that don't block are made when their stream is waited for, no earlier; until then there is NaN.
Not found: what a GPU computes differently, and generators that live there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
_INDEXED = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
"""They take indices from the processor too."""
_TO_HOST = (Tensor.cpu, Tensor.tolist, Tensor.item)
_CONVERSIONS = (Tensor.to, Tensor.type_as)


class OnGpu(Tensor):
    """A tensor whose values are held on the processor."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGpu":
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=held.device,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def record_stream(self, stream: Any) -> None:
        """Nothing to do: memory is not used again while this tensor is there."""

    def __repr__(self) -> str:
        return f"OnGpu({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class PretendedStream:
    """Copies in order, made once somebody waits for them."""

    def __init__(self, device: Any = None) -> None:
        self._copies: list[Callable[[], Any]] = []

    def copy(self, to: Tensor, values: Tensor) -> None:
        """Copy later; what is there until then is of no use."""
        if to.is_floating_point():
            to.fill_(torch.nan)
        self._copies.append(lambda: to.copy_(values))

    def record_event(self) -> "PretendedStream":
        """Return what stands for all copies up to now."""
        event = PretendedStream()
        event._copies, self._copies = self._copies, []
        return event

    def wait_event(self, event: "PretendedStream") -> None:
        """Wait for copies of another stream."""
        event.synchronize()

    def wait_stream(self, stream: "PretendedStream") -> None:
        """Refuse: graphs need a GPU."""
        raise RuntimeError("a pretended GPU records no graphs")

    def synchronize(self) -> None:
        """Wait for all copies."""
        while self._copies:
            self._copies.pop(0)()


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """Within it there is a device cuda:0, for code that needs no gradients."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with mock.patch.multiple("torch.cuda", **_STREAMS), torch.no_grad(), _Operators(), _Functions():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


_CURRENT = [PretendedStream()]


@contextmanager
def _on(stream: PretendedStream) -> Iterator[None]:
    _CURRENT.append(stream)
    try:
        yield
    finally:
        _CURRENT.pop()


_STREAMS: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "Stream": PretendedStream,
    "stream": _on,
    "current_stream": lambda device=None: _CURRENT[-1],
}


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch would decide in C++, where every tensor here is on the processor."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") == "__get__":
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args)
        kwargs = dict(kwargs or {})
        if func in _TO_HOST:
            return func(_held(args[0]), *args[1:], **kwargs)
        if func is Tensor.numpy and isinstance(args[0], OnGpu):
            raise TypeError("can't convert a tensor on cuda:0 to numpy: bring it to the processor first")
        later = kwargs.pop("non_blocking", False)
        if func in _CONVERSIONS:
            return _converted(args[0], [*args[1:], *kwargs.values()], later)
        if func is Tensor.copy_ and later:
            _CURRENT[-1].copy(_held(args[0]), _held(args[1]))
            return args[0]
        if func is Tensor.pin_memory:
            return args[0].clone()
        kwargs.pop("pin_memory", None)
        device = kwargs.get("device")
        if device is not None:
            device = torch.device(device)
            kwargs["device"] = torch.device("cpu")
            made = func(*[_held(a) for a in args], **kwargs)
            return OnGpu(made) if device.type == "cuda" else made
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)


def _converted(own: Tensor, wanted: list[Any], later: bool) -> Tensor:
    device, dtype = own.device, own.dtype
    for value in wanted:
        if isinstance(value, Tensor):
            device, dtype = value.device, value.dtype
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, str | torch.device):
            device = torch.device(value)
    if (device.type, dtype) == (own.device.type, own.dtype):
        return own
    values = _held(own).to(dtype, copy=True)
    moved = values.clone()
    if later:
        _CURRENT[-1].copy(moved, values)
    return OnGpu(moved) if device.type == "cuda" else moved


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    tensors = [x for x in _leaves((*args, *kwargs.values())) if isinstance(x, Tensor)]
    here = {id(x.held): x for x in tensors if isinstance(x, OnGpu)}
    copies = name == "aten::copy_"
    if here and len(here) < len(tensors) and not copies:
        shapes = [tuple(x.shape) for x in tensors if not isinstance(x, OnGpu) and x.dim()]
        if shapes and not (name in _INDEXED and isinstance(args[0], OnGpu)):
            raise RuntimeError(f"{name}: expected all tensors on cuda:0, found some of {shapes} on cpu")
    on_gpu = isinstance(args[0], OnGpu) if copies else bool(here)
    if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
        on_gpu, kwargs = True, {**kwargs, "device": torch.device("cpu")}
    out = func(*_without(args), **{n: _without(v) for n, v in kwargs.items()})
    if not on_gpu:
        return out
    if isinstance(out, Tensor):
        return here[id(out)] if id(out) in here else OnGpu(out)
    return pytree.tree_map_only(Tensor, lambda x: here[id(x)] if id(x) in here else OnGpu(x), out)


def _leaves(values: Any) -> list[Any]:
    found = []
    for value in values:
        found += _leaves(value) if isinstance(value, list | tuple) else [value]
    return found


def _without(value: Any) -> Any:
    return type(value)(map(_without, value)) if isinstance(value, list | tuple) else _held(value)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnGpu) else value
