"""Linear coefficients integrated out and drawn: against the normal distributions written out in full."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from nfphasing_bluesky.modalities.shapes.linear_shape import condition, condition_alike, linear_prior

Q, C, K = 12, 3, 2


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factor = torch.linalg.cholesky(0.3 + torch.eye(C, dtype=torch.float64)).repeat(K, 1, 1)
    factor[1] *= 0.4
    prior = linear_prior(
        torch.tensor([0.3, 0.7]).double().log(),
        normal(K, C),
        factor,
        torch.tensor([0.5], dtype=torch.float64),
    )
    columns, data = normal(Q, C + 1), normal(Q)
    found = condition((columns.T @ columns)[None], (columns.T @ data)[None], data.square().sum()[None], prior)
    return prior, columns, data, found


def written_out(prior, columns, data):
    """Log of weight times evidence of each component."""
    joint = []
    for k in range(K):
        covariance = columns @ torch.linalg.inv(prior.precision[k]) @ columns.T + torch.eye(Q).double()
        marginal = MultivariateNormal(columns @ prior.centre[k], covariance)
        joint.append(prior.log_weight[k] + marginal.log_prob(data))
    return torch.stack(joint)


def test_evidence_is_the_marginal_likelihood(case):
    prior, columns, data, found = case
    joint = written_out(prior, columns, data) + 0.5 * Q * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(found.log_evidence[0], torch.logsumexp(joint, 0))
    torch.testing.assert_close(found.log_share[0], torch.log_softmax(joint, 0))


def test_draws_have_the_moments_of_the_posterior(case):
    prior, columns, data, found = case
    generator = torch.Generator().manual_seed(4)
    many = 40_000
    noise = torch.randn(many, 2 + C, generator=generator)
    repeated = type(found)(*(part.expand(many, *part.shape[1:]) for part in found))
    x = repeated.draw(noise)
    share = torch.softmax(written_out(prior, columns, data), 0)
    precision = columns.T @ columns + prior.precision
    right = columns.T @ data + (prior.precision @ prior.centre[..., None])[..., 0]
    means = torch.linalg.solve(precision, right)
    mean = share @ means
    second = torch.linalg.inv(precision) + means[:, :, None] * means[:, None, :]
    covariance = (share[:, None, None] * second).sum(0) - mean[:, None] * mean[None]
    sigma = covariance.diagonal().sqrt()
    assert float(((x.mean(0) - mean) / sigma).abs().max()) < 0.03
    assert float(((torch.cov(x.T) - covariance) / (sigma[:, None] * sigma)).abs().max()) < 0.04


def test_without_noise_the_likeliest_component_gives_its_mean(case):
    prior, columns, data, found = case
    k = int(found.log_share[0].argmax())
    precision = columns.T @ columns + prior.precision[k]
    expected = torch.linalg.solve(precision, columns.T @ data + prior.precision[k] @ prior.centre[k])
    torch.testing.assert_close(found.draw(None)[0], expected)


def alike(prior, columns, data, n=200):
    """Sums of n draws whose columns differ a little."""
    scale = torch.linspace(0.9, 1.1, n, dtype=torch.float64)
    gram = (columns.T @ columns) * scale[:, None, None].square()
    return gram, (columns.T @ data) * scale[:, None], data.square().sum().expand(n), prior


def test_components_that_no_draw_wants_are_left_out(case):
    prior, columns, data, _ = case
    far = prior._replace(centre=prior.centre + torch.tensor([[0.0], [40.0]]))
    whole, few = condition(*alike(far, columns, data)), condition_alike(*alike(far, columns, data))
    assert whole.log_share.shape[1] == K
    assert few.log_share.shape[1] == 1
    torch.testing.assert_close(few.log_evidence, whole.log_evidence)
    both = condition_alike(*alike(prior, columns, data))
    torch.testing.assert_close(both.log_share, condition(*alike(prior, columns, data)).log_share)


def test_a_draw_that_makes_no_sense_rules_out_no_component(case):
    prior, columns, data, _ = case
    gram, projection, square, _ = alike(prior, columns, data)
    gram[0] = torch.nan
    found = condition_alike(gram, projection, square, prior)
    assert found.log_share.shape[1] == K
    assert torch.isfinite(found.log_evidence[1:]).all()
    assert len(found.draw(torch.randn(len(gram), 2 + C, dtype=torch.float64))) == len(gram)
