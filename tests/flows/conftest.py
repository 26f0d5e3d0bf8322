"""Subjects of the contract suite: every transform and every kind of flow, with weights off zero."""

import pytest
import torch
from torch import nn

from nfphasing_bluesky.flows import (
    AffineCoupling,
    Box,
    ConditionalAffine,
    ConditionalGaussian,
    FlowSettings,
    LULinear,
    Permutation,
    SplineCoupling,
    build_flow,
)

CONTEXT = 6


def half(dimension: int) -> torch.Tensor:
    return torch.arange(dimension) % 2 == 0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TRANSFORMS = {
    "affine coupling": lambda d: AffineCoupling(half(d), CONTEXT, hidden=16),
    "spline coupling": lambda d: SplineCoupling(half(d), CONTEXT, hidden=16, blocks=2),
    "conditional affine": lambda d: ConditionalAffine(d, CONTEXT, hidden=16),
    "conditional gaussian": lambda d: ConditionalGaussian(d, CONTEXT, hidden=16),
    "lu": LULinear,
    "permutation": lambda d: Permutation(d, generator()),
    "box": lambda d: Box(torch.linspace(-3.0, 1.0, d), torch.linspace(2.0, 40.0, d)),
}

FLOWS = {
    "spline, lu, box": (FlowSettings(layers=4, hidden=16, head_hidden=16), True),
    "spline, permutation, random halves": (
        FlowSettings(layers=4, hidden=16, head_hidden=16, mixing="permutation", split="random_halves"),
        False,
    ),
    "affine, lu, diagonal standardiser, box": (
        FlowSettings(layers=4, hidden=16, head_hidden=16, kind="affine", standardiser="affine"),
        True,
    ),
    "spline, no standardiser": (FlowSettings(layers=3, hidden=16, standardiser="none"), False),
    "gaussian alone, box": (FlowSettings(layers=0, head_hidden=16), True),
}
LOWER, UPPER = -2.0, 10.0


def unsettle(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """Move every weight, so that nothing is the identity any more."""
    seeded = generator(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += (
                scale * torch.randn(parameter.shape, generator=seeded) / max(1.0, parameter.shape[-1] ** 0.5)
            )
    return module


def make_flow(name: str, dimension: int) -> nn.Module:
    settings, boxed = FLOWS[name]
    bounds = ([LOWER] * dimension, [UPPER] * dimension) if boxed else (None, None)
    # a box squeezes what lies many standard deviations out into rounding errors of its edge
    return unsettle(build_flow(dimension, CONTEXT, *bounds, settings), scale=0.1 if boxed else 0.3)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(params=TRANSFORMS)
def transform_name(request):
    return request.param


@pytest.fixture(params=[1, 2, 5])
def dimension(request):
    return request.param


@pytest.fixture
def transform(transform_name, dimension):
    return unsettle(TRANSFORMS[transform_name](dimension))


@pytest.fixture(params=FLOWS)
def flow(request, dimension):
    return make_flow(request.param, dimension)
