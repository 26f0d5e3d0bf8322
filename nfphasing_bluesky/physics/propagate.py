r"""Free-space propagation of waves: Fresnel (near field) and Fraunhofer (far field), differentiable.

Letters: B batch, H rows, W columns, N pixels along one axis. Waves are complex (B, H, W), or (B, P, H, W)
with P modes, and keep their dtype and device. The sign is that of a wave exp(i k z), in which matter, with
n = 1 - delta, has a phase phi < 0.

The Fresnel transfer function is exp(-i pi f^2 / Fr), f in cycles per pixel, Fr = dx^2 / (lambda z) the pixel
Fresnel number (Paganin, Coherent X-Ray Optics, 2006, sec. 1.4); the constant phase exp(i k z) is left out. It
moves light of frequency f by f / Fr pixels. Sampled on a grid of N pixels it is that of a field repeated with
period N: exact for a periodic field, but light of the neighbours' copies arrives, all of it where N Fr < 1
(Voelz and Roggemann, Appl. Opt. 48, 6132 (2009)): sharp edges on 64 pixels at Fr = 1e-3 are off by 3 % when
padded to 8 times their size and need 16 times for 0.1 %. So `boundary` says what surrounds the field:

- "constant": the value `outside` for ever, 1 for an object in a plane wave, 0 for a beam;
- "replicate": the edge pixels, for ever;
- "periodic": the field itself, repeated; the one that is unitary.

The first two are convolutions with the band-limited impulse response, the integral of exp(-i pi f^2 / Fr +
2 pi i f n) over |f| < 1/2, over the infinite plane: the response is a product of rows and columns, so each is
one matrix (or an FFT, of many pixels). They are exact for any Fr > 0 for fields sampled finely enough, that
is with a phase that changes by less than pi from pixel to pixel; light that leaves the field of view is lost.
"""

import math
from typing import Literal, get_args

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from nfphasing_bluesky.core import (
    EffectiveBeam,
    FrameError,
    GeometryError,
    SettingsError,
    effective_beam,
    fresnel_number,
)

Boundary = Literal["constant", "replicate", "periodic"]
Scalar = float | Tensor

_SMALLEST = 1e-5
"""Fresnel number below which the sum for the impulse response grows beyond a million terms."""

_LONG = 128
"""Pixels of an axis beyond which an FFT of twice as many is faster than a matrix: 3.5 times for 2048."""


def pixel_fresnel_number(pixel_m: Scalar, wavelength_m: Scalar, distance_m: Scalar) -> Scalar:
    """Fr = dx^2 / (lambda z), of numbers or tensors."""
    _positive(pixel_m=pixel_m, wavelength_m=wavelength_m, distance_m=distance_m)
    return fresnel_number(pixel_m, wavelength_m, distance_m)


def cone_beam(focus_sample_m: Scalar, sample_detector_m: Scalar, detector_pixel_m: Scalar) -> EffectiveBeam:
    """Fresnel scaling theorem: M = (z01 + z12) / z01, dx = dp / M, z = z12 / M (Paganin 2006, app. B)."""
    _positive(
        focus_sample_m=focus_sample_m,
        sample_detector_m=sample_detector_m,
        detector_pixel_m=detector_pixel_m,
    )
    return effective_beam(focus_sample_m, sample_detector_m, detector_pixel_m)


def far_field_pixel_m(
    wavelength_m: Scalar, distance_m: Scalar, pixels: int, detector_pixel_m: Scalar
) -> Scalar:
    """Pixel of the object plane, dx = lambda z / (N dp), m, behind N detector pixels of size dp."""
    _positive(
        wavelength_m=wavelength_m, distance_m=distance_m, pixels=pixels, detector_pixel_m=detector_pixel_m
    )
    return wavelength_m * distance_m / (pixels * detector_pixel_m)


def far_field(wave: Tensor) -> Tensor:
    """Centred unitary Fourier transform over the last two axes: the zero frequency at [H // 2, W // 2].

    The phase origin of `wave` is its pixel [0, 0]; sum |far_field(wave)|^2 = sum |wave|^2.
    """
    return torch.fft.fftshift(torch.fft.fft2(wave, norm="ortho"), dim=(-2, -1))


def far_field_inverse(wave: Tensor) -> Tensor:
    """Inverse, and adjoint, of `far_field`."""
    return torch.fft.ifft2(torch.fft.ifftshift(wave, dim=(-2, -1)), norm="ortho")


def fresnel_propagate(
    wave: Tensor, fresnel_number: Scalar, *, boundary: Boundary = "constant", outside: complex = 1.0
) -> Tensor:
    """Propagate a wave by a pixel Fresnel number.

    Propagation back by the same distance is fresnel_propagate(wave.conj(), ...).conj(): the exact inverse for
    "periodic", the adjoint for "constant" with `outside` 0.

    Args:
        wave: (B, H, W) or (B, P, H, W) complex.
        fresnel_number: Fr = dx^2 / (lambda z) > 0, a number or (B,).
        boundary: what surrounds the field.
        outside: the field beyond the edges, for "constant".

    Returns:
        The wave at the distance, shape and dtype of `wave`.
    """
    number = checked_fresnel_number(fresnel_number, wave)
    check_boundary(boundary)
    H, W = wave.shape[-2:]
    if boundary == "periodic":
        rows, columns = (_per_image(chirp(_frequencies(n, number), number), wave) for n in (H, W))
        return torch.fft.ifft2(torch.fft.fft2(wave) * rows[..., :, None] * columns[..., None, :])
    if boundary == "constant":
        return outside + FreeSpace((H, W), number, wave)(wave - outside)
    rows, columns = (_per_image(fresnel_matrix(n, number, replicate=True), wave) for n in (H, W))
    return rows @ wave @ columns.mT


class FreeSpace:
    """Fresnel propagation of fields (B, H, W) or (B, P, H, W) that are 0 beyond their edges.

    Made once for many fields. Along an axis of many pixels it is a convolution by FFT, padded so that nothing
    wraps around: the sums are those of the matrix.

    Args:
        shape: (H, W).
        fresnel_number: (B,) or (1,) float64.
        like: complex field, for the dtype and for its modes.
    """

    def __init__(self, shape: tuple[int, int], fresnel_number: Tensor, like: Tensor) -> None:
        self._rows, self._columns = (_per_image(_factor(n, fresnel_number), like) for n in shape)

    def __call__(self, field: Tensor) -> Tensor:
        """The field at the distance."""
        return _along(_along(field.mT, self._rows).mT, self._columns)

    def adjoint(self, field: Tensor) -> Tensor:
        """Propagation back: the response is even, so the operator is its own transpose."""
        return self(field.conj()).conj()


def _factor(pixels: int, fresnel_number: Tensor) -> Tensor:
    """Propagation along one axis: (B, N, N) a matrix, or (B, 1, L) the transfer function of L > N pixels."""
    if pixels <= _LONG:
        return fresnel_matrix(pixels, fresnel_number)
    response = _impulse_response(pixels, fresnel_number)
    length = next_fast_len(2 * pixels - 1)
    between = response.new_zeros(len(response), length - 2 * pixels + 1)
    return torch.fft.fft(torch.cat([response, between, response[:, 1:].flip(1)], 1))[:, None]


def _along(field: Tensor, factor: Tensor) -> Tensor:
    """Apply a `_factor` to the last axis."""
    pixels, length = field.shape[-1], factor.shape[-1]
    if length == pixels:
        return field @ factor.mT
    return torch.fft.ifft(torch.fft.fft(field, n=length) * factor)[..., :pixels]


def fresnel_matrix(pixels: int, fresnel_number: Tensor, *, replicate: bool = False) -> Tensor:
    """(B, N, N) complex128: Fresnel propagation of N pixels along one axis.

    The field beyond the edges is 0, or that of the edge pixels when `replicate`: the sum of the response
    beyond the edge is then added to the edge's column, the rows sum to 1, and a plane wave stays one.
    """
    response = _impulse_response(pixels, fresnel_number)
    place = torch.arange(pixels, device=response.device)
    matrix = response[:, (place[:, None] - place).abs()]
    if replicate:
        beyond = (1 + response[:, :1]) / 2 - response.cumsum(1)
        matrix[:, :, 0] += beyond
        matrix[:, :, -1] += beyond.flip(1)
    return matrix


def chirp(frequency: Tensor, fresnel_number: Tensor) -> Tensor:
    """(B, F) complex128 transfer function exp(-i pi f^2 / Fr) along one axis; f (F,) in cycles per pixel."""
    phase = torch.pi * frequency.double().square() / fresnel_number[:, None]
    return torch.polar(torch.ones_like(phase), -phase)


def checked_fresnel_number(fresnel_number: Scalar, images: Tensor) -> Tensor:
    """(B,) or (1,) float64 on the images' device, after checks of it and of the images (B, ..., H, W).

    Raises:
        FrameError: images of fewer dimensions.
        GeometryError: a number that is not positive, or not one for all or for each.
    """
    if images.ndim < 3:
        raise FrameError(
            f"images have shape {tuple(images.shape)}, expected (B, H, W) or (B, P, H, W); add a batch axis"
        )
    _positive(fresnel_number=fresnel_number)
    number = torch.as_tensor(fresnel_number, dtype=torch.float64, device=images.device)
    if number.numel() not in (1, images.shape[0]) or number.ndim > 1:
        raise GeometryError(
            f"fresnel_number has shape {tuple(number.shape)}, expected a number or ({images.shape[0]},) "
            f"for images {tuple(images.shape)}; pass one for each image"
        )
    return number.reshape(-1)


def check_boundary(boundary: str) -> None:
    """Raise SettingsError for an unknown boundary."""
    if boundary not in get_args(Boundary):
        raise SettingsError(f"boundary {boundary!r} is unknown, expected one of {get_args(Boundary)}")


def _impulse_response(pixels: int, fresnel_number: Tensor) -> Tensor:
    """(B, N) complex128 band-limited response at 0 to N - 1 pixels; it is even.

    The integral over |f| < 1/2 is a trapezoidal sum of L terms, by FFT, with the end correction of Euler and
    Maclaurin, which adds to the highest frequency alone. What is left is below 2e-5 of its sqrt(Fr).
    """
    smallest = float(fresnel_number.detach().min())
    if smallest < _SMALLEST:
        raise GeometryError(
            f"fresnel_number={smallest:.3g}, expected at least {_SMALLEST}: hardly any light stays in the "
            "frame; use far_field, or boundary='periodic'"
        )
    length = 1 << math.ceil(math.log2(max(8.0 / smallest, 8.0 * pixels, 256.0)))
    frequency = torch.fft.rfftfreq(length, dtype=torch.float64, device=fresnel_number.device)
    transfer = chirp(frequency, fresnel_number.double())
    end = 1 + 1j * torch.pi / (6 * length * fresnel_number[:, None])
    transfer = torch.cat([transfer[:, :-1], transfer[:, -1:] * end], 1)
    real, imag = (torch.fft.irfft(part, n=length)[:, :pixels] for part in (transfer.real, transfer.imag))
    return torch.complex(real, imag)


def _frequencies(pixels: int, like: Tensor) -> Tensor:
    return torch.fft.fftfreq(pixels, dtype=like.dtype, device=like.device)


def _per_image(factor: Tensor, wave: Tensor) -> Tensor:
    """Factor (B, ...) in the wave's dtype, with an axis for its modes where it has them."""
    if not wave.is_complex():
        raise FrameError(f"the wave has dtype {wave.dtype}, expected a complex one; pass exp(i phi - mu)")
    modes = (1,) * (wave.ndim - 3)
    return factor.to(wave.dtype).reshape(factor.shape[0], *modes, *factor.shape[1:])


def _positive(**values: Scalar) -> None:
    for name, value in values.items():
        good = torch.as_tensor(value)
        if not bool(((good > 0) & torch.isfinite(good)).all()):
            raise GeometryError(f"{name}={value!r}, expected finite and positive; check its sign and unit")
