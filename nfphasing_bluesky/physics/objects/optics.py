"""From thickness to what a beam sees: phase and absorption of the wave exp(i phase - mu).

A material of refractive index 1 - delta + i beta and thickness t shifts the phase by -k delta t and damps the
amplitude by exp(-k beta t).
"""

from torch import Tensor

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.physics.objects.draws import each


def phase_and_absorption(
    maps: Tensor, peak_phase_rad: Tensor, beta_over_delta: Tensor
) -> tuple[Tensor, Tensor]:
    """A single material: absorption follows the phase.

    Args:
        maps: (B, H, W) thickness over the largest one, in [0, 1].
        peak_phase_rad: (B,) phase shift by thickness 1, as a positive number.
        beta_over_delta: (B,) of the material.

    Returns:
        phase (B, H, W) <= 0, rad, and mu (B, H, W) >= 0.
    """
    phase = -each(_positive(peak_phase_rad, "peak_phase_rad")) * maps
    return phase, -each(_positive(beta_over_delta, "beta_over_delta")) * phase


def free_phase_and_absorption(
    maps: Tensor, absorbing: Tensor, peak_phase_rad: Tensor, peak_mu: Tensor
) -> tuple[Tensor, Tensor]:
    """Absorption by a second map of its own, (B, H, W) in [0, 1], up to peak_mu (B,)."""
    _same_shape(maps, absorbing, "absorbing")
    phase = -each(_positive(peak_phase_rad, "peak_phase_rad")) * maps
    return phase, each(_positive(peak_mu, "peak_mu")) * absorbing


def two_materials(
    maps: Tensor,
    composition: Tensor,
    peak_phase_rad: Tensor,
    beta_over_delta: Tensor,
    other_beta_over_delta: Tensor,
) -> tuple[Tensor, Tensor]:
    """Two materials, one behind or beside the other.

    Args:
        maps: (B, H, W) phase shift over the largest one, in [0, 1].
        composition: (B, H, W) share of the phase shift that the other material makes, in [0, 1].
        peak_phase_rad: (B,) largest phase shift, as a positive number.
        beta_over_delta: (B,) of the first material.
        other_beta_over_delta: (B,) of the other one.

    Returns:
        phase (B, H, W) <= 0, rad, and mu (B, H, W) >= 0.
    """
    _same_shape(maps, composition, "composition")
    phase = -each(_positive(peak_phase_rad, "peak_phase_rad")) * maps
    first = each(_positive(beta_over_delta, "beta_over_delta"))
    other = each(_positive(other_beta_over_delta, "other_beta_over_delta"))
    return phase, -phase * (first + (other - first) * composition)


def _positive(value: Tensor, name: str) -> Tensor:
    if value.ndim != 1 or bool((value < 0).any()):
        raise SettingsError(
            f"{name} is {value.tolist()} of shape {tuple(value.shape)}; pass one number >= 0 for each object"
        )
    return value


def _same_shape(maps: Tensor, other: Tensor, name: str) -> None:
    if maps.shape != other.shape:
        raise SettingsError(
            f"{name} {tuple(other.shape)} does not match maps {tuple(maps.shape)}; draw as many of one shape"
        )
