"""Tables that are made once serve calculations with gradients and those without."""

import torch

from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.physics.kept import kept


def test_a_table_made_in_inference_mode_can_be_used_with_gradients():
    made = []

    @kept(2)
    def table(count: int) -> torch.Tensor:
        made.append(count)
        return torch.arange(float(count))

    with torch.inference_mode():
        table(3)
    x = torch.ones(3, requires_grad=True)
    (x * table(3)).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 2.0]
    assert made == [3]


def test_anchors_of_particles_can_be_learnt_from():
    subject = modality("saxs1d-particles")
    generator = torch.Generator().manual_seed(0)
    draws = subject.sample_prior(4, generator)
    batch, _ = subject.simulate(draws, generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = subject.network()
    network(*subject.context(batch), subject.anchors(batch)).log_prob(draws).sum().backward()
    theta = draws.theta.clone().requires_grad_()
    moved = type(draws)(draws.label, theta, draws.frame)
    subject.log_likelihood(moved, batch).sum().backward()
    assert theta.grad is not None and bool(torch.isfinite(theta.grad).all())
