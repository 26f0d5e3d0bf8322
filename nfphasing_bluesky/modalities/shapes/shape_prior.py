"""The prior of p(r) shapes: a mixture of Gaussians fitted to random bodies as solutions hold them.

p(x) = mean(x) + sum_i z_i b_i(x), x = r / D_max, of unit area: the whitened principal components of the p(x)
of random bodies. So I(q) is linear in z, and what the data leave open of the shape is simple to describe. The
mixture *is* the prior, also of the simulations, so log p(z) is exact. A draw of p may dip below zero by what
the data can't exclude; the bodies' own p never does.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.core import ModelError
from nfphasing_bluesky.flows import HALF_LOG_2PI
from nfphasing_bluesky.physics.shapes import bodies, pair_distance
from nfphasing_bluesky.physics.shapes.solutions import with_fluctuations

COMPONENTS = 13
GRID = 201
Z_BOUND = 10.0
SHAPES = 40_000
SINES = 16
CLUSTERS = 12
EM_STEPS = 80
LEAST_VARIANCE = 0.1


class ShapePrior:
    """Distribution of z (N, D), D = `COMPONENTS`, within a box of half-width `Z_BOUND`."""

    def __init__(self) -> None:
        d = COMPONENTS
        x = torch.linspace(0, 1, GRID)
        self.tensors: dict[str, Tensor] = {
            "mean": 6 * x * (1 - x),
            "basis": torch.sin(torch.pi * x * torch.arange(2, 2 * d + 1, 2)[:, None]),
            "log_weight": torch.zeros(1),
            "centre": torch.zeros(1, d),
            "factor": torch.eye(d)[None],
        }
        self._made: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self.fitted = False

    def parts(self, like: Tensor) -> Tensor:
        """(1 + D, X) mean and components on the grid linspace(0, 1, X), X = `GRID`."""
        return torch.cat([self._get("mean", like)[None], self._get("basis", like)])

    def shape(self, z: Tensor) -> Tensor:
        """(N, X) p(x) of unit area."""
        return self._get("mean", z) + z @ self._get("basis", z)

    def rg(self, z: Tensor) -> Tensor:
        """(N,) radius of gyration over D_max: Rg^2 = integral x^2 p dx / 2 for p of unit area."""
        x = torch.linspace(0, 1, GRID, dtype=z.dtype, device=z.device)
        return (0.5 * torch.trapezoid(x**2 * self.shape(z), x, dim=-1)).clamp_min(1e-6).sqrt()

    def fit(self, generator: Generator, shapes: int = SHAPES) -> None:
        """Fit components and mixture to random bodies."""
        c = bodies.sample_shapes(shapes, generator, coefficients=SINES)
        c = with_fluctuations(c.double(), generator)
        self.fit_to(
            pair_distance.p_from_coefficients(c, torch.linspace(0, 1, GRID, dtype=c.dtype)), generator
        )

    def fit_to(self, p: Tensor, generator: Generator) -> None:
        """Fit components and mixture to (N, X) shapes of unit area."""
        mean = p.mean(0)
        _, size, axes = torch.linalg.svd(p - mean, full_matrices=False)
        spread = size[:COMPONENTS, None] / len(p) ** 0.5
        z = (p - mean) @ (axes[:COMPONENTS] / spread).T
        z = z[(z.abs() < Z_BOUND).all(1)]
        log_weight, centre, covariance = fit_mixture(z, CLUSTERS, EM_STEPS, generator)
        found = {
            "mean": mean,
            "basis": axes[:COMPONENTS] * spread,
            "log_weight": log_weight,
            "centre": centre,
            "factor": torch.linalg.cholesky(covariance),
        }
        self._put({name: value.float().cpu().contiguous() for name, value in found.items()})

    def log_prob(self, z: Tensor) -> Tensor:
        """(N,) log density of z."""
        whitener = self._get("whitener", z)
        scaled = (z @ whitener.permute(1, 0, 2).flatten(1)).view(len(z), *whitener.shape[:2])
        squares = (scaled - self._get("offset", z)).square().sum(2)
        return torch.logsumexp(self._get("log_height", z) - 0.5 * squares, dim=1)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """(n, D) draws; ModelError before the prior was fitted or loaded."""
        if not self.fitted:
            raise ModelError("the prior of p(r) was not fitted; call fit_prior, or load a trained model")
        like = torch.zeros(0, device=generator.device)
        weight = self._get("log_weight", like).exp()
        which = torch.multinomial(weight, n, replacement=True, generator=generator)
        noise = torch.randn(n, COMPONENTS, generator=generator, device=generator.device)
        spread = (self._get("factor", like)[which] @ noise[:, :, None])[:, :, 0]
        return (self._get("centre", like)[which] + spread).clamp(-Z_BOUND, Z_BOUND)

    def _get(self, name: str, like: Tensor) -> Tensor:
        """A tensor of the prior, or one that follows from them, on the device and in the dtype of another."""
        key = (name, like.device, like.dtype)
        if key not in self._made:
            made = self.tensors | self._derived()
            self._made |= {
                (k, like.device, like.dtype): v.to(like.device, like.dtype) for k, v in made.items()
            }
        return self._made[key]

    def _derived(self) -> dict[str, Tensor]:
        factor, centre = self.tensors["factor"].double(), self.tensors["centre"].double()
        d = centre.shape[1]
        inverse = torch.linalg.solve_triangular(factor, torch.eye(d).to(factor), upper=False).mT
        volume = factor.diagonal(dim1=1, dim2=2).log().sum(1) + d * HALF_LOG_2PI
        return {
            "whitener": inverse.contiguous(),
            "offset": (centre[:, None] @ inverse)[:, 0],
            "log_height": self.tensors["log_weight"].double() - volume,
        }

    def state(self) -> dict[str, Tensor]:
        """Tensors for the weights file."""
        return dict(self.tensors)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self._put({k: state[k] for k in self.tensors})

    def _put(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self._made, self.fitted = tensors, {}, True


def fit_mixture(
    x: Tensor, components: int, steps: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture of Gaussians by expectation maximisation (Dempster, Laird and Rubin, 1977).

    Args:
        x: (N, D) points.
        components: C.
        steps: of the iteration.
        generator: picks the first centres.

    Returns:
        Log weights (C,), centres (C, D) and covariances (C, D, D), none narrower than `LEAST_VARIANCE`.
    """
    n, d = x.shape
    centre = x[torch.randperm(n, generator=generator)[:components]]
    covariance = torch.cov(x.T).expand(components, d, d).clone()
    log_weight = x.new_full((components,), 1.0 / components).log()
    floor = LEAST_VARIANCE * torch.eye(d, dtype=x.dtype)
    for _ in range(steps):
        normal = torch.distributions.MultivariateNormal(centre, covariance + floor)
        share = torch.cat([torch.softmax(log_weight + normal.log_prob(p[:, None]), 1) for p in x.split(2048)])
        total = share.sum(0).clamp_min(1e-6)
        log_weight = (total / total.sum()).log()
        centre = share.T @ x / total[:, None]
        second = (
            torch.stack([(x * share[:, k, None]).T @ x for k in range(components)]) / total[:, None, None]
        )
        covariance = second - centre[:, :, None] * centre[:, None, :]
    return log_weight, centre, covariance + floor
