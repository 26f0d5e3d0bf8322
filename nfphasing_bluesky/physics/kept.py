"""Tables of tensors that are made once."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar, cast

import torch

Make = TypeVar("Make", bound=Callable[..., object])


def kept(most: int) -> Callable[[Make], Make]:
    """Keep what a function of hashable arguments returned, for the `most` last arguments.

    What was first asked for in torch's inference mode can be used in a calculation with gradients later.
    """

    def wrap(make: Make) -> Make:
        return cast(Make, lru_cache(most)(torch.inference_mode(False)(make)))

    return wrap
