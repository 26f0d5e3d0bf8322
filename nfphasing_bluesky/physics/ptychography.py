r"""Ptychography, far and near field: frames of a patch under a probe, and what a frame says of its patch.

Letters: B batch (frames), P probe modes, H, W frame, rows and columns. Patches are complex (B, H, W), probes
complex (P, H, W), or (B, P, H, W) where each frame has its own. A frame is

    I = sum_p |D(probe_p patch)|^2

with D the centred unitary Fourier transform (`FarField`) or Fresnel propagation (`NearField`). Both conserve
energy, so sum I = sum_p |probe_p patch|^2 photons; a probe from a code whose fft2 is not normalised is larger
here by sqrt(H W).

Positions are (B, 2), row and column, of a frame's pixel [0, 0] in the pixels of the object's array. The
nearest whole position cuts the patch. The fraction left, in [-1/2, 1/2), is put either into the probe by
`fourier_shift`, exact in the far field, where the frame does not see where the exit wave lies, or into the
patch, as `extract_patches` does.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nfphasing_bluesky.core import FrameError, GeometryError, SettingsError
from nfphasing_bluesky.physics.counting import check_mask
from nfphasing_bluesky.physics.propagate import (
    Boundary,
    Scalar,
    far_field,
    far_field_inverse,
    fresnel_propagate,
)


class Propagation(Protocol):
    """From the sample to the detector and its adjoint; waves (B, P, H, W)."""

    def forward(self, wave: Tensor) -> Tensor:
        """Wave at the detector."""
        ...

    def backward(self, wave: Tensor) -> Tensor:
        """Adjoint of `forward`."""
        ...

    def at(self, rows: slice) -> "Propagation":
        """Of some waves of a batch."""
        ...

    def contrast(self, frequency_squared: Tensor) -> Tensor:
        """(B or 1, 2, Y, X) shares of weak phases and absorptions of frequencies (Y, X) in the contrast.

        Frequencies are in cycles per pixel. Both shares are 1 together.
        """
        ...


@dataclass(frozen=True)
class FarField:
    """Fraunhofer diffraction; the direct beam at [H // 2, W // 2], or at [0, 0] when not `centred`."""

    centred: bool = True

    def forward(self, wave: Tensor) -> Tensor:
        """Unitary Fourier transform."""
        return far_field(wave) if self.centred else torch.fft.fft2(wave, norm="ortho")

    def backward(self, wave: Tensor) -> Tensor:
        """Inverse Fourier transform."""
        return far_field_inverse(wave) if self.centred else torch.fft.ifft2(wave, norm="ortho")

    def at(self, rows: slice) -> "FarField":
        """The same for all."""
        return self

    def contrast(self, frequency_squared: Tensor) -> Tensor:
        """Half of each: the light of a probe mixes them."""
        return frequency_squared.new_full((1, 2, 1, 1), 0.5)


@dataclass(frozen=True)
class NearField:
    """Fresnel diffraction at pixel Fresnel number(s), a number or (B,).

    "periodic" is unitary, and what reconstruction codes assume; "constant" has nothing outside the frame.
    """

    fresnel_number: Scalar
    boundary: Boundary = "periodic"

    def __post_init__(self) -> None:
        if self.boundary not in ("periodic", "constant"):
            raise SettingsError(
                f"boundary={self.boundary!r}, expected 'periodic' or 'constant': a beam does not go on "
                "beyond the frame like its edge pixels"
            )

    def forward(self, wave: Tensor) -> Tensor:
        """Propagation to the detector."""
        return fresnel_propagate(wave, self.fresnel_number, boundary=self.boundary, outside=0.0)

    def backward(self, wave: Tensor) -> Tensor:
        """Propagation back to the sample."""
        return self.forward(wave.conj()).conj()

    def at(self, rows: slice) -> "NearField":
        """That of some waves of a batch."""
        number = self.fresnel_number
        if isinstance(number, Tensor) and number.ndim:
            return replace(self, fresnel_number=number[rows])
        return self

    def contrast(self, frequency_squared: Tensor) -> Tensor:
        """Squared contrast transfer functions, sin^2 and cos^2 of pi f^2 over the Fresnel number."""
        number = torch.as_tensor(self.fresnel_number, dtype=torch.float64).reshape(-1, 1, 1)
        phase = torch.sin(torch.pi * frequency_squared / number.to(frequency_squared.device)).square()
        return torch.stack([phase, 1 - phase], 1).to(frequency_squared.dtype)


class Estimate(NamedTuple):
    """What frames say of their patches: patch (B, H, W) complex, weight (B, H, W) of the light, 0 to 1."""

    patch: Tensor
    weight: Tensor


def exit_waves(patch: Tensor, probe: Tensor) -> Tensor:
    """(B, P, H, W) product of patches and probe modes; FrameError where their shapes do not fit."""
    if patch.ndim != 3 or probe.ndim not in (3, 4) or patch.shape[-2:] != probe.shape[-2:]:
        raise FrameError(
            f"patches {tuple(patch.shape)} do not match the probe {tuple(probe.shape)}, expected (B, H, W) "
            "and (P, H, W) or (B, P, H, W); cut patches of the probe's size"
        )
    return probe * patch[:, None]


def expected_intensity(patch: Tensor, probe: Tensor, propagation: Propagation) -> Tensor:
    """(B, H, W) expected photons of frames, of the probe's intensity."""
    return wave_intensity(propagation.forward(exit_waves(patch, probe)))


def projection_updates(
    counts: Tensor,
    probe: Tensor,
    propagation: Propagation,
    *,
    updates: int,
    start: Tensor | None = None,
    mask: Tensor | None = None,
    regularisation: float = 0.5,
) -> Estimate:
    """Estimate each patch from its own frame and a known probe, by projections onto the measured amplitudes.

    Each update gives the waves at the detector the measured amplitude, sqrt(N), shared among the modes as
    they stand (Thibault and Menzel, Nature 494, 68 (2013)), and moves the patch by

        sum_p conj(probe_p) change_p / ((1 - a) w + a max w),  w = sum_p |probe_p|^2, a = regularisation;

    a = 1 is ePIE (Maiden and Rodenburg, Ultramicroscopy 109, 1256 (2009)), below 1 rPIE (Maiden, Johnson and
    Li, Optica 4, 736 (2017)). Masked pixels keep their wave. A flat object's global phase, 0, stays roughly.

    Args:
        counts: (B, H, W) photons, on the probe's scale.
        probe: (P, H, W) or (B, P, H, W), in photons^(1/2).
        propagation: `FarField` or `NearField`.
        updates: number of updates, 1 to 20 is what pays.
        start: (B, H, W) complex first patches, 1 everywhere when None.
        mask: (H, W) or (B, H, W) True = not used.
        regularisation: a, 0 < a <= 1.
    """
    _check_projection(counts, probe, mask, regularisation)
    patch = start
    if patch is None:
        patch = torch.ones(counts.shape, dtype=probe.dtype, device=probe.device)
    amplitude = counts.to(probe.real).clamp(min=0).sqrt()
    light = wave_intensity(probe).expand_as(amplitude)
    brightest = light.amax((-2, -1), keepdim=True)
    step = 1 / ((1 - regularisation) * light + regularisation * brightest)
    tiny = torch.finfo(amplitude.dtype).tiny
    for _ in range(updates):
        wave = propagation.forward(exit_waves(patch, probe))
        change = amplitude / wave_intensity(wave).clamp(min=tiny).sqrt() - 1
        if mask is not None:
            change = torch.where(mask, 0, change)
        moved = propagation.backward(wave * change[:, None])
        patch = patch + step * (probe.conj() * moved).sum(1)
    return Estimate(patch, light / brightest)


def positions_px(
    translation_m: Tensor, pixel_m: tuple[float, float], *, sign: int = 1, origin_px: tuple[float, float]
) -> Tensor:
    """(B, 2) positions from translations in metres: origin + sign translation / pixel.

    Args:
        translation_m: (B, 2) row and column (y, x), m.
        pixel_m: row and column size of the object's pixel, m.
        sign: 1 for translations of the beam over the object, -1 for those of the object in the beam.
        origin_px: row and column that a frame at translation 0 has.

    Raises:
        GeometryError: another shape, another sign, or pixels of no size.
    """
    if translation_m.ndim != 2 or translation_m.shape[1] != 2:
        raise GeometryError(
            f"translations have shape {tuple(translation_m.shape)}, expected (B, 2) row and column, m; "
            "leave out the direction of the beam"
        )
    if sign not in (1, -1) or not min(pixel_m) > 0:
        raise GeometryError(f"sign={sign}, pixel_m={pixel_m}, expected 1 or -1 and two positive lengths, m")
    scale = translation_m.new_tensor(pixel_m)
    return translation_m.new_tensor(origin_px) + sign * translation_m / scale


def split_positions(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest whole positions (B, 2) int64 and the fractions left, in [-1/2, 1/2)."""
    corner = torch.floor(positions + 0.5)
    return corner.long(), positions - corner


def fourier_shift(field: Tensor, shift: Tensor) -> Tensor:
    """Shift fields (B, ..., H, W), periodically, by (B, 2) pixels: what was at x comes to lie at x + shift.

    Exact for fields with nothing at the highest frequency of an even number of pixels.
    """
    rows, columns = (_ramp(field.shape[axis], shift[:, axis]).to(field.dtype) for axis in (-2, -1))
    modes = (1,) * (field.ndim - 3)
    rows, columns = (ramp.reshape(len(shift), *modes, -1) for ramp in (rows, columns))
    return torch.fft.ifft2(torch.fft.fft2(field) * rows[..., :, None] * columns[..., None, :])


def extract_patches(
    image: Tensor, positions: Tensor, shape: tuple[int, int], *, subpixel: bool = False, margin: int = 16
) -> Tensor:
    """(B, H, W) patches of an object (Y, X) with pixel [0, 0] at `positions` (B, 2).

    Whole positions must lie within the object. With `subpixel`, patches are cut with `margin` pixels more on
    each side (the object's edges repeated), shifted by `fourier_shift`, and trimmed.
    """
    corner, fraction = split_positions(positions)
    if not subpixel:
        return _cut(image, corner, shape)
    wide = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    _cut_check(image, corner, shape)
    moved = fourier_shift(_cut(_pad(image, margin), corner, wide), -fraction)
    return moved[:, margin:-margin, margin:-margin]


def place_patches(
    patches: Tensor, corner: Tensor, shape: tuple[int, int], weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum weight * patch and weight into an object of `shape`: (Y, X) each; the adjoint of whole extraction.

    The stitched object is the first over the second where that is above 0.

    Args:
        patches: (B, H, W).
        corner: (B, 2) int64 whole positions.
        shape: (Y, X) of the object.
        weight: (B, H, W) real, 1 when None.
    """
    if weight is None:
        weight = torch.ones_like(patches.real)
    index = _places(corner, (patches.shape[1], patches.shape[2]), shape).flatten()
    total = patches.new_zeros(shape[0] * shape[1]).index_add(0, index, (weight * patches).flatten())
    light = weight.new_zeros(shape[0] * shape[1]).index_add(0, index, weight.flatten())
    return total.reshape(shape), light.reshape(shape)


def _check_projection(counts: Tensor, probe: Tensor, mask: Tensor | None, regularisation: float) -> None:
    if counts.ndim != 3 or counts.shape[1:] != probe.shape[-2:]:
        raise FrameError(
            f"counts {tuple(counts.shape)} do not match the probe {tuple(probe.shape)}, expected (B, H, W) "
            "of the probe's size; crop or pad the frames"
        )
    if not 0 < regularisation <= 1:
        raise SettingsError(f"regularisation={regularisation!r}, expected 0 < a <= 1; 1 is ePIE")
    if mask is not None:
        check_mask(mask, counts)


def wave_intensity(wave: Tensor) -> Tensor:
    """Waves (..., P, H, W) to intensities (..., H, W)."""
    return real_inner(wave, wave)


def real_inner(one: Tensor, other: Tensor) -> Tensor:
    """(..., H, W) sum over modes of Re(conj(one) other), of waves (..., P, H, W).

    Additions of whole images are ten times as fast as `sum` along short axes.
    """
    products = torch.view_as_real(one.resolve_conj()) * torch.view_as_real(other.resolve_conj())
    total = mode_sum(products, -4)
    return total[..., 0] + total[..., 1]


def mode_sum(waves: Tensor, axis: int) -> Tensor:
    """Sum along an axis of few entries."""
    first, *others = waves.unbind(axis)
    for other in others:
        first = first + other
    return first


def _ramp(pixels: int, shift: Tensor) -> Tensor:
    """(B, N) exp(-2 pi i f shift)."""
    phase = torch.fft.fftfreq(pixels, dtype=shift.dtype, device=shift.device) * shift[:, None]
    return torch.polar(torch.ones_like(phase), -2 * torch.pi * phase)


def _pad(image: Tensor, margin: int) -> Tensor:
    rows, columns = (
        torch.arange(-margin, n + margin, device=image.device).clamp(0, n - 1) for n in image.shape
    )
    return image[rows[:, None], columns]


def _cut(image: Tensor, corner: Tensor, shape: tuple[int, int]) -> Tensor:
    _cut_check(image, corner, shape)
    return image.flatten()[_places(corner, shape, (image.shape[0], image.shape[1]))]


def _cut_check(image: Tensor, corner: Tensor, shape: tuple[int, int]) -> None:
    last = torch.tensor([n - m for n, m in zip(image.shape[-2:], shape, strict=True)], device=corner.device)
    if image.ndim != 2 or bool(((corner < 0) | (corner > last)).any()):
        low, high = corner.amin(0).tolist(), corner.amax(0).tolist()
        raise GeometryError(
            f"patches {shape} at {low} to {high} do not lie within the object {tuple(image.shape)}, expected "
            f"corners from [0, 0] to {last.tolist()}; check the sign, unit and origin of the positions"
        )


def _places(corner: Tensor, shape: tuple[int, int], whole: tuple[int, int]) -> Tensor:
    """(B, H, W) places of patches in the flattened object."""
    y = corner[:, 0, None] + torch.arange(shape[0], device=corner.device)
    x = corner[:, 1, None] + torch.arange(shape[1], device=corner.device)
    return y[:, :, None] * whole[1] + x[:, None, :]
