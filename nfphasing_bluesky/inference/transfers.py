"""Batches to a device and results back.

On a GPU they go by way of pinned memory, and the next batch is copied, on a stream of its own, while the one
before it is computed. On the processor there is nothing to copy.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.inference.collated import Collated
from nfphasing_bluesky.modalities import Rows


class _Sent(NamedTuple):
    """Work whose batch is on its way, the pinned memory that it comes from, and what to wait for."""

    work: Collated
    pinned: Rows
    done: torch.cuda.Event


def sent_ahead(work: Iterable[Collated], device: torch.device) -> Iterator[Collated]:
    """Yield work with its batch on a GPU, in order; the next one's is sent before.

    Args:
        work: batches on the processor, or None for none.
        device: a GPU.
    """
    stream = torch.cuda.Stream(device)
    waiting: list[Collated | _Sent] = []
    for piece in work:
        waiting.append(piece if piece.batch is None else _send(piece, device, stream))
        if len(waiting) > 1:
            yield _arrived(waiting.pop(0), device)
    yield from (_arrived(last, device) for last in waiting)


def _send(work: Collated, device: torch.device, stream: torch.cuda.Stream) -> _Sent:
    pinned = _changed(work.batch, lambda value: value.pin_memory())
    with torch.cuda.stream(stream):
        there = _changed(pinned, lambda value: value.to(device, non_blocking=True))
        return _Sent(work._replace(batch=there), pinned, stream.record_event())


def _arrived(sent: Collated | _Sent, device: torch.device) -> Collated:
    if isinstance(sent, Collated):
        return sent
    computing = torch.cuda.current_stream(device)
    computing.wait_event(sent.done)

    def keep(value: Tensor) -> Tensor:
        # its memory is the other stream's, which must not use it again before this one is done with it
        value.record_stream(computing)
        return value

    return sent.work._replace(batch=_changed(sent.work.batch, keep))


def _changed(rows: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
    return rows.each(lambda value: _changed(value, change) if isinstance(value, Rows) else change(value))


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring results back: all of them are on their way before any is waited for."""
    back = {}
    for name, value in tensors.items():
        room = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        back[name] = room.copy_(value, non_blocking=True)
    for device in {value.device for value in tensors.values() if value.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return back
