"""The U-Net: resolutions, scalars, attention, and images larger than those it was trained on."""

import pytest
import torch

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.image import Attention, ImageEncoder, ImageEncoderSettings
from tests.flows.image.subjects import unsettle

WIDTHS = (8, 16, 16)


def encode(encoder, size=32, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, encoder.channels, size, size, generator=generator)
    return encoder(images, torch.randn(batch, encoder.settings.extras, generator=generator))


@pytest.mark.parametrize("kind", list(Attention))
@pytest.mark.parametrize("size", [32, 64])
def test_a_map_at_every_resolution_whatever_the_size(kind, size):
    encoder = ImageEncoder(3, ImageEncoderSettings(widths=WIDTHS, extras=2, attention=kind, heads=2))
    features = encode(encoder, size)
    shapes = [tuple(m.shape) for m in features.maps]
    assert shapes == [(2, w, size // f, size // f) for w, f in zip(WIDTHS[::-1], (8, 4, 2), strict=True)]
    assert encoder.widths == WIDTHS[::-1]
    assert features.embedding.shape == (2, sum(WIDTHS))


@pytest.mark.parametrize("kind", list(Attention))
def test_gradients_reach_every_weight(kind):
    encoder = unsettle(
        ImageEncoder(3, ImageEncoderSettings(widths=WIDTHS, extras=2, attention=kind, heads=2)), 0.1
    )
    features = encode(encoder)
    sum(m.square().mean() for m in features.maps).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_attention_sits_where_it_was_asked_for():
    def count(**settings):
        encoder = ImageEncoder(1, ImageEncoderSettings(widths=WIDTHS, heads=2, **settings))
        return sum(
            not isinstance(b.attention, torch.nn.Identity)
            for m in (encoder.down, encoder.up)
            for s in m
            for b in s
        )

    assert count() == 0
    assert count(attention="gam") == 5
    assert count(attention="self") == 1
    assert count(attention="nam", attention_levels=2) == 3
    assert count(attention="nam", attention_levels=0) == 0


def test_scalars_change_every_map(encoder):
    images = torch.randn(1, 2, 16, 16)
    one, other = encoder(images, torch.zeros(1, 3)), encoder(images, torch.ones(1, 3))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(one.maps, other.maps, strict=True))


def test_images_of_a_batch_do_not_mix(encoder):
    images, scalars = torch.randn(3, 2, 16, 16), torch.randn(3, 3)
    together = encoder(images, scalars)
    alone = encoder(images[1:2], scalars[1:2])
    for a, b in zip(together.maps, alone.maps, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


def test_a_faint_contrast_survives_autocast(encoder):
    images = 1 + torch.zeros(1, 2, 16, 16)
    nudged = images.clone()
    nudged[:, :, 4:8, 4:8] += 1e-3
    seen = []
    handle = encoder.stem.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.autocast("cpu", torch.bfloat16):
        encoder(images, torch.zeros(1, 3)), encoder(nudged, torch.zeros(1, 3))
    handle.remove()
    assert seen[0].dtype == torch.float32
    assert (seen[1] - seen[0]).abs().max() > 1e-5


def test_channels_last_changes_nothing_but_rounding(encoder):
    images, scalars = torch.randn(2, 2, 16, 16), torch.randn(2, 3)
    plain = encoder(images, scalars)
    fast = encoder.to(memory_format=torch.channels_last)(images, scalars)
    for a, b in zip(plain.maps, fast.maps, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_wrong_inputs_say_what_was_expected(encoder):
    with pytest.raises(SettingsError, match="multiples of 4"):
        encoder(torch.zeros(1, 2, 18, 16), torch.zeros(1, 3))
    with pytest.raises(SettingsError, match="C = 2"):
        encoder(torch.zeros(1, 1, 16, 16), torch.zeros(1, 3))
    with pytest.raises(SettingsError, match=r"scalars have shape \(1, 0\), expected \(B, E\) = \(1, 3\)"):
        encoder(torch.zeros(1, 2, 16, 16))
