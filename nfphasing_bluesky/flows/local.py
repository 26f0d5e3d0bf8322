"""Where a flow is too wide: Gaussians around fits beside it, as one distribution.

A flow that has learnt how often fits fail keeps most of its draws away from a fit that did not, and in twenty
dimensions hardly any of them explains what a good fit explains. Of the draws of this mixture half are the
flow's, so that importance weights are at most twice those of the flow alone (a defensive mixture: Hesterberg,
Technometrics 37, 185, 1995), and half are around the fits. Which draw is whose is fixed by its place, and its
density is that of the whole mixture (Owen and Zhou, J. Am. Stat. Assoc. 95, 135, 2000).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.conditional import FlowDistribution, standard_normal_log_prob
from nfphasing_bluesky.flows.transforms import full_precision

OF_THE_FLOW = 0.5
WIDER = 1.1
"""Of each Gaussian's width over its fit's: too narrow ones have draws of great weight."""
GOLDEN = 0.5 * (math.sqrt(5) - 1)


@dataclass(frozen=True)
class LocalFits:
    """C Gaussians in the unbounded coordinates of a flow, for each of B contexts.

    Args:
        location: (B, C, D).
        factor: (B, C, D, D) lower triangular, positive diagonal; covariance = factor @ factor.T.
        log_share: (B, C) of each among them, normalised; minus infinity for one that is not used.
    """

    location: Tensor
    factor: Tensor
    log_share: Tensor

    def at(self, index: Tensor) -> "LocalFits":
        """Return those of some contexts."""
        return LocalFits(self.location[index], self.factor[index], self.log_share[index])

    def log_prob(self, y: Tensor) -> Tensor:
        """(..., B) log density of y (..., B, D)."""
        with full_precision(y):
            factor = WIDER * self.factor.to(y)
            away = (y[..., None, :] - self.location.to(y)).unsqueeze(-1)
            pulls = torch.linalg.solve_triangular(factor, away, upper=False).squeeze(-1)
            volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            return torch.logsumexp(standard_normal_log_prob(pulls) - volume + self.log_share.to(y), -1)

    def place(self, z: Tensor, chosen: Tensor) -> Tensor:
        """(S, B, D) y of standard normals z (S, B, D), each around its chosen fit (S, B)."""
        with full_precision(z):
            rows = torch.arange(z.shape[1], device=z.device).expand_as(chosen)
            factor = WIDER * self.factor.to(z)[rows, chosen]
            return self.location.to(z)[rows, chosen] + (factor @ z[..., None])[..., 0]


class FlowAndFits:
    """q(theta | context) for B contexts: a flow and Gaussians around fits.

    Args:
        flow: with a box.
        fits: of the same contexts, in coordinates of the box.
    """

    def __init__(self, flow: FlowDistribution, fits: LocalFits) -> None:
        if flow.flow.box is None:
            raise SettingsError("fits are in the coordinates of a box, and this flow has none")
        self.flow, self.fits, self._box = flow, fits, flow.flow.box

    def log_prob(self, theta: Tensor) -> Tensor:
        """Log density (..., B) of theta (..., B, D); minus infinity outside the box."""
        return self._of_both(theta, self.flow.log_prob(theta))

    def _of_both(self, theta: Tensor, of_flow: Tensor) -> Tensor:
        y, log_det = self._box(theta.to(of_flow), theta)
        around = (self.fits.log_prob(y) + log_det).masked_fill(~self._box.contains(theta), -math.inf)
        both = torch.logaddexp(of_flow + math.log(OF_THE_FLOW), around + math.log(1 - OF_THE_FLOW))
        alone = torch.isneginf(self.fits.log_share).all(-1)
        return torch.where(alone, of_flow, both)

    def from_latent(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Theta (S, B, D) of latent noise z (S, B, D), and its log density (S, B)."""
        theta, of_flow = self.flow.from_latent(z)
        share = self.fits.log_share.exp() * (1 - OF_THE_FLOW)
        share = torch.where(share.sum(-1, keepdim=True) > 0, share, 0.0)
        place = (GOLDEN * (torch.arange(len(z), device=z.device) + 0.5)).frac()
        edges = OF_THE_FLOW + share.cumsum(-1)
        local = (place[:, None] >= OF_THE_FLOW) & (share.sum(-1) > 0)
        chosen = (place[:, None, None] >= edges).sum(-1).clamp_max(share.shape[1] - 1)
        y = self.fits.place(z.to(theta), chosen)
        around = self._box.inverse(y, y)[0]
        theta = torch.where(local[..., None], around, theta)
        of_flow = torch.where(local, self.flow.log_prob(theta), of_flow)
        return theta, self._of_both(theta, of_flow)
