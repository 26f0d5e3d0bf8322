"""Groups of overlapping frames: what they say together of a patch."""

import pytest
import torch

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.physics.imaging.overlap import Group, GroupFrames, pull, sweeps
from nfphasing_bluesky.physics.imaging.patches import cut, within
from nfphasing_bluesky.physics.imaging.probes import light_radius, random_probes
from nfphasing_bluesky.physics.objects import random_objects
from nfphasing_bluesky.physics.ptychography import (
    FarField,
    NearField,
    expected_intensity,
    fourier_shift,
    wave_intensity,
)

SIDE, REACH, B = 48, 12, 4
FAR = FarField(centred=False)
NEAR = NearField(0.1)


def scan(propagation, photons: float = 1e8, seed: int = 0) -> tuple[Group, torch.Tensor]:
    """Groups of five frames without noise, and the patches behind the first of each."""
    generator = torch.Generator().manual_seed(seed)
    probe = random_probes(B, SIDE, generator) * photons**0.5
    maps = random_objects(B, (SIDE + 2 * REACH,) * 2, generator=generator, kinds=["dead leaves"]).maps
    canvas = torch.polar(torch.exp(-0.1 * maps), -0.6 * maps)
    offset = torch.tensor([[0, 0], [5, 1], [-2, 6], [-6, -3], [3, -7]]).expand(B, -1, -1)
    fraction = 0.5 - torch.rand(B, 5, 2, generator=generator)
    counts = []
    for j in range(5):
        wave = cut(canvas, REACH + offset[:, j], (SIDE, SIDE))
        moved = fraction[:, j]
        if propagation is FAR:
            counts.append(expected_intensity(wave, fourier_shift(probe, moved), propagation))
        else:
            counts.append(expected_intensity(fourier_shift(wave, -moved), probe, propagation))
    frames = torch.stack(counts, 1)
    mask, present = torch.zeros_like(frames, dtype=torch.bool), torch.ones(B, 5, dtype=torch.bool)
    middle = torch.full((B, 2), REACH)
    return Group(frames, mask, probe, offset, fraction, present, torch.zeros_like(frames[:, 0])), cut(
        canvas, middle, (SIDE, SIDE)
    )


def error(found: torch.Tensor, truth: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
    """(B,) root mean square error under the light, the whole phase taken out."""
    overlap = (light * truth * found.conj()).sum((1, 2))
    turned = found * (overlap / overlap.abs())[:, None, None]
    return ((light * (turned - truth).abs().square()).sum((1, 2)) / light.sum((1, 2))).sqrt()


@pytest.mark.parametrize("propagation", [FAR, NEAR], ids=["far", "near"])
def test_hearing_is_the_adjoint_of_waves(propagation):
    group, _ = scan(propagation)
    frames = GroupFrames(group, propagation)
    generator = torch.Generator().manual_seed(3)
    canvas = torch.randn(frames.flat().shape, dtype=torch.complex64, generator=generator)
    for j in (0, 3):
        waves = frames.waves(canvas, j)
        other = torch.randn(waves.shape, dtype=torch.complex64, generator=generator)
        heard = torch.zeros_like(canvas)
        frames.add(heard, frames.heard(other, j), j)
        one, two = (waves.conj() * other).sum((1, 2, 3)), (canvas.conj() * heard).sum((1, 2))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


@pytest.mark.parametrize("propagation", [FAR, NEAR], ids=["far", "near"])
def test_neighbours_tell_what_a_frame_alone_does_not(propagation):
    group, truth = scan(propagation)
    frames = GroupFrames(group, propagation)
    alone = GroupFrames(group._replace(present=torch.arange(5).expand(B, -1) < 1), propagation)
    light = frames.light[:, 0]
    last, first, lonely = (
        error(f.patches(sweeps(f, number)), truth, light)
        for f, number in ((frames, 12), (frames, 1), (alone, 12))
    )
    assert (last < lonely).all()
    assert float((last / lonely).median()) < 0.9
    assert (last < first).all()


def test_more_sweeps_come_to_the_truth():
    group, truth = scan(FAR)
    frames = GroupFrames(group, FAR)
    found = [sweeps(frames, number, regularisation=0.2) for number in (5, 60)]
    few, many = (error(frames.patches(canvas), truth, frames.light[:, 0]) for canvas in found)
    assert (many < few).all()
    assert float((many / few).median()) < 0.6
    # and the better a patch fits, the less is left to wish for
    (early, unfit), (late, fit) = (pull(frames, canvas) for canvas in found)
    assert (fit < unfit).all()
    assert (late.abs().mean((1, 2)) < early.abs().mean((1, 2))).all()


def test_going_on_between_sweeps_saves_sweeps():
    group, truth = scan(FAR)
    frames = GroupFrames(group, FAR)
    plain = frames.flat()
    for _ in range(15):
        plain = _one_sweep(frames, plain)
    light = frames.light[:, 0]
    hurried = error(frames.patches(sweeps(frames, 10)), truth, light)
    assert (hurried < error(frames.patches(plain), truth, light)).all()


def _one_sweep(frames: GroupFrames, canvas: torch.Tensor) -> torch.Tensor:
    """RPIE as Maiden, Johnson and Li write it, from a canvas."""
    canvas = canvas.clone()
    for j in reversed(range(frames.count)):
        wave = frames.waves(canvas, j)
        amplitude = wave_intensity(wave).clamp_min(1e-30).sqrt()
        wanted = wave * (frames.counts[:, j].sqrt() / amplitude)[:, None]
        light = frames.light[:, j]
        step = 1 / (0.7 * light + 0.3 * light.amax((1, 2), keepdim=True))
        frames.add(canvas, step * frames.heard(wanted - wave, j), j)
    return canvas


def test_one_sweep_is_rpie():
    group, _ = scan(NEAR)
    frames = GroupFrames(group, NEAR)
    torch.testing.assert_close(sweeps(frames, 1), _one_sweep(frames, frames.flat()), rtol=1e-4, atol=1e-5)


def test_what_is_masked_or_absent_is_not_looked_at():
    group, _ = scan(FAR)
    mask = torch.zeros_like(group.mask)
    mask[:, :, 3:5] = True
    present = group.present & (torch.arange(5) < 4)
    spoilt = group.counts.clone()
    spoilt[mask] = 1e9
    spoilt[:, 4] = 7.0
    one, other = (
        GroupFrames(group._replace(counts=counts, mask=mask, present=present), FAR)
        for counts in (group.counts, spoilt)
    )
    torch.testing.assert_close(sweeps(one, 2), sweeps(other, 2))
    torch.testing.assert_close(one.seen(), other.seen())


def test_the_light_is_counted_where_it_fell():
    group, _ = scan(FAR)
    whole = torch.zeros(B, SIDE + 2 * REACH, SIDE + 2 * REACH)
    for j in range(5):
        frame = wave_intensity(fourier_shift(group.probe, group.fraction[:, j]))
        whole += within(torch.zeros_like(whole), REACH + group.offset[:, j], frame)
    frames = GroupFrames(group, FAR)
    middle = torch.full((B, 2), REACH)
    found = frames.patches(frames.seen())
    torch.testing.assert_close(found, cut(whole, middle, (SIDE, SIDE)), rtol=1e-4, atol=1.0)
    # what the Fourier shift does beyond the frame is small
    torch.testing.assert_close(frames.light[:, 0].sum((1, 2)), torch.full((B,), 1e8), rtol=1e-3, atol=0)


def test_frames_of_another_size_than_the_probe():
    group, _ = scan(FAR)
    with pytest.raises(FrameError, match="do not match the probe"):
        GroupFrames(group._replace(probe=group.probe[..., :-2]), FAR)


def test_random_probes_are_beams():
    probe = random_probes(200, 96, torch.Generator().manual_seed(1))
    energy = probe.abs().square().sum((2, 3))
    torch.testing.assert_close(energy.sum(1), torch.ones(200), rtol=1e-4, atol=0)
    assert float(energy[:, 0].min()) > 0.79
    assert 0.3 < float((energy[:, 1] < 1e-6).float().mean()) < 0.7
    radius = light_radius(probe)
    assert 2.5 < float(radius.min()) and float(radius.max()) < 36
    # the frame's edge is dark
    light = wave_intensity(probe)
    edge = light[:, 0].sum(1) + light[:, -1].sum(1) + light[:, :, 0].sum(1) + light[:, :, -1].sum(1)
    assert float(edge.median()) < 1e-3 and float(edge.max()) < 0.02
    again = random_probes(200, 96, torch.Generator().manual_seed(1))
    assert torch.equal(probe, again)
