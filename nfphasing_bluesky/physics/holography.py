r"""Near-field holography: holograms of an object in a plane wave, and linear back-projections of them.

Letters: B batch, R regularisations, H rows, W columns. Fr is the pixel Fresnel number of `propagate`. The
wave behind a thin object is psi = exp(i phi - mu), with phi = -r_e lambda integral(rho_e dz) <= 0 for matter
and mu >= 0, half the absorbance (natural logarithm); one material has mu = -(beta / delta) phi. Intensities
are 1 without an object.

For weak objects the spectrum of the hologram I is that of the phase times the contrast transfer function,

    I(f) - delta(f) = A(f) phi(f),  A = 2 sin(chi) + 2 (beta / delta) cos(chi),  chi = pi f^2 / Fr

(Guigay, Optik 49, 121 (1977); Cloetens et al., Appl. Phys. Lett. 75, 2912 (1999); for one material Turner et
al., Opt. Express 12, 2960 (2004)).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nfphasing_bluesky.core import FrameError, SettingsError
from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.physics.propagate import (
    Boundary,
    Scalar,
    check_boundary,
    checked_fresnel_number,
    chirp,
    fresnel_propagate,
)


def exit_wave(phase: Tensor, absorption: Tensor | None = None) -> Tensor:
    """Psi = exp(i phi - mu), complex (B, H, W), of a phase and an absorption (0 when None), (B, H, W)."""
    modulus = torch.ones_like(phase) if absorption is None else torch.exp(-absorption)
    return torch.polar(modulus, phase)


def homogeneous_exit_wave(phase: Tensor, beta_over_delta: Scalar) -> Tensor:
    """Psi = exp((i + beta / delta) phi) of one material; beta / delta >= 0 is a number or (B,)."""
    return exit_wave(phase, -_per_image(beta_over_delta, phase) * phase)


def hologram(
    wave: Tensor, fresnel_number: Scalar, *, boundary: Boundary = "constant", outside: complex = 1.0
) -> Tensor:
    """(B, H, W) intensity |psi|^2 that a wave behind the object (B, H, W) has at the detector.

    Arguments as for `fresnel_propagate`.
    """
    there = fresnel_propagate(wave, fresnel_number, boundary=boundary, outside=outside)
    return there.real.square() + there.imag.square()


def projected_density(phase: Tensor, wavelength_angstrom: Scalar) -> Tensor:
    """Integral of the electron density along the beam, e/angstrom^2: -phi / (r_e lambda); lambda or (B,)."""
    return -phase / (ELECTRON_RADIUS_ANGSTROM * _per_image(wavelength_angstrom, phase))


def phase_shift(projected_density: Tensor, wavelength_angstrom: Scalar) -> Tensor:
    """Inverse of `projected_density`: the phase, rad, of a projected density in e/angstrom^2."""
    return -ELECTRON_RADIUS_ANGSTROM * _per_image(wavelength_angstrom, projected_density) * projected_density


def ctf_phase(
    holograms: Tensor,
    fresnel_number: Scalar,
    regularisations: Sequence[tuple[float, float]],
    *,
    beta_over_delta: Scalar = 0.0,
    boundary: Boundary = "constant",
) -> Tensor:
    """Phases by least squares from weak-object holograms, each at R regularisations.

    phi(f) = A (I - delta)(f) / (A^2 + 2 alpha(f)). alpha goes from its first value, for low frequencies,
    where a phase object leaves no contrast, to its second one around the first maximum of sin(chi), see
    `low_frequencies`; the same value twice is Tikhonov's. The 2 is that of the HoloTomoToolbox (Lohse et
    al., J. Synchrotron Rad. 27, 852 (2020)).

    Where N Fr < 1, with N the padded size, the transfer function turns faster than the grid samples it, and
    faint wrapped copies of the object remain.

    Args:
        holograms: (B, H, W) intensities, 1 without an object.
        fresnel_number: a number or (B,).
        regularisations: R pairs (low, high) of alpha >= 0, typically 1e-4 to 1 and 0.01 to 1.
        beta_over_delta: 0 for a pure phase object, or that of the material, a number or (B,).
        boundary: "constant" and "replicate" pad to twice the size, with 1 or the edge; "periodic" does not.

    Returns:
        (B, R, H, W) phases, rad.

    Raises:
        SettingsError: no regularisations, or negative ones; an unknown boundary.
        FrameError: holograms of another shape.
    """
    number = checked_fresnel_number(fresnel_number, holograms)
    check_boundary(boundary)
    if holograms.ndim != 3 or not holograms.is_floating_point():
        raise FrameError(
            f"holograms are {holograms.dtype} {tuple(holograms.shape)}, expected real intensities (B, H, W)"
        )
    if not regularisations or any(min(pair) < 0 for pair in regularisations):
        raise SettingsError(f"regularisations={regularisations!r}, expected pairs (low, high) of alpha >= 0")
    H, W = holograms.shape[-2:]
    padded, (top, left) = _padded(holograms - 1, boundary)
    shape = (padded.shape[-2], padded.shape[-1])
    spectrum = torch.fft.rfft2(padded)
    A = contrast(shape, number, _per_image(beta_over_delta, holograms))
    low_share = low_frequencies(shape, number.to(holograms))
    phases = []
    for low, high in regularisations:
        alpha = high + (low - high) * low_share
        phase = torch.fft.irfft2(spectrum * (A / (A.square() + 2 * alpha)), s=shape)
        phases.append(phase[:, top : top + H, left : left + W])
    return torch.stack(phases, 1)


def iterated_ctf(
    holograms: Tensor,
    fresnel_number: Scalar,
    regularisation: tuple[float, float],
    after: Sequence[int],
    *,
    beta_over_delta: Scalar = 0.0,
    largest: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Phases of objects that are not weak: CTF phases of what the last phase does not explain, added up.

    phi <- min(phi + CTF(1 + I - |D(exp((i + beta/delta) phi))|^2), largest), from the CTF phase of I: a
    Newton iteration whose Jacobian is that of an empty beam, under the constraint that matter has a negative
    phase. Nothing is around the frame. A few iterations help; then the noise grows.

    Args:
        holograms: (B, H, W) intensities, 1 without an object.
        fresnel_number: a number or (B,).
        regularisation: (low, high) as for `ctf_phase`.
        after: iterations whose phases are returned, ascending, from 0 (the CTF phase).
        beta_over_delta: as for `ctf_phase`.
        largest: of the phases, rad.

    Returns:
        (B, K, H, W) phases, rad, and (B, H, W) the hologram less that of the last one.
    """
    phase, kept = torch.zeros_like(holograms), []
    left = holograms - 1
    for iteration in range(after[-1] + 1):
        step = ctf_phase(1 + left, fresnel_number, [regularisation], beta_over_delta=beta_over_delta)[:, 0]
        phase = (phase + step).clamp_max(largest)
        left = holograms - hologram(homogeneous_exit_wave(phase, beta_over_delta), fresnel_number)
        if iteration in after:
            kept.append(phase)
    return torch.stack(kept, 1), left


def contrast(shape: tuple[int, int], fresnel_number: Tensor, beta_over_delta: Tensor) -> Tensor:
    """(B, H, W // 2 + 1) transfer function A = 2 sin(chi) + 2 (beta / delta) cos(chi).

    Frequencies are those of rfft2; `beta_over_delta` broadcasts against (B, 1, 1) and gives the dtype.
    """
    dtype = beta_over_delta.dtype.to_complex()
    rows, columns = (chirp(f, fresnel_number).to(dtype) for f in _half_plane(shape, fresnel_number))
    wave = rows[:, :, None] * columns[:, None, :]
    return 2 * (beta_over_delta * wave.real - wave.imag)


def low_frequencies(shape: tuple[int, int], fresnel_number: Tensor) -> Tensor:
    """(B, H, W // 2 + 1) 1 at low frequencies, 0 at high ones, in the dtype of Fr (B,).

    erfc((|f| - f_c) / w) / 2, with f_c = sqrt(Fr / 2), where sin(chi) is 1 for the first time, and
    w = sqrt(Fr) (sqrt(2) - 1) / 2 (as in hotopy; Lohse et al., 2020).
    """
    rows, columns = _half_plane(shape, fresnel_number)
    root = fresnel_number.sqrt()[:, None, None]
    modulus = torch.hypot(rows[:, None], columns)
    return torch.erfc((modulus - root * 0.5**0.5) / (root * (2**0.5 - 1) / 2)) / 2


def _padded(images: Tensor, boundary: Boundary) -> tuple[Tensor, tuple[int, int]]:
    """Images (B, H, W) at twice their size, or as they are, and the row and column of their first pixel."""
    if boundary == "periodic":
        return images, (0, 0)
    top, left = (n // 2 for n in images.shape[-2:])
    mode = "replicate" if boundary == "replicate" else "constant"
    padded = torch.nn.functional.pad(images[:, None], (left, left, top, top), mode=mode)
    return padded[:, 0], (top, left)


def _half_plane(shape: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.fft.fftfreq(shape[0], dtype=like.dtype, device=like.device)
    return rows, torch.fft.rfftfreq(shape[1], dtype=like.dtype, device=like.device)


def _per_image(value: Scalar, images: Tensor) -> Tensor:
    """A number or (B,) as (1, 1, 1) or (B, 1, 1), in the images' dtype."""
    column = torch.as_tensor(value, dtype=images.dtype, device=images.device).reshape(-1)
    if len(column) not in (1, len(images)):
        raise FrameError(
            f"a value for each image has shape {tuple(column.shape)}, expected a number or ({len(images)},) "
            f"for images {tuple(images.shape)}"
        )
    return column.reshape(-1, *(1,) * (images.ndim - 1))
