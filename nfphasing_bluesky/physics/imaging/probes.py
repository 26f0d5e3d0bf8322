"""Random probes to learn from: focused, defocused and structured beams with one or several modes.

A beam is an aperture in the far field (a disc, with or without a central stop), with aberrations, or a
pinhole with a structure in its light; further modes are its derivatives, as of a source that moves.
"""

import math

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import (
    angles,
    centred_grid,
    chance,
    each,
    log_uniform,
    normal,
    uniform,
)

RADIUS_PX = (8.0, 30.0)
"""Range of the root mean square radii that are aimed at."""

LARGEST_SHARE = 0.3
"""Of a frame's side, that a radius may take: sampling of the far field needs some dark."""


def random_probes(n: int, side: int, generator: Generator, modes: int = 2) -> Tensor:
    """(n, P, side, side) complex64 probes of unit energy, sum |probe|^2 = 1, centred within a few pixels.

    The first mode has 80 to 100 % of the energy; in half of the probes all of it.

    Args:
        n: how many.
        side: of a frame, px.
        generator: of the draws.
        modes: P.
    """
    largest = min(RADIUS_PX[1], LARGEST_SHARE * side)
    radius = log_uniform(generator, (n,), RADIUS_PX[0], largest)
    first = torch.where(
        chance(generator, (n, 1, 1), 0.65),
        _focused(n, side, radius, generator),
        _pinhole(n, side, radius, generator),
    )
    first = _unit(_moved(first, generator))
    others = [_derivative(first, generator) for _ in range(1, modes)]
    share = uniform(generator, (n, modes - 1), 0.0, 0.2 / max(1, modes - 1))
    share = share * chance(generator, (n, 1), 0.5)
    weight = torch.cat([1 - share.sum(1, keepdim=True), share], 1).sqrt()
    return torch.stack([first, *others], 1) * weight[:, :, None, None]


def light_radius(probe: Tensor) -> Tensor:
    """(B,) root mean square radius of probes (B, P, H, W), px."""
    light = probe.abs().square().sum(1)
    light = light / light.sum((1, 2), keepdim=True)
    rows, columns = centred_grid((probe.shape[-2], probe.shape[-1]), light)
    centre = (light * rows).sum((1, 2)), (light * columns).sum((1, 2))
    away = (rows - each(centre[0])).square() + (columns - each(centre[1])).square()
    return (light * away).sum((1, 2)).sqrt()


def _focused(n: int, side: int, radius: Tensor, generator: Generator) -> Tensor:
    """Beams of an aperture, most of them out of focus: the size is made of diffraction and defocus."""
    device = generator.device
    rows, columns = (torch.fft.fftfreq(side, device=device)[s] for s in ((slice(None), None), (None,)))
    edge = log_uniform(generator, (n,), 1.0 / 16, 0.3)
    f = torch.sqrt(rows.square() + columns.square()) / each(edge)
    softness = each(uniform(generator, (n,), 0.02, 0.15))
    open_ = torch.sigmoid((1 - f) / softness)
    stop = uniform(generator, (n,), 0.0, 0.6) * chance(generator, (n,), 0.5)
    open_ = open_ * torch.where(each(stop) > 0.1, torch.sigmoid((f - each(stop)) / softness), 1.0)
    # a defocus of c f^2 cycles moves light of frequency f by 2 c f pixels
    defocus = radius / (math.sqrt(2.0) * edge) * torch.where(chance(generator, (n,), 0.5), 1.0, -1.0)
    phase = math.pi * each(defocus) * (rows.square() + columns.square())
    angle = each(angles(generator, (n,)))
    across, along = columns * angle.cos() + rows * angle.sin(), rows * angle.cos() - columns * angle.sin()
    u, v = across / each(edge), along / each(edge)
    size = [each(normal(generator, (n,)) * s) for s in (0.8, 0.4, 0.4)]
    phase = phase + size[0] * (u.square() - v.square()) + size[1] * u * f.square() + size[2] * (u**3)
    wave = torch.polar(open_, phase)
    return torch.fft.fftshift(torch.fft.ifft2(wave), dim=(-2, -1))


def _pinhole(n: int, side: int, radius: Tensor, generator: Generator) -> Tensor:
    """Discs or squares of light with soft edges, smooth structure and a curved wave front."""
    rows, columns = centred_grid((side, side), radius)
    reach = math.sqrt(2.0) * radius
    round_ = torch.sqrt(rows.square() + columns.square()).expand(n, side, side)
    square = torch.maximum(rows.abs(), columns.abs()).expand(n, side, side) * 1.1
    away = torch.where(each(chance(generator, (n,), 0.7)), round_, square)
    softness = each(log_uniform(generator, (n,), 0.2, 6.0))
    amplitude = torch.sigmoid((each(reach) - away) / softness)
    structure = smooth_fields(n, side, log_uniform(generator, (n,), 2.0, 12.0), generator)
    amplitude = amplitude * (each(uniform(generator, (n,), 0.0, 0.35)) * structure).exp()
    front = smooth_fields(n, side, log_uniform(generator, (n,), 3.0, 20.0), generator)
    curved = each(normal(generator, (n,)) / reach.square()) * (rows.square() + columns.square()) * 3.0
    return torch.polar(amplitude, each(uniform(generator, (n,), 0.0, 1.0)) * front + curved)


def smooth_fields(n: int, side: int, width_px: Tensor, generator: Generator) -> Tensor:
    """(n, side, side) Gaussian fields of unit deviation and a correlation width."""
    fy, fx = torch.fft.fftfreq(side, device=width_px.device), torch.fft.rfftfreq(side, device=width_px.device)
    white = torch.fft.rfft2(normal(generator, (n, side, side)))
    low = torch.exp(-2 * (math.pi * each(width_px)).square() * (fy[:, None].square() + fx.square()))
    field = torch.fft.irfft2(white * low, s=(side, side))
    return field / field.std((1, 2), keepdim=True).clamp_min(1e-6)


def _moved(wave: Tensor, generator: Generator) -> Tensor:
    """Move each beam by up to a twentieth of the frame."""
    side = wave.shape[-1]
    away = uniform(generator, (len(wave), 2), -side / 20, side / 20).round().long()
    place = torch.arange(side, device=wave.device)
    rows, columns = ((place - away[:, axis, None]) % side for axis in (0, 1))
    each_ = torch.arange(len(wave), device=wave.device)[:, None, None]
    return wave[each_, rows[:, :, None], columns[:, None, :]]


def _derivative(wave: Tensor, generator: Generator) -> Tensor:
    """Derivative along a random direction, of unit energy: orthogonal for a beam of one phase."""
    angle = each(angles(generator, (len(wave),)))
    down, right = (torch.roll(wave, 1, d) - torch.roll(wave, -1, d) for d in (-2, -1))
    return _unit(down * angle.sin() + right * angle.cos())


def _unit(wave: Tensor) -> Tensor:
    return wave / wave.abs().square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)
