"""Prior of layer stacks: what each parameter may be, and how a frame narrows it.

A frame may come with bounds on any parameter, what is known of the sample; without them the widest hold. A
network's coordinates are the place between the bounds of its frame, 0 to 1, uniform: so one network serves
every choice of bounds, which it is told (Starostin et al., Sci. Adv. 11, eadr9668, 2025), and no draw leaves
them. Coordinates of several decades count in logarithms.

A stack of L layers has, in this order: thickness, density, roughness of the top and absorption of each layer,
density, roughness and absorption of the substrate, q offset and footprint.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.core import FrameError, Parameter
from nfphasing_bluesky.modalities.draws import ClassSpec
from nfphasing_bluesky.physics.reflectivity import Stack

MOST_LAYERS = 5
ROUGH_SHARE = 0.45
"""Largest roughness over the thickness of the layers it touches: beyond, interfaces are none."""


@dataclass(frozen=True)
class Quantity:
    """One parameter of a stack.

    Args:
        name: as it is reported, with its unit.
        unit: for people.
        label: in words.
        lower, upper: widest bounds.
        log: whether its prior is uniform in the logarithm.
    """

    name: str
    unit: str
    label: str
    lower: float
    upper: float
    log: bool = False

    def coordinate(self, value: float) -> float:
        """Of a value, as `LayerPrior` counts."""
        return math.log(value) if self.log else value


def _layer(j: int) -> tuple[Quantity, ...]:
    return (
        Quantity(f"thickness_{j}_angstrom", "angstrom", f"thickness of layer {j}", 10.0, 400.0, log=True),
        Quantity(
            f"density_{j}_e_per_cubic_angstrom",
            "e/angstrom^3",
            f"electron density of layer {j}",
            0.15,
            4.8,
            log=True,
        ),
        Quantity(f"roughness_{j}_angstrom", "angstrom", f"roughness of the top of layer {j}", 0.5, 20.0),
        Quantity(
            f"absorption_{j}_cubic_angstrom_per_e",
            "angstrom^3/e",
            f"absorption/ρ² of layer {j}",
            0.003,
            0.1,
            log=True,
        ),
    )


COMMON = (
    Quantity(
        "substrate_density_e_per_cubic_angstrom",
        "e/angstrom^3",
        "electron density of the substrate",
        0.15,
        4.8,
        log=True,
    ),
    Quantity("substrate_roughness_angstrom", "angstrom", "roughness of the substrate", 0.5, 20.0),
    Quantity(
        "substrate_absorption_cubic_angstrom_per_e",
        "angstrom^3/e",
        "absorption/ρ² of the substrate",
        0.003,
        0.1,
        log=True,
    ),
    Quantity("q_offset_inv_angstrom", "1/angstrom", "true less nominal q", -1e-3, 1e-3),
    Quantity(
        "footprint_q_inv_angstrom",
        "1/angstrom",
        "q where footprint and sample match",
        0.003,
        0.5,
        log=True,
    ),
)

PER_LAYER = len(_layer(1))
QUANTITIES = (*(q for j in range(1, MOST_LAYERS + 1) for q in _layer(j)), *COMMON)
NAMES = tuple(q.name for q in QUANTITIES)
LAYERS = "layers"
"""What the number of layers is called among bounds."""


def columns(layers: int) -> list[int]:
    """Places in `QUANTITIES` of the parameters of a stack."""
    own = PER_LAYER * MOST_LAYERS
    return [*range(PER_LAYER * layers), *range(own, own + len(COMMON))]


def layer_class(layers: int) -> ClassSpec:
    """Stacks of that many layers, in coordinates from 0 to 1."""
    free = tuple(NAMES[c] for c in columns(layers))
    name = {0: "bare", 1: "1 layer"}.get(layers, f"{layers} layers")
    return ClassSpec(name, free, (0.0,) * len(free), (1.0,) * len(free))


CLASSES = tuple(layer_class(layers) for layers in range(MOST_LAYERS + 1))

PARAMETERS = (
    *(Parameter(q.name, q.unit, q.label) for q in QUANTITIES),
    Parameter("total_thickness_angstrom", "angstrom", "thickness of all layers"),
    Parameter("scale", "", "intensity of total reflection"),
    Parameter("background", "", "flat background"),
)


@dataclass(frozen=True)
class Bounds:
    """Prior bounds of B frames, in coordinates (logarithms where the prior is uniform in them).

    Args:
        lower, upper: (B, P) of every quantity.
        layers: (B, K) bool, numbers of layers that are possible.
    """

    lower: Tensor
    upper: Tensor
    layers: Tensor


def widest() -> tuple[Tensor, Tensor]:
    """(P,) lower and upper coordinates of all quantities, float32."""
    return (
        torch.tensor([q.coordinate(q.lower) for q in QUANTITIES]),
        torch.tensor([q.coordinate(q.upper) for q in QUANTITIES]),
    )


def bounds_of(known: Mapping[str, tuple[float, float]], label: str) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds of one frame: (P,) lower, (P,) upper, (K,) numbers of layers.

    Args:
        known: quantity -> lowest and highest value; `layers` for the number of layers.
        label: of the frame.

    Raises:
        FrameError: an unknown quantity, inverted bounds, or bounds beyond what the model has learnt.
    """
    lower, upper = widest()
    layers = _layers_of(known, label)
    for name, (low, high) in known.items():
        if name == LAYERS:
            continue
        _check_name(label, name, known)
        place = NAMES.index(name)
        quantity = QUANTITIES[place]
        check_interval(label, name, low, high, quantity.lower, quantity.upper)
        lower[place], upper[place] = quantity.coordinate(low), quantity.coordinate(high)
    # a parameter that is known is one between very close bounds
    wide = widest()
    least = 1e-4 * (wide[1] - wide[0])
    return lower, torch.maximum(upper, lower + least), layers


def _layers_of(known: Mapping[str, tuple[float, float]], label: str) -> Tensor:
    """(K,) bool, numbers of layers that are possible."""
    low, high = known.get(LAYERS, (0, MOST_LAYERS))
    check_interval(label, LAYERS, low, high, 0, MOST_LAYERS)
    layers = torch.tensor([low <= k <= high for k in range(len(CLASSES))])
    if not layers.any():
        raise FrameError(
            f"{label}: bounds of {LAYERS} are {low:g} to {high:g}, expected a whole number among them"
        )
    return layers


def _check_name(label: str, name: str, known: Mapping[str, tuple[float, float]]) -> None:
    """Raise FrameError for what is no parameter, or that of a layer that there can't be."""
    of_layer = re.fullmatch(r"(?:thickness|density|roughness|absorption)_(\d+)_\w+", name)
    layer = int(of_layer.group(1)) if of_layer else 0
    if layer > MOST_LAYERS:
        raise FrameError(
            f"{label}: bounds of {name}, of layer {layer}, expected at most {MOST_LAYERS} layers: the model "
            "holds no more; join layers that look alike, or use another model"
        )
    if name not in NAMES:
        raise FrameError(
            f"{label}: bounds of {name!r}, expected a parameter: {LAYERS}, {', '.join(NAMES[:PER_LAYER])}, "
            f"..., {', '.join(q.name for q in COMMON)}"
        )
    low, high = known.get(LAYERS, (0, MOST_LAYERS))
    if layer > high:
        raise FrameError(
            f"{label}: bounds of {name}, of layer {layer}, but of {LAYERS} as {low:g} to {high:g}; leave one "
            "of the two out"
        )


def check_interval(label: str, name: str, low: float, high: float, least: float, most: float) -> None:
    """Raise FrameError for bounds of a parameter that are inverted, or beyond what a model has learnt."""
    if not low <= high:
        raise FrameError(
            f"{label}: bounds of {name} are {low:g} to {high:g}, expected the lower one first; exchange them"
        )
    if low < least or high > most:
        raise FrameError(
            f"{label}: bounds of {name} are {low:g} to {high:g}, expected them within {least:g} to {most:g}, "
            "what the model has learnt; narrow them or use another model"
        )


NARROWEST = 0.01
ALL_WIDE = 0.3
EACH_WIDE = 0.3
COUNT_KNOWN = 0.4


def random_bounds(label: Tensor, generator: torch.Generator) -> Bounds:
    """Bounds that users might set, for frames of stacks with `label` layers.

    Sometimes all are the widest; else each is the widest or narrower by a log-uniform factor, anywhere within
    the widest. The number of layers is sometimes known.
    """
    n, device = len(label), generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    low, high = (edge.to(device) for edge in widest())
    count = len(QUANTITIES)
    share = NARROWEST ** uniform(n, count)
    wide = (uniform(n, 1) < ALL_WIDE) | (uniform(n, count) < EACH_WIDE)
    share = torch.where(wide, 1.0, share)
    start = uniform(n, count) * (1 - share)
    known = (uniform(n, 1) < COUNT_KNOWN) & (label[:, None] != torch.arange(len(CLASSES), device=device))
    return Bounds(low + start * (high - low), low + (start + share) * (high - low), ~known)


def coordinates(theta: Tensor, layers: int, lower: Tensor, upper: Tensor) -> Tensor:
    """(N, D) coordinates of theta (N, D) in 0..1 between the bounds (N, P) of its frame."""
    own = columns(layers)
    return torch.lerp(lower[:, own].to(theta), upper[:, own].to(theta), theta)


@dataclass(frozen=True)
class Sample:
    """N stacks of equally many layers and what of the instrument is inferred with them.

    Args:
        stack: in air or vacuum.
        q_offset: (N,) 1/angstrom.
        footprint_q: (N,) 1/angstrom.
        values: (N, D) of the parameters, in their units.
    """

    stack: Stack
    q_offset: Tensor
    footprint_q: Tensor
    values: Tensor


def sample_of(theta: Tensor, layers: int, lower: Tensor, upper: Tensor) -> Sample:
    """Stacks of theta (N, D) in 0..1 between the bounds (N, P) of their frames."""
    place = coordinates(theta, layers, lower, upper)
    log = torch.tensor([QUANTITIES[c].log for c in columns(layers)], device=theta.device)
    values = torch.where(log, torch.where(log, place, 0.0).exp(), place)
    ends = PER_LAYER * layers
    own, common = values[:, :ends].reshape(len(values), layers, PER_LAYER), values[:, ends:]
    thickness, density, rough, absorption = own.unbind(2)
    density = torch.cat([torch.zeros_like(common[:, :1]), density, common[:, :1]], 1)
    rough = possible_roughness(torch.cat([rough, common[:, 1:2]], 1), thickness)
    absorption = torch.cat([torch.zeros_like(common[:, :1]), absorption, common[:, 2:3]], 1)
    own = torch.stack([thickness, density[:, 1:-1], rough[:, :-1], absorption[:, 1:-1]], 2)
    values = torch.cat([own.flatten(1), common[:, :1], rough[:, -1:], common[:, 2:]], 1)
    stack = Stack(density, absorption * density.square(), thickness.contiguous(), rough)
    return Sample(stack, common[:, 3], common[:, 4], values)


def possible_roughness(roughness: Tensor, thickness: Tensor) -> Tensor:
    """(N, L + 1) roughness, held below `ROUGH_SHARE` of the thickness (N, L) of the layers it touches."""
    far = torch.full_like(roughness[:, :1], 1e6)
    above, below = torch.cat([far, thickness], 1), torch.cat([thickness, far], 1)
    most = ROUGH_SHARE * torch.minimum(above, below)
    return roughness * (1 + (roughness / most) ** 4) ** -0.25
