"""Whether total reflection ends where a material within the bounds can end it.

Angles that are two theta where theta is meant double every q: the curve still looks like one, of a sample
four times as dense and half as thick. Its critical edge gives it away where the bounds say what it is. One
simulated curve in a thousand is accused wrongly.
"""

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.layers.layer_prior import MOST_LAYERS, NAMES, QUANTITIES
from nfphasing_bluesky.modalities.layers.reflectivity_curves import ReflectivityBatch
from nfphasing_bluesky.physics.reflectivity import critical_q

PLATEAU = 1.5
"""Last over first q of total reflection, at least, for there to be an edge: beyond one, R falls as q^-4."""
TOO_FAR = 1.5
OFFSET_INV_ANGSTROM = max(abs(q.upper) for q in QUANTITIES if q.name == "q_offset_inv_angstrom")
DENSITIES = [NAMES.index(f"density_{j}_e_per_cubic_angstrom") for j in range(1, MOST_LAYERS + 1)]
SUBSTRATE = NAMES.index("substrate_density_e_per_cubic_angstrom")


def edge(batch: ReflectivityBatch) -> Tensor:
    """(B,) q at which the intensity first falls to half of what it was before; NaN where nothing was flat."""
    usable = ~batch.mask
    value = torch.where(usable, batch.intensity, -torch.inf)
    fallen = usable & (value < 0.5 * value.cummax(1).values)
    place = fallen.to(torch.uint8).argmax(1, keepdim=True)
    q = batch.points.gather(1, place)[:, 0]
    first = torch.where(usable, batch.points, torch.inf).amin(1)
    known = fallen.any(1) & (q > PLATEAU * first)
    return torch.where(known, q, torch.nan)


def furthest_edge(batch: ReflectivityBatch) -> Tensor:
    """(B,) q of the critical edge of the densest material that the bounds allow, 1/angstrom."""
    count = torch.arange(MOST_LAYERS + 1, device=batch.layers.device)
    most = torch.where(batch.layers, count, 0).amax(1)
    there = torch.arange(MOST_LAYERS, device=most.device) < most[:, None]
    upper = batch.upper.exp()
    layers = torch.where(there, upper[:, DENSITIES], 0.0)
    return critical_q(torch.maximum(layers.amax(1), upper[:, SUBSTRATE]))


def edge_agreement(batch: ReflectivityBatch) -> Tensor:
    """(B,) 1 where the edge lies within reach of the bounds, 0 where it lies far beyond, NaN without one."""
    found = edge(batch)
    widest = torch.where(batch.mask, 0.0, batch.dq)[:, : batch.points.shape[1]].amax(1)
    allowed = TOO_FAR * furthest_edge(batch) + OFFSET_INV_ANGSTROM + 2 * widest
    return torch.where(found.isnan(), torch.nan, (found <= allowed).to(found))
