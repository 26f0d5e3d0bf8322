"""What modalities of surfaces share, whatever part of a frame they look at.

Scale and background are those of all of a frame: linear, integrated out and drawn exactly.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nfphasing_bluesky.core import Axis, DensityInfo, Parameter
from nfphasing_bluesky.modalities.draws import Anchors, Draws, Evaluated
from nfphasing_bluesky.modalities.grazing.loose_scale import Measured, loosened
from nfphasing_bluesky.modalities.grazing.surface_fits import no_anchors
from nfphasing_bluesky.modalities.grazing.surface_misfit import next_step
from nfphasing_bluesky.modalities.unit_box import UnitBox


class SurfaceScattering(UnitBox):
    """A modality whose u is rho_e(z), averaged over the area.

    `depths_angstrom` are the first and the last depth of u, and how many there are; `holds` says what to
    check of a frame that no sample explains.
    """

    parameters: ClassVar[tuple[Parameter, ...]]
    depths_angstrom: ClassVar[tuple[float, float, int]]
    noise_columns: ClassVar[int] = 2
    takes_bounds: ClassVar[bool] = False
    disagreement: ClassVar[str] = ""
    holds: ClassVar[str]

    def __init__(self) -> None:
        self.axis = torch.linspace(*self.depths_angstrom)
        axis = Axis("z", self.axis.double().numpy(), "angstrom")
        self.density_info = DensityInfo("rho_e(z)", "e/angstrom^3", (axis,))

    @abstractmethod
    def scattering(self, theta: Tensor, kind: int, packed: Tensor) -> Tensor:
        """(N, Q) of samples of one class, theta (N, D) in 0..1, of root mean square 1; differentiable."""

    @abstractmethod
    def points(self, packed: Tensor) -> int:
        """Q of what is packed (N, P): where it is measured."""

    def pattern(self, draws: Draws, packed: Tensor) -> Tensor:
        """(N, Q) scattering of each draw where `packed` (N, P) says, of root mean square 1."""
        count = self.points(packed)
        out = torch.zeros(len(draws), count, dtype=draws.theta.dtype, device=packed.device)
        for k, spec in enumerate(self.classes):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                # a draw outside of the prior, which has no probability anyway, counts as one on its edge
                theta = draws.theta[chosen, : len(spec.free)].clamp(0.0, 1.0)
                out = out.index_copy(0, chosen, self.scattering(theta, k, packed[chosen]))
        return out

    def anchors(self, batch: Any) -> Anchors:
        """The prior: nothing is fitted before the flow."""
        return no_anchors(len(batch), [len(c.free) for c in self.classes])

    def agreement(self, batch: Any, anchors: Anchors) -> Tensor:
        """(B,) NaN: the chi-squared tells what is no such sample."""
        return batch.intensity.new_full((len(batch),), torch.nan)

    def forward(self, draws: Draws, batch: Any) -> Tensor:
        """(N, Q) scattering of each draw where its frame was measured, of root mean square 1."""
        return self.pattern(draws, batch.q[draws.frame])

    def next_step(self, batch: Any, best: Draws, predicted: Tensor, sigma_floor: float) -> list[str]:
        """What to check of each of B frames that no draw explains, the likeliest draw of each given."""
        ended = [self.ended(batch, best.at(torch.tensor([b])), b) for b in range(len(batch))]
        return next_step(batch, best, predicted, sigma_floor, self.classes, self.holds, ended)

    def ended(self, batch: Any, draw: Draws, b: int) -> str:
        """Which bounds of what is known of a frame a draw ends at, in words; empty where nothing is known."""
        return ""

    def evaluate(self, draws: Draws, batch: Any, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model; scale and background by their exact conditional.

        Of draws that don't explain their frame the scale is what `loose_scale` says. Without noise these are
        central.
        """
        linear, shape = self._condition(draws, batch)
        tight, beta = linear.draw(noise)
        background, rows = tight * beta, draws.frame
        measured = Measured(batch.intensity[rows], batch.sigma[rows], ~batch.mask[rows])
        scale = loosened(shape, tight, background, measured, None if noise is None else noise[:, 1])
        predicted = (scale[:, None] * shape + background[:, None]).to(shape.dtype)
        return Evaluated(linear.log_evidence, {"scale": scale, "beta": background / scale}, predicted)

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of every reported parameter; NaN where a class lacks it."""
        missing = torch.full_like(draws.theta[:, 0], torch.nan)
        out = {p.name: missing.clone() for p in self.parameters}
        for k, spec in enumerate(self.classes):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                for name, value in self.values(draws.theta[chosen, : len(spec.free)], k).items():
                    out[name][chosen] = value.to(missing.dtype)
        return out | self._linear(nuisance, missing)

    @abstractmethod
    def values(self, theta: Tensor, kind: int) -> Mapping[str, Tensor]:
        """Name -> (N,) parameters of samples of one class as they are reported, but for what is linear."""
