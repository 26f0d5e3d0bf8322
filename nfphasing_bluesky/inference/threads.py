"""Parts of a batch side by side on the processor's cores, each on one thread of torch.

The tensors of a few frames are too small to be worth sharing between cores: on two, one frame takes longer
with both than with one of them, and two halves of a batch at once take two thirds of the time of the whole.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Made = TypeVar("Made")


def side_by_side(function: Callable[[Part], Made], parts: Sequence[Part]) -> list[Made]:
    """Apply a function to each part, in order; on a single core one after the other."""
    cores = torch.get_num_threads()
    if cores == 1:
        return [function(part) for part in parts]
    try:
        if len(parts) > 1:
            return list(_pool(cores, os.getpid()).map(function, parts))
        torch.set_num_threads(1)
        return [function(part) for part in parts]
    finally:
        # a thread sets its own number, and that of threads to come
        torch.set_num_threads(cores)


@lru_cache(maxsize=1)
def _pool(cores: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay: a new one would have to fetch all its memory from the system again."""
    return ThreadPoolExecutor(cores, "nfphasing", initializer=torch.set_num_threads, initargs=(1,))
