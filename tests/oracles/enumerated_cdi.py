"""All objects of one far-field intensity in one dimension, and their posterior weights.

The oversampled intensity |U(e^iw)|^2 of u_0 .. u_{n-1} fixes the autocorrelation
a_k = sum_j u_{j+k} conj(u_j).
With U(z) = sum_k u_k z^k, the polynomial z^(n-1) U(z) conj(U(1/conj(z))) has 2 n - 2 zeros in pairs
(z, 1/conj(z)), and every choice of one of each pair gives an object of the same intensity: 2^(n-1) in all
(Bruck and Sodin, Opt. Commun. 30, 304 (1979); Bates, Optik 61, 247 (1982)). Real objects take conjugate pairs
whole.

Trivial differences: the global phase (the sign of a real object) is fixed here by a positive sum of u; the
shift by demanding u_0 and u_{n-1} other than 0; conjugate inversion conj(u_{n-1-k}), all zeros exchanged, is
listed, and `twin` says which solution it is.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]
Object = NDArray[np.generic]
ACCURACY = 1e-9
ON_CIRCLE = 1e-5
ORTHANT_DRAWS = 200_000


@dataclass(frozen=True, eq=False)
class Solution:
    """One object: u (n,), which zeros lie outside the unit circle, and the index of its inversion twin."""

    u: Object
    outside: tuple[bool, ...]
    twin: int | None


def intensity(u: Object) -> Array:
    """(..., 2 n) intensities |FFT_2n u|^2 of (..., n) objects."""
    return np.abs(np.fft.fft(u, 2 * u.shape[-1], axis=-1)) ** 2


def autocorrelation(values: Array) -> Object:
    """(n,) autocorrelation at lags 0 .. n - 1 of the object of (2 n,) intensities."""
    return np.fft.ifft(values)[: values.size // 2]


def enumerate_objects(values: Array, real: bool, non_negative: bool = False) -> list[Solution]:
    """All objects of (2 n,) exact intensities, real or complex, up to global phase or sign.

    Raises:
        ValueError: where a zero lies on the unit circle, or the autocorrelation shows less than n pixels.
    """
    a = autocorrelation(values)
    if abs(a[-1]) < ACCURACY * abs(a[0]):
        raise ValueError(f"the object has less than {a.size} pixels (u_0 or u_{a.size - 1} is 0): crop it")
    if real:
        a = a.real.astype(complex)
    inside = _zeros_inside(a)
    groups = _conjugate_groups(inside) if real else [(k,) for k in range(inside.size)]
    found: dict[tuple[bool, ...], Object] = {}
    for choice in product((False, True), repeat=len(groups)):
        outside = np.zeros(inside.size, dtype=bool)
        for group, exchanged in zip(groups, choice, strict=True):
            outside[list(group)] = exchanged
        u = _polish(_object(inside, outside, a), a, real)
        if non_negative and u.min() < -ACCURACY * np.abs(u).max():
            continue
        found[tuple(outside.tolist())] = np.maximum(u, 0) if non_negative else u
    index = {key: k for k, key in enumerate(found)}
    return [Solution(u, key, index.get(tuple(not o for o in key))) for key, u in found.items()]


def _zeros_inside(a: Object) -> Object:
    """(n - 1,) zeros inside the unit circle of the autocorrelation's polynomial, polished."""
    coefficients = np.concatenate([a[::-1], a[1:].conj()])  # z^(2n-2) first
    slope = np.polyder(coefficients)
    zeros = np.roots(coefficients)
    for _ in range(3):
        zeros = zeros - np.polyval(coefficients, zeros) / np.polyval(slope, zeros)
    inside = zeros[np.abs(zeros) < 1]
    if inside.size != a.size - 1 or np.abs(inside).max() > 1 - ON_CIRCLE:
        raise ValueError(
            "a zero lies on the unit circle: its exchange changes nothing; choose another object"
        )
    return inside


def _conjugate_groups(zeros: Object) -> list[tuple[int, ...]]:
    """Indices of real zeros alone, and of complex ones with their conjugates."""
    groups: list[tuple[int, ...]] = []
    for k, zero in enumerate(zeros):
        if abs(zero.imag) < 1e-9:
            groups.append((k,))
        elif zero.imag > 0:
            groups.append((k, int(np.argmin(np.abs(zeros - zero.conj())))))
    return groups


def _object(inside: Object, outside: NDArray[np.bool_], a: Object) -> Object:
    """(n,) the object with these zeros: z - z_j, or 1 - conj(z_j) z, of the same modulus at |z| = 1."""
    u = np.ones(1, dtype=complex)
    for zero, exchanged in zip(inside, outside, strict=True):
        u = np.convolve(u, [1, -zero.conj()] if exchanged else [-zero, 1])
    return u * np.sqrt(a[0].real) / np.linalg.norm(u)


def _polish(u: Object, a: Object, real: bool) -> Object:
    """Newton's steps on the autocorrelation, then the sum of u made positive."""
    u = _turn(u)
    n = u.size
    values = np.fft.fft(np.concatenate([a, [0], a[:0:-1].conj()])).real
    for _ in range(3):
        jacobian = _jacobian(u, real)
        step, *_ = np.linalg.lstsq(jacobian, values - intensity(u), rcond=1e-11)
        u = u + (step if real else step[:n] + 1j * step[n:])
        u = u.real if real else u
    u = _turn(u)
    error = np.abs(autocorrelation(intensity(u)) - a).max() / a[0].real
    if error > ACCURACY:
        raise ValueError(f"a solution's autocorrelation is off by {error:.1e}, expected {ACCURACY}")
    return u.real if real else u


def _turn(u: Object) -> Object:
    total = u.sum()
    return u * (np.conj(total) / abs(total))


def _jacobian(u: Object, real: bool) -> Array:
    """(2 n, n) or (2 n, 2 n) derivatives of the intensities by u, or by its real and imaginary parts."""
    n = u.size
    transform = np.fft.fft(np.eye(n), 2 * n, axis=1).T
    amplitude = transform @ u
    by_real = 2 * (amplitude.conj()[:, None] * transform).real
    if real:
        return by_real
    return np.concatenate([by_real, 2 * (amplitude.conj()[:, None] * 1j * transform).real], axis=1)


@dataclass(frozen=True)
class GaussianPrior:
    """Independent Gaussians of each pixel (of its real and imaginary part each, then about 0)."""

    mean: float
    std: float


@dataclass(frozen=True)
class UniformPrior:
    """Real pixels anywhere between two bounds."""

    lower: float
    upper: float


Prior = GaussianPrior | UniformPrior


@dataclass(frozen=True, eq=False)
class Peak:
    """One mode of the posterior: its weight, its highest point (n,), and the covariance of u there.

    Complex objects have their real and then imaginary parts in the (2 n, 2 n) covariance, which is 0
    along the global phase.
    """

    weight: float
    u: Object
    covariance: Array


def log_posterior(u: Object, values: Array, sigma: float, prior: Prior) -> Array:
    """(...,) unnormalised log posterior of (..., n) objects, intensities with Gaussian noise sigma."""
    log_p = -0.5 * np.sum((intensity(u) - values) ** 2, axis=-1) / sigma**2
    if isinstance(prior, UniformPrior):
        allowed = ((u >= prior.lower) & (u <= prior.upper)).all(axis=-1)
        return np.where(allowed, log_p, -np.inf)
    return log_p - 0.5 * np.sum(np.abs(u - prior.mean) ** 2, axis=-1) / prior.std**2


def laplace(solutions: list[Solution], values: Array, sigma: float, prior: Prior) -> list[Peak]:
    """Posterior weights of the solutions, by Laplace's method, for (2 n,) intensities with noise sigma.

    Gaussian about the highest point near each solution, cut at the bounds of a uniform prior. All points
    of a complex solution's orbit of phases are as probable, and all orbits of the same intensity as long, so
    that the phase drops out of the weights; -u of a real solution is not counted, which the bounds must
    forbid or the prior make as probable. With bounds pass all real solutions, not only the non-negative:
    one that lies a standard deviation outside still has some of the probability.

    Good where solutions lie several standard deviations apart and the Hessian hardly changes over one. It is
    wrong without a word where a zero is so near the unit circle that two solutions merge within the noise.
    """
    real = not np.iscomplexobj(solutions[0].u)
    if not real and (isinstance(prior, UniformPrior) or prior.mean != 0):
        raise ValueError("a complex object needs a Gaussian prior of mean 0: others depend on its phase")
    logs, points, covariances = [], [], []
    for solution in solutions:
        u, covariance, log_mass = _peak(solution.u, values, sigma, prior, real)
        points.append(u)
        covariances.append(covariance)
        logs.append(log_mass)
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    return [Peak(float(w), u, c) for w, u, c in zip(weights, points, covariances, strict=True)]


def _peak(u: Object, values: Array, sigma: float, prior: Prior, real: bool) -> tuple[Object, Array, float]:
    """Highest point near u (bounds aside), covariance, and log of the probability mass around it."""
    n = u.size
    x = u if real else np.concatenate([u.real, u.imag])
    gaussian = isinstance(prior, GaussianPrior)

    def join(x: Array) -> Object:
        return x if real else x[:n] + 1j * x[n:]

    def residuals(x: Array) -> Array:
        data = (intensity(join(x)) - values) / sigma
        return np.concatenate([data, (x - prior.mean) / prior.std]) if gaussian else data

    x = least_squares(residuals, x, xtol=1e-15, ftol=1e-15, gtol=1e-15).x
    log_p = -0.5 * np.sum(residuals(x) ** 2)
    eigenvalues, axes = np.linalg.eigh(_hessian(join(x), values, sigma, prior, real))
    kept = slice(0 if real else 1, None)  # a complex object's phase costs nothing
    if eigenvalues[kept].min() <= 0:
        raise ValueError("two solutions have merged within the noise; Laplace's method does not hold")
    covariance = axes[:, kept] @ np.diag(1 / eigenvalues[kept]) @ axes[:, kept].T
    log_mass = log_p - 0.5 * np.sum(np.log(eigenvalues[kept]))
    if not gaussian:
        draws = np.random.default_rng(0).multivariate_normal(x, covariance, ORTHANT_DRAWS)
        allowed = ((draws >= prior.lower) & (draws <= prior.upper)).all(axis=1).mean()
        log_mass = log_mass + np.log(allowed) if allowed > 0 else -np.inf
    return join(x), covariance, float(log_mass)


def _hessian(u: Object, values: Array, sigma: float, prior: Prior, real: bool) -> Array:
    """Second derivatives of minus the log posterior, the curvature of the intensities included."""
    n = u.size
    jacobian = _jacobian(u, real)
    transform = np.fft.fft(np.eye(n), 2 * n, axis=1).T
    if not real:
        transform = np.concatenate([transform, 1j * transform], axis=1)
    residual = intensity(u) - values
    curvature = 2 * (transform.conj().T @ (residual[:, None] * transform)).real
    hessian = (jacobian.T @ jacobian + curvature) / sigma**2
    if isinstance(prior, GaussianPrior):
        hessian = hessian + np.eye(hessian.shape[0]) / prior.std**2
    return hessian


def importance_weights(peaks: list[Peak], values, sigma, prior, draws, freedom=6):
    """Share of the posterior nearest to each peak, by draws of Student's t about all of them."""
    rng = np.random.default_rng(1)
    n = peaks[0].u.size
    factors = [np.linalg.cholesky(p.covariance) for p in peaks]
    label = rng.integers(len(peaks), size=draws)
    scale = np.sqrt(freedom / rng.chisquare(freedom, size=draws))
    noise = rng.normal(size=(draws, n)) * scale[:, None]
    u = np.stack([p.u for p in peaks])[label] + np.einsum("sij,sj->si", np.stack(factors)[label], noise)
    logs = []
    distances = []
    for peak, factor in zip(peaks, factors, strict=True):
        square = np.sum(np.linalg.solve(factor, (u - peak.u).T) ** 2, axis=0)
        distances.append(square)
        logs.append(-0.5 * (freedom + n) * np.log1p(square / freedom) - np.log(np.diag(factor)).sum())
    log_w = log_posterior(u, values, sigma, prior) - np.logaddexp.reduce(logs, axis=0)
    w = np.exp(log_w - log_w.max())
    nearest = np.argmin(distances, axis=0)
    shares = np.bincount(nearest, weights=w, minlength=len(peaks)) / w.sum()
    return shares, w.sum() ** 2 / np.sum(w**2) / draws
