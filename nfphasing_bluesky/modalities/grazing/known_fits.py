"""Fits of particles on surfaces within what is known of the sample.

They are made in places of the unit cube of `known_sample`, so none leaves the bounds, and are Gaussians in
the coordinates of the flow then: those of the same width around the same place.

Dimension letters: B frames, N fits, D coordinates, Q points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities.batches import Measured
from nfphasing_bluesky.modalities.grazing.known_sample import Ends, nearest, within
from nfphasing_bluesky.modalities.grazing.particle_prior import Quantity
from nfphasing_bluesky.modalities.unit_box import unit_box

Patterns = Callable[[Tensor, Tensor], Tensor]
STEP = 1e-4


@dataclass(frozen=True)
class KnownFrames(Measured):
    """B frames, with what is known of their samples behind where their points are.

    Args:
        intensity, sigma, mask: (B, Q), as in the batch that they are of.
        q: (B, . + 2 P).
    """

    intensity: Tensor
    sigma: Tensor
    mask: Tensor
    q: Tensor


@dataclass(frozen=True)
class Cube:
    """Places of one class between the ends of each frame, 0 to 1.

    Args:
        quantities: of the class.
        names: of P parameters.
    """

    quantities: Sequence[Quantity]
    names: tuple[str, ...]

    def frames(self, batch: Measured, q: Tensor, known: Tensor) -> KnownFrames:
        """Return frames as patterns in these places take them; `known` is (B, 2, P)."""
        joined = torch.cat([q.double(), known.flatten(1).to(q.device)], 1)
        return KnownFrames(batch.intensity, batch.sigma, batch.mask, joined)

    def ends(self, known: Tensor) -> Ends:
        """Of frames (B, 2, P)."""
        return Ends(self.names, known)

    def places(self, theta: Tensor, known: Tensor) -> Tensor:
        """(B, S, D) places of coordinates, or of those next to them within the bounds."""
        each = theta.shape[1]
        flat = theta.flatten(0, 1).double()
        found = nearest(flat, self.quantities, self.ends(known.repeat_interleave(each, 0)))
        return found.view_as(theta)

    def theta(self, w: Tensor, known: Tensor) -> Tensor:
        """(N, D) coordinates of places, float64."""
        return within(w.double(), self.quantities, self.ends(known))

    def patterns(self, own: Patterns) -> Patterns:
        """(N, D) places and (N, . + 2 P) `q` to what their coordinates scatter."""

        def of_places(w: Tensor, packed: Tensor) -> Tensor:
            q, known = self._split(packed)
            return own(self.theta(w, known).to(w.dtype), q)

        return of_places

    def moved(self, own: Patterns) -> Patterns:
        """Patterns of places (N, 1 + D, D); one that is moved may move several coordinates."""
        of_places = self.patterns(own)

        def all_of(moved: Tensor, packed: Tensor) -> Tensor:
            each = moved.shape[1]
            found = of_places(moved.flatten(0, 1), packed.repeat_interleave(each, 0))
            return found.unflatten(0, (-1, each))

        return all_of

    def in_flow(self, found: Anchor, known: Tensor) -> Anchor:
        """Fits (N,) in the coordinates of the flow's box, of those in the box of places."""
        y, width = found.location.double(), found.location.shape[1]
        box = unit_box(width, y.device)

        def there(at: Tensor, ends: Tensor) -> Tensor:
            place, _ = box.inverse(at, at)
            theta = self.theta(place, ends)
            return box(theta, theta)[0]

        steps = STEP * torch.eye(width).to(y)
        both = torch.cat([y[:, None] + steps, y[:, None] - steps], 1)
        moved = there(both.flatten(0, 1), known.repeat_interleave(2 * width, 0)).view(len(y), 2, width, width)
        # rows are the coordinates that were moved
        jacobian = ((moved[:, 0] - moved[:, 1]) / (2 * STEP)).transpose(1, 2)
        half = jacobian @ found.factor.double()
        scatter = half @ half.transpose(1, 2)
        least = 1e-10 * scatter.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-12)
        factor = torch.linalg.cholesky(scatter + torch.diag_embed(least[:, None].expand(-1, width)))
        return Anchor(there(y, known).to(found.location), factor.to(found.factor), found.features)

    def _split(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        own = 2 * len(self.names)
        return packed[:, :-own], packed[:, -own:].reshape(len(packed), 2, len(self.names))
