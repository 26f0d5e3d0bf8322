"""One contract over every image flow."""

import copy
import math

import pytest
import torch

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.gaussian import MAX_LOG_SCALE, MIN_LOG_SCALE
from nfphasing_bluesky.flows.image import (
    ImageFeatures,
    ImageLatentSampler,
    WaveletFlowSettings,
    build_image_flow,
    merge_levels,
    split_levels,
)
from nfphasing_bluesky.flows.image.gaussian import MAX_COUPLING, PixelGaussian
from nfphasing_bluesky.flows.transforms import soft_clamp
from tests.flows.image.subjects import BOUNDS, FLOWS, make_flow, reference_for

S, B, SIZE = 3, 2, 16


def features_for(flow, dtype=torch.float32, size=SIZE, batch=B, seed=3):
    generator = torch.Generator().manual_seed(seed)
    depth = len(flow.feature_widths)
    maps = tuple(
        torch.randn(batch, width, n, n, generator=generator, dtype=torch.float64).to(dtype)
        for width, n in zip(flow.feature_widths, (size >> k for k in range(depth, 0, -1)), strict=True)
    )
    embedding = torch.cat([m.mean((-2, -1)) for m in maps], dim=1)
    return ImageFeatures(maps, embedding, reference_for(flow, batch, size))


def seen(flow, encoder, images, scalars):
    """What an encoder makes of images, and the reference of a flow that follows one."""
    return encoder(images, scalars)._replace(reference=reference_for(flow, B, SIZE))


def noise(flow, *shape, dtype=torch.float32, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, flow.channels, size, size, generator=generator, dtype=torch.float64).to(dtype)


def inside(u, slack=0.0):
    lower, upper = (torch.tensor(v[: u.shape[-3]])[:, None, None] for v in BOUNDS)
    return bool(((u > lower - slack) & (u < upper + slack)).all())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_from_latent_and_to_latent_are_inverse(image_flow, dtype, tolerance):
    flow = image_flow.to(dtype)
    distribution = flow(features_for(flow, dtype))
    z = noise(flow, S, B, dtype=dtype)
    u, log_prob = distribution.from_latent(z)
    back, log_det = distribution.to_latent(u)
    assert u.shape == z.shape and log_prob.shape == log_det.shape == (S, B)
    # deep in a tail of the box u itself is rounded; there only u can be asked for
    again, _ = distribution.from_latent(back)
    assert (again - u).abs().max() <= tolerance * (1 + u.abs().max())
    if flow.box is None or dtype is torch.float64:
        assert (back - z).abs().max() <= tolerance
    normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum((-3, -2, -1))
    assert (normal + log_det - log_prob).abs().max() <= 20 * tolerance * z[0, 0].numel()
    assert (distribution.log_prob(u) - log_prob).abs().max() <= 20 * tolerance * z[0, 0].numel()


@pytest.mark.parametrize("name", FLOWS)
def test_log_determinant_is_that_of_autograd(name):
    size = 8
    flow = make_flow(name).double()
    distribution = flow(features_for(flow, torch.float64, size, batch=1))
    z = noise(flow, 1, dtype=torch.float64, size=size)
    u, log_prob = distribution.from_latent(z)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: distribution.to_latent(v.view_as(u))[0].flatten(), u.detach().flatten()
    )
    expected = torch.linalg.slogdet(jacobian).logabsdet
    assert float(distribution.to_latent(u)[1].detach()) == pytest.approx(float(expected), abs=1e-7)
    draw = torch.autograd.functional.jacobian(
        lambda v: distribution.from_latent(v.view_as(z))[0].flatten(), z.flatten()
    )
    assert float(torch.linalg.slogdet(draw).logabsdet) == pytest.approx(-float(expected), abs=1e-7)
    normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum()
    assert float(log_prob.detach()) == pytest.approx(float(normal + expected), abs=1e-7)


def test_shapes_and_support(image_flow):
    distribution = image_flow(features_for(image_flow))
    u = distribution.sample((2, S), torch.Generator().manual_seed(0))
    assert u.shape == (2, S, B, image_flow.channels, SIZE, SIZE) and not u.requires_grad
    assert distribution.log_prob(u).shape == (2, S, B)
    assert distribution.log_prob(u[0, 0]).shape == (B,)
    if image_flow.box is not None:
        assert inside(u)
        outside = u[0, 0].clone()
        outside[0, 0, 3, 4] = 50.0
        assert distribution.log_prob(outside)[0] == -math.inf
        assert torch.isfinite(distribution.log_prob(outside)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name, (_, _, boxed) in FLOWS.items() if boxed])
def test_no_draw_leaves_the_bounds_however_extreme_the_noise(name, dtype):
    flow = make_flow(name).to(dtype)
    distribution = flow(features_for(flow, dtype))
    for factor in (10.0, 1e3, 1e8):
        u, log_prob = distribution.from_latent(factor * noise(flow, S, B, dtype=dtype))
        assert inside(u.double())
        assert torch.isfinite(u).all() and not torch.isnan(log_prob).any()


def test_levels_add_up(image_flow):
    flow = image_flow.double()
    distribution = flow(features_for(flow, torch.float64))
    u, log_prob = distribution.from_latent(noise(flow, S, B, dtype=torch.float64))
    terms = distribution.level_log_probs(u)
    assert terms.shape == (S, B, 1 + len(flow.feature_widths))
    box = 0.0 if flow.box is None else flow.box(u)[1]
    torch.testing.assert_close(terms.sum(-1) + box, log_prob, rtol=1e-9, atol=1e-7)


def test_a_level_depends_on_its_own_weights_alone(image_flow):
    distribution = image_flow(features_for(image_flow))
    u = distribution.sample((), torch.Generator().manual_seed(0))
    distribution.level_log_probs(u)[..., 1].sum().backward()
    for k, level in enumerate(image_flow.levels):
        reached = any(p.grad is not None and p.grad.abs().max() > 0 for p in level.parameters())
        assert reached == (k == 1)


def test_noise_in_real_space_is_noise_of_the_levels():
    flow = build_image_flow(1, (8, 8), WaveletFlowSettings(widths=(8, 8)))
    z = noise(flow, S, B)
    u, _ = flow(features_for(flow)).from_latent(z)
    torch.testing.assert_close(u, z)  # a new flow is the identity
    fresh = [p.var() for p in split_levels(noise(flow, 200, B), 2)]
    assert all(float(v) == pytest.approx(1, abs=0.05) for v in fresh)


def test_flat_noise_is_the_same_noise(image_flow):
    distribution = image_flow(features_for(image_flow))
    z = noise(image_flow, S, B)
    one, other = distribution.from_latent(z), distribution.from_latent(z.flatten(2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_given_noise_makes_draws_independent_of_the_batch(image_flow):
    features = features_for(image_flow)
    z = noise(image_flow, S, B)
    together, log_prob = image_flow(features).from_latent(z)
    for b in range(B):
        one = features.at(torch.tensor([b]))
        for s in range(S):
            alone, log_prob_alone = image_flow(one).from_latent(z[s, b : b + 1])
            torch.testing.assert_close(alone[0], together[s, b], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(log_prob_alone[0], log_prob[s, b], rtol=0, atol=0.02)


def test_density_moves_with_the_features(image_flow):
    u = image_flow(features_for(image_flow)).sample()
    here, there = (image_flow(features_for(image_flow, seed=s)).level_log_probs(u) for s in (3, 4))
    assert (here - there).abs().min() > 1e-4


def test_the_same_weights_take_larger_images(image_flow):
    features = features_for(image_flow, size=2 * SIZE)
    u, log_prob = image_flow(features).from_latent(noise(image_flow, B, size=2 * SIZE))
    assert u.shape[-2:] == (2 * SIZE, 2 * SIZE) and torch.isfinite(log_prob).all()


def test_gradients_reach_every_weight_through_density_and_draws(image_flow, encoder):
    images, scalars = torch.randn(B, 2, SIZE, SIZE), torch.randn(B, 3)

    def distribution():
        return image_flow(seen(image_flow, encoder, images, scalars))

    u = distribution().sample()
    for loss in (
        lambda: distribution().log_prob(u).mean(),
        lambda: distribution().rsample((S,)).square().mean(),
    ):
        image_flow.zero_grad(), encoder.zero_grad()
        loss().backward()
        for name, parameter in (*image_flow.named_parameters(), *encoder.named_parameters()):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name


def test_a_state_dict_carries_everything(image_flow):
    other = copy.deepcopy(image_flow)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.load_state_dict(image_flow.state_dict())
    features, z = features_for(image_flow), noise(image_flow, S, B)
    for a, b in zip(image_flow(features).from_latent(z), other(features).from_latent(z), strict=True):
        assert torch.equal(a, b)


def test_autocast_keeps_densities_in_float32(image_flow, encoder):
    images, scalars = torch.randn(B, 2, SIZE, SIZE), torch.randn(B, 3)
    z = noise(image_flow, S, B)
    exact = image_flow(seen(image_flow, encoder, images, scalars)).from_latent(z)
    with torch.autocast("cpu", torch.bfloat16):
        features = seen(image_flow, encoder, images, scalars)
        u, log_prob = image_flow(features).from_latent(z)
        back, log_det = image_flow(features).to_latent(u)
        terms = image_flow(features).level_log_probs(u)
    assert features.maps[0].dtype == torch.bfloat16 and features.embedding.dtype == torch.float32
    assert u.dtype == log_prob.dtype == back.dtype == log_det.dtype == terms.dtype == torch.float32
    normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum((-3, -2, -1))
    # the pair is consistent with itself even where it differs from float32
    assert (normal + log_det - log_prob).abs().max() <= 0.05 * z[0, 0].numel() ** 0.5
    assert (u - exact[0]).abs().median() <= 0.05


@pytest.mark.parametrize("name", ["wavelet, two channels, box", "wavelet, offset"])
def test_drawing_exports(name, encoder):
    flow = make_flow(name, encoder.widths)
    sampler = ImageLatentSampler(encoder, flow).eval()

    def inputs(seed):
        reference = reference_for(flow, B, SIZE, seed)
        return torch.randn(B, 2, SIZE, SIZE), torch.randn(B, 3), noise(flow, S, B, seed=seed), reference

    program, again = torch.export.export(sampler, inputs(0)), inputs(5)
    for got, expected in zip(program.module()(*again), sampler(*again), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_initialising_gives_white_noise():
    """Images of given mean and scale become coefficients of mean 0 and scale 1, level by level."""
    flow = build_image_flow(2, (8, 8), WaveletFlowSettings(widths=(8, 8)), [-1.0, 0.0], [1.0, 4.0])
    generator = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(300, 2, 18, 18, generator=generator), 3, 1)
    u = torch.tensor([0.2, 3.0])[:, None, None] + 0.1 * smooth
    flow.initialise(u)
    z, _ = flow(features_for(flow, batch=300)).to_latent(u)
    seen = [u_to_unit(level.trunk, c) for level, c in zip(flow.levels[1:], coarser(flow, u), strict=True)]
    for part in (*split_levels(z, 2), *seen):
        assert part.mean((0, 2, 3)).abs().max() < 0.01
        assert (part.movedim(1, 0).flatten(1).std(1) - 1).abs().max() < 0.01


def coarser(flow, u):
    """What each level but the base is given, coarse to fine."""
    parts = split_levels(flow.box(u)[0], 2)
    return [merge_levels(parts[:k]) for k in range(1, len(parts))]


def u_to_unit(trunk, coarse):
    return (coarse - trunk.shift) * trunk.scale


def test_what_depends_on_the_context_alone_is_computed_once_a_context(image_flow):
    rows = []
    for level in image_flow.levels:
        level.trunk.from_features.register_forward_hook(lambda *args: rows.append(args[2].shape[0]))
    base = [t for t in image_flow.levels[0].transforms if hasattr(t, "conditioner")]
    for transform in base:
        transform.conditioner.from_hidden.register_forward_hook(lambda *args: rows.append(args[2].shape[0]))
    image_flow(features_for(image_flow)).sample((S,))
    assert len(rows) == len(image_flow.levels) + len(base) and set(rows) == {B}


def test_the_gaussian_of_a_pixel_has_the_density_and_covariance_of_its_matrix():
    n, width = 3, 4
    gaussian = PixelGaussian(n, width).double()
    torch.nn.init.normal_(gaussian.head.bias, std=0.5)
    location, raw, off = gaussian.head.bias.detach().split([n, n, 3])
    matrix = torch.eye(n).double()
    matrix[[1, 2, 2], [0, 0, 1]] = soft_clamp(off, -MAX_COUPLING, MAX_COUPLING)
    scale = soft_clamp(raw, MIN_LOG_SCALE, MAX_LOG_SCALE).exp()
    factor = torch.diag(scale) @ torch.linalg.inv(matrix)
    x = torch.randn(5, n, 1, 1, dtype=torch.float64)
    z, log_det = gaussian(x, torch.zeros(5, width, 1, 1, dtype=torch.float64))
    expected = torch.distributions.MultivariateNormal(location, factor @ factor.T).log_prob(x.flatten(1))
    log_prob = -0.5 * (z.square() + math.log(2 * math.pi)).sum((1, 2, 3)) + log_det
    torch.testing.assert_close(log_prob, expected)


def test_a_reference_is_followed_as_far_as_the_features_say():
    n, width = 2, 4
    gaussian = PixelGaussian(n, width, referred=True).double()
    torch.nn.init.normal_(gaussian.head.weight)
    hidden, x = torch.randn(5, width, 3, 3).double(), torch.randn(5, n, 3, 3).double()
    nothing = torch.zeros_like(x)
    reference = torch.randn_like(x)
    followed = gaussian.inverse(nothing, hidden, reference)[0] - gaussian.inverse(nothing, hidden, nothing)[0]
    gate = followed / reference
    expected = torch.sigmoid(gaussian.head(torch.nn.functional.silu(hidden))[:, -n:])
    torch.testing.assert_close(gate, expected)
    back = gaussian(gaussian.inverse(x, hidden, reference)[0], hidden, reference)[0]
    torch.testing.assert_close(back, x)
    assert not torch.allclose(gaussian(x, hidden, reference)[0], gaussian(x, hidden, nothing)[0])


def test_a_reference_that_is_missing_or_not_wanted_is_refused():
    follows, plain = make_flow("wavelet, referred, box"), make_flow("wavelet")
    with pytest.raises(SettingsError, match="features have no reference, expected one"):
        follows(features_for(follows)._replace(reference=None))
    with pytest.raises(SettingsError, match="features have a reference, expected none"):
        plain(features_for(plain)._replace(reference=torch.zeros(B, 1, SIZE, SIZE)))


def test_wrong_shapes_say_what_was_expected():
    flow = make_flow("wavelet")
    distribution = flow(features_for(flow))
    with pytest.raises(SettingsError, match=r"B = 2 contexts and \(C, H, W\) = \(1, 16, 16\)"):
        distribution.log_prob(torch.zeros(B, 1, 8, 8))
    with pytest.raises(SettingsError, match=r"maps of \(4, 4\) channels, expected \(8, 8\)"):
        flow(ImageFeatures((torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 8, 8)), torch.zeros(1, 4)))
    with pytest.raises(SettingsError, match="expected C >= 1 and 3 maps"):
        build_image_flow(1, (8, 8), WaveletFlowSettings())
    with pytest.raises(SettingsError, match="both or neither"):
        build_image_flow(1, (8, 8, 8), lower=[0.0])
    with pytest.raises(SettingsError, match="box has 2 bounds, expected C = 1"):
        build_image_flow(1, (8, 8, 8), lower=[0.0, 0.0], upper=[1.0, 1.0])
