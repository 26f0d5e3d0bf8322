"""Complex objects compared, less what a scan can't tell: the whole phase, a ramp and a scale."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

Object = NDArray[np.complexfloating]
FINER = 8


def aligned(found: Object, reference: Object) -> Object:
    """`found` with the ramp, phase and scale at which it is closest to a reference of the same shape."""
    product = found * reference.conj()
    rows, columns = found.shape
    spectrum = np.fft.fft2(product, s=(FINER * rows, FINER * columns))
    peak = np.unravel_index(np.abs(spectrum).argmax(), spectrum.shape)
    y, x = np.arange(rows)[:, None] / (FINER * rows), np.arange(columns) / (FINER * columns)
    turned = found * np.exp(-2j * np.pi * (peak[0] * y + peak[1] * x))
    return turned * np.vdot(turned, reference) / np.vdot(turned, turned).real


def correlations(found: Object, reference: Object) -> tuple[float, float]:
    """Of the phases, about their mean, and of the amplitudes."""
    phases = [np.angle(v * np.conj(v.mean())).ravel() for v in (found, reference)]
    amplitudes = [np.abs(v).ravel() for v in (found, reference)]
    return float(np.corrcoef(phases)[0, 1]), float(np.corrcoef(amplitudes)[0, 1])


def nrmse(found: Object, reference: Object) -> float:
    """Of complex objects, over the reference's norm."""
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def ring_correlation_limit(found: Object, reference: Object, level: float = 0.5) -> float:
    """Cycles per pixel at which the Fourier ring correlation falls below a level; 0.5 if never."""
    size = min(found.shape)
    window = np.outer(np.hanning(size), np.hanning(size))
    one, other = (
        np.fft.fft2((image[:size, :size] - image[:size, :size].mean()) * window)
        for image in (found, reference)
    )
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    ring = (frequency * size).round().astype(int).ravel()
    cross, *power = (
        np.bincount(ring, weights=values.ravel())
        for values in ((one * other.conj()).real, np.abs(one) ** 2, np.abs(other) ** 2)
    )
    correlation = (cross / np.sqrt(power[0] * power[1]))[: size // 2]
    below = np.flatnonzero(correlation[1:] < level)
    return 0.5 if below.size == 0 else float((below[0] + 1) / size)


def registered(found: Object, reference: Object, margin: int) -> tuple[Object, tuple[float, float]]:
    """`found`, `margin` pixels larger than the reference on each side, moved to where the two agree best.

    A scan with nominal positions does not tell where its object lies to a fraction of a pixel.

    Returns:
        The part that lies on the reference, aligned, and by how many rows and columns it was moved.
    """
    inner = slice(margin, -margin), slice(margin, -margin)

    def moved(shift: NDArray[np.floating]) -> Object:
        real, imaginary = (ndimage.shift(v, shift, order=3, mode="nearest") for v in (found.real, found.imag))
        return (real + 1j * imaginary)[inner]

    def misfit(shift: NDArray[np.floating]) -> float:
        part = aligned(moved(shift), reference)
        return float(np.square(np.abs(part - reference)).sum())

    best = optimize.minimize(misfit, np.zeros(2), method="Nelder-Mead", bounds=[(-margin, margin)] * 2)
    return aligned(moved(best.x), reference), (float(best.x[0]), float(best.x[1]))
