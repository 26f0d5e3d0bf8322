"""What is reported of oriented particles beside their density."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nfphasing_bluesky.core import Parameter
from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.oriented.oriented_network import PHI
from nfphasing_bluesky.modalities.oriented.oriented_shapes import NAMES, lengths, spreads, tilt

PARAMETERS = (
    Parameter("radius_angstrom", "angstrom", "cylinder radius"),
    Parameter("polar_radius_angstrom", "angstrom", "ellipsoid radius along its axis"),
    Parameter("equatorial_radius_angstrom", "angstrom", "ellipsoid radius across it"),
    Parameter("side_a_angstrom", "angstrom", "parallelepiped side a"),
    Parameter("side_b_angstrom", "angstrom", "side b"),
    Parameter("length_angstrom", "angstrom", "length along the axis"),
    Parameter("polydispersity", "", "relative spread of sizes"),
    Parameter("phi_deg", "degree", "azimuth of the axis, x to y"),
    Parameter("theta_deg", "degree", "angle of the axis to the beam"),
    Parameter("orientation_spread_deg", "degree", "spread of the azimuth"),
    Parameter("tilt_spread_deg", "degree", "spread of the angle"),
    Parameter("orientation_cut", "", "end of both spreads, in sigma"),
    Parameter("i0", "", "forward intensity"),
    Parameter("background", "", "background"),
)
"""Side a is the longer one across the parallelepiped's axis; the relative spread is that of the radius, of
both radii, or of sides a and b. phi repeats after 180 degrees; theta is 90 in the detector's plane, and theta
and 180 - theta can't be told apart. Spreads are standard deviations of Gaussians before these are cut.
Intensity and background are per pixel, in the frame's units.
"""


def reported(draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> (N,) values of `PARAMETERS`; NaN where a class lacks one. phi is within 90 of the axis."""
    t = draws.theta
    out = {p.name: torch.full_like(t[:, 0], torch.nan) for p in PARAMETERS}
    stretch = nuisance["q_scale"].to(t)
    for k, names in enumerate(NAMES):
        chosen = draws.label == k
        for name, value in zip(names, lengths(k, t[chosen]), strict=True):
            out[f"{name}_angstrom"][chosen] = value * stretch[chosen]
        out["theta_deg"][chosen] = 90 - tilt(k, t[chosen]).rad2deg()
    axis = nuisance["axis"].to(t)
    turns = ((t[:, PHI] - axis + math.pi / 2) / math.pi).floor()
    out["polydispersity"] = t[:, 6].clone()
    out["phi_deg"] = (t[:, PHI] - math.pi * turns).rad2deg()
    out["orientation_spread_deg"], out["tilt_spread_deg"] = (v.rad2deg() for v in spreads(t))
    out["orientation_cut"] = t[:, 7].clone()
    out["i0"] = nuisance["scale"].to(t)
    out["background"] = (nuisance["scale"] * nuisance["beta"]).to(t)
    return out
