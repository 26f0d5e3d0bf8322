"""Several model classes at once: p(class | context) times the flow of that class."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.anchor import Anchor
from nfphasing_bluesky.flows.conditional import ConditionalFlow, FlowDistribution
from nfphasing_bluesky.flows.conditioner import Conditioner


class MixtureDistribution:
    """p(class | context) and q(theta | class, context) for B contexts."""

    def __init__(self, mixture: "MixtureOfFlows", context: Tensor, class_log_probs: Tensor) -> None:
        self.mixture = mixture
        self.context = context
        self.class_log_probs = class_log_probs  #: (B, C), normalised

    def class_distribution(
        self, k: int, rows: Tensor | None = None, anchor: Anchor | None = None
    ) -> FlowDistribution:
        """Posterior of the parameters of class k, with that class's own dimension.

        Args:
            k: the class.
            rows: contexts to take; all when left out.
            anchor: of those contexts; its features are given to the flow beside the context.
        """
        context = self.context if rows is None else self.context[rows]
        if anchor is not None:
            context = torch.cat([context, anchor.features.to(context)], dim=1)
        return self.mixture.flow(k)(context, anchor)

    def log_prob(self, k: int, theta: Tensor) -> Tensor:
        """Joint log density (..., B) of class k and its parameters theta (..., B, D_k)."""
        return self.class_log_probs[:, k] + self.class_distribution(k).log_prob(theta)

    @torch.no_grad()
    def sample_classes(self, draws: int, generator: torch.Generator | None = None) -> Tensor:
        """(S, B) class indices."""
        probabilities = self.class_log_probs.exp()
        return torch.multinomial(probabilities, draws, replacement=True, generator=generator).mT


class MixtureOfFlows(nn.Module):
    """A categorical head and one flow per class, all given the same context (B, E).

    Args:
        flows: class name -> its flow; the order is that of the class index. A flow that takes more than E
            values is given the features of its anchor behind them.
        context: E.
        hidden: width of the head.
        blocks: residual blocks of the head.
    """

    def __init__(
        self, flows: Mapping[str, ConditionalFlow], context: int, hidden: int = 256, blocks: int = 2
    ) -> None:
        super().__init__()
        widths = {flow.context_dimension for flow in flows.values()}
        if min(widths) < context:
            raise SettingsError(
                f"flows take contexts of {sorted(widths)} values, expected at least {context}"
            )
        self.classes = tuple(flows)
        self.flows = nn.ModuleList(flows.values())
        self.head = Conditioner(0, context, len(flows), hidden, blocks)

    def flow(self, k: int) -> ConditionalFlow:
        """Return the flow of class k."""
        flow = self.flows[k]
        assert isinstance(flow, ConditionalFlow)  # noqa: S101  ModuleList forgets the element type
        return flow

    def class_log_probs(self, context: Tensor) -> Tensor:
        """(B, C) log p(class | context), at least float32."""
        logits = self.head(None, context.to(self.flow(0).dtype))
        return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)

    def forward(self, context: Tensor) -> MixtureDistribution:
        """Condition on (B, E)."""
        return MixtureDistribution(self, context, self.class_log_probs(context))
