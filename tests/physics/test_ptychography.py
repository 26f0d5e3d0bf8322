"""Frames of a patch: analytic patterns, shifts, patches and their adjoint, projections, errors."""

import pytest
import torch

from nfphasing_bluesky.core import FrameError, GeometryError, SettingsError
from nfphasing_bluesky.physics import ptychography
from nfphasing_bluesky.physics.ptychography import FarField, NearField, expected_intensity

PROPAGATIONS = {
    "far": FarField(),
    "far, corner": FarField(centred=False),
    "near": NearField(0.05),
    "near, alone": NearField(torch.tensor([0.01, 0.3], dtype=torch.float64), boundary="constant"),
}


@pytest.fixture(params=PROPAGATIONS.values(), ids=PROPAGATIONS.keys())
def propagation(request):
    return request.param


def random_complex(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def round_probe(n: int, modes: int = 1, photons: float = 1e6) -> torch.Tensor:
    """(P, n, n) Gaussian beam with a curved front and, as further modes, its derivatives."""
    x = torch.arange(n, dtype=torch.float64) - n // 2
    r2 = x[:, None] ** 2 + x**2
    beam = torch.exp((-1 / (2 * (n / 8) ** 2) + 3j / n) * r2)
    probe = torch.stack([beam, 0.4 * beam * x / (n / 8), 0.3 * beam * x[:, None] / (n / 8)][:modes])
    return probe * (photons / probe.abs().square().sum()).sqrt()


def phase_object(n: int, seed: int = 0) -> torch.Tensor:
    """(n, n) smooth phase object with weak absorption."""
    f = torch.fft.fftfreq(n, dtype=torch.float64)
    noise = torch.fft.fft2(
        torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    smooth = torch.fft.ifft2(noise * torch.exp(-((f[:, None] ** 2 + f**2) * 9**2))).real
    return torch.exp((0.6j - 0.05) * smooth / smooth.std())


def test_plane_wave_and_shift_theorem():
    n, turns = 32, (5, -3)
    y, x = (torch.arange(n, dtype=torch.float64) * k / n for k in turns)
    patch = torch.exp(2j * torch.pi * (y[:, None] + x))[None]
    frame = expected_intensity(patch, torch.ones(1, n, n, dtype=torch.complex128), FarField())
    expected = torch.zeros(1, n, n, dtype=torch.float64)
    expected[0, n // 2 + turns[0], n // 2 + turns[1]] = n * n
    torch.testing.assert_close(frame, expected)


def test_centred_frames_are_shifted_ones_and_far_frames_do_not_see_a_shift():
    patch, probe = random_complex(2, 16, 20), random_complex(3, 16, 20, seed=1)
    frame = expected_intensity(patch, probe, FarField())
    corner = expected_intensity(patch, probe, FarField(centred=False))
    torch.testing.assert_close(frame, torch.fft.fftshift(corner, dim=(1, 2)))
    moved = expected_intensity(patch.roll((2, 5), (1, 2)), probe.roll((2, 5), (1, 2)), FarField())
    torch.testing.assert_close(moved, frame)


@pytest.mark.parametrize("name", ["far", "far, corner", "near"])
def test_energy_is_conserved(name):
    patch, probe = random_complex(2, 16, 20), random_complex(3, 16, 20, seed=1)
    frame = expected_intensity(patch, probe, PROPAGATIONS[name])
    light = (probe * patch[:, None]).abs().square().sum((1, 2, 3))
    torch.testing.assert_close(frame.sum((1, 2)), light)


def test_modes_add_intensities_and_frames_may_have_their_own_probe(propagation):
    patch, probe = random_complex(2, 16, 16), random_complex(3, 16, 16, seed=1)
    frame = expected_intensity(patch, probe, propagation)
    single = sum(expected_intensity(patch, probe[i : i + 1], propagation) for i in range(3))
    torch.testing.assert_close(frame, single)
    # a unitary mixture of modes is the same beam
    mixture = torch.linalg.qr(random_complex(3, 3, seed=2))[0]
    mixed = torch.einsum("pq,qhw->phw", mixture, probe)
    torch.testing.assert_close(expected_intensity(patch, mixed, propagation), frame)
    own = probe.expand(2, -1, -1, -1)
    torch.testing.assert_close(expected_intensity(patch, own, propagation), frame)


def test_backward_is_the_adjoint(propagation):
    a, b = random_complex(2, 3, 16, 16), random_complex(2, 3, 16, 16, seed=1)
    left = torch.vdot(propagation.forward(a).flatten(), b.flatten())
    right = torch.vdot(a.flatten(), propagation.backward(b).flatten())
    torch.testing.assert_close(left, right)


def test_near_and_far_field_meet():
    # through a lens of focal length z the far field is the near field at z: Fr = 1 / N maps pixel to pixel
    n = 64
    x = torch.arange(n, dtype=torch.float64) - n // 2
    lens = torch.exp(-1j * torch.pi * (x[:, None] ** 2 + x**2) / n)
    probe = round_probe(n)
    patch = phase_object(n)[None]
    near = expected_intensity(patch * lens, probe, NearField(1 / n))
    far = expected_intensity(patch, probe, FarField())
    assert (near - far).abs().max() < 1e-3 * far.max()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_dtype_is_the_patches(propagation, dtype):
    patch, probe = random_complex(2, 16, 16, dtype=dtype), random_complex(2, 16, 16, seed=1, dtype=dtype)
    frame = expected_intensity(patch, probe, propagation)
    assert frame.dtype == patch.real.dtype
    high = expected_intensity(patch.to(torch.complex128), probe.to(torch.complex128), propagation)
    torch.testing.assert_close(frame.double(), high, rtol=1e-4, atol=1e-4)


def test_gradients(propagation):
    patch = random_complex(2, 4, 4).requires_grad_()
    probe = random_complex(2, 4, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: expected_intensity(a, b, propagation), (patch, probe))
    counts = expected_intensity(random_complex(2, 4, 4, seed=3), probe, propagation).detach().round()

    def estimate(counts, probe):
        return ptychography.projection_updates(counts, probe, propagation, updates=2).patch

    assert torch.autograd.gradcheck(estimate, ((counts + 1).requires_grad_(), probe))


def test_positions():
    metres = torch.tensor([[0.0, 2e-6], [-1e-6, 0.5e-6]], dtype=torch.float64)
    found = ptychography.positions_px(metres, (1e-7, 2e-7), sign=-1, origin_px=(30.0, 40.0))
    torch.testing.assert_close(found, torch.tensor([[30.0, 30.0], [40.0, 37.5]], dtype=torch.float64))
    corner, fraction = ptychography.split_positions(torch.tensor([[1.5, -0.5], [2.4, 2.6]]))
    assert corner.tolist() == [[2, 0], [2, 3]]
    torch.testing.assert_close(fraction, torch.tensor([[-0.5, -0.5], [0.4, -0.4]]))


def test_fourier_shift_moves_a_gaussian():
    n = 32
    x = torch.arange(n, dtype=torch.float64)
    beam = lambda y0, x0: torch.exp(-((x[:, None] - y0) ** 2 + (x - x0) ** 2) / 8) + 0j  # noqa: E731
    shift = torch.tensor([[1.3, -0.6], [-4.0, 2.25]], dtype=torch.float64)
    found = ptychography.fourier_shift(beam(15, 17).expand(2, 3, n, n), shift)
    for i, (dy, dx) in enumerate(shift.tolist()):
        torch.testing.assert_close(found[i, 1], beam(15 + dy, 17 + dx), rtol=0, atol=1e-6)


def test_subpixel_patches_and_shifted_probes_are_one_far_field():
    image, probe = phase_object(128), round_probe(48)
    positions = torch.tensor([[20.3, 31.45], [40.0, 25.5], [70.7, 12.2]], dtype=torch.float64)
    _, fraction = ptychography.split_positions(positions)
    patches = ptychography.extract_patches(image, positions, (48, 48), subpixel=True)
    first = expected_intensity(patches, probe, FarField())
    whole = ptychography.extract_patches(image, positions, (48, 48))
    shifted = ptychography.fourier_shift(probe.expand(3, -1, -1, -1), fraction)
    second = expected_intensity(whole, shifted, FarField())
    scale = first.amax()
    assert (first - second).abs().max() < 2e-3 * scale
    neglected = expected_intensity(whole, probe, FarField())
    assert (first - neglected).abs().max() > 2e-2 * scale


def test_placing_is_the_adjoint_of_extracting_and_undoes_it():
    image = random_complex(40, 37)
    corner = torch.cartesian_prod(torch.arange(0, 25, 6), torch.arange(0, 22, 7))
    patches = ptychography.extract_patches(image, corner.double(), (16, 16))
    other = random_complex(*patches.shape, seed=5)
    placed, _ = ptychography.place_patches(other, corner, (40, 37))
    torch.testing.assert_close(
        torch.vdot(patches.flatten(), other.flatten()), torch.vdot(image.flatten(), placed.flatten())
    )
    weight = torch.rand(patches.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    total, light = ptychography.place_patches(patches, corner, (40, 37), weight)
    lit = light > 0
    assert lit.float().mean() > 0.8
    torch.testing.assert_close((total / light)[lit], image[lit])


@pytest.mark.parametrize("regularisation", [1.0, 0.5, 0.2])
@pytest.mark.parametrize(("name", "least"), [("far", 0.75), ("near", 0.4)])
def test_projections_lower_the_misfit_and_find_the_object(name, least, regularisation):
    propagation, probe = PROPAGATIONS[name], round_probe(48, modes=3)
    truth = torch.stack([phase_object(48, seed) for seed in range(4)])
    frame = expected_intensity(truth, probe, propagation)

    def estimate(updates: int):
        return ptychography.projection_updates(
            frame, probe, propagation, updates=updates, regularisation=regularisation
        )

    def misfit(patch):
        found = expected_intensity(patch, probe, propagation)
        return (found.sqrt() - frame.sqrt()).square().sum((1, 2)) / frame.sum((1, 2))

    errors = torch.stack([misfit(estimate(k).patch) for k in (0, 1, 5, 20)])
    assert (errors.diff(dim=0) < 0).all() and (errors[-1] < 0.05 * errors[0]).all()
    found, weight = estimate(20)
    lit = weight > 0.2
    correlations = torch.stack(
        [
            torch.corrcoef(torch.stack([(x[m] * x[m].sum().conj()).angle() for x in (a, b)]))[0, 1]
            for a, b, m in zip(found, truth, lit, strict=True)
        ]
    )
    # one frame alone says less in the near field, where a smooth beam hardly mixes places
    assert correlations.min() > least


def test_projections_keep_the_truth_and_ignore_masked_pixels():
    probe, truth = round_probe(32, 2), phase_object(32)[None]
    frame = expected_intensity(truth, probe, FarField())
    kept = ptychography.projection_updates(frame, probe, FarField(), updates=3, start=truth)
    torch.testing.assert_close(kept.patch, truth)
    assert float(kept.weight.max()) == 1 and float(kept.weight.min()) >= 0
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[10:14, 5:20] = True
    spoilt = frame.masked_fill(mask, 1e9)
    found = ptychography.projection_updates(spoilt, probe, FarField(), updates=3, start=truth, mask=mask)
    torch.testing.assert_close(found.patch, truth)


def test_errors_say_what_is_wrong():
    patch, probe = random_complex(2, 16, 16), random_complex(1, 16, 16)
    with pytest.raises(FrameError, match="cut patches of the probe's size"):
        expected_intensity(patch[:, 1:], probe, FarField())
    with pytest.raises(GeometryError, match="fresnel_number=-1"):
        expected_intensity(patch, probe, NearField(-1.0))
    with pytest.raises(SettingsError, match="'periodic' or 'constant'"):
        NearField(0.1, boundary="replicate")
    with pytest.raises(SettingsError, match="regularisation=0"):
        ptychography.projection_updates(patch.abs(), probe, FarField(), updates=1, regularisation=0)
    with pytest.raises(FrameError, match="True where a pixel must not be used"):
        ptychography.projection_updates(patch.abs(), probe, FarField(), updates=1, mask=torch.zeros(16, 16))
    with pytest.raises(FrameError, match=r"counts \(2, 16, 15\)"):
        ptychography.projection_updates(patch.abs()[..., 1:], probe, FarField(), updates=1)
    for corner in ([[-1.0, 0.0]], [[0.0, 5.0]]):
        with pytest.raises(GeometryError, match="do not lie within the object"):
            ptychography.extract_patches(torch.ones(20, 20) + 0j, torch.tensor(corner), (16, 16))
    with pytest.raises(GeometryError, match="expected 1 or -1"):
        ptychography.positions_px(torch.zeros(2, 2), (1e-8, 1e-8), sign=0, origin_px=(0, 0))
    with pytest.raises(GeometryError, match="leave out the direction of the beam"):
        ptychography.positions_px(torch.zeros(2, 3), (1e-8, 1e-8), origin_px=(0, 0))
