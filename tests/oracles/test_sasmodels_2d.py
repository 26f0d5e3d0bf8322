"""Oriented particles against sasmodels in two dimensions: within 1e-3 where I is above 1e-6 of its maximum.

sasmodels sums over equal steps from -n to n sigma. With n = cut (N - 1) / N its N points are the midpoints of
N cells of our cut, so its sum converges to our integral as the square of the step.
"""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics import saxs2d
from nfphasing_bluesky.physics.particles.oriented import (
    CUT,
    Gaussian,
    Orientation,
    equispaced_gaussian,
    gaussian_sizes,
    moment,
    schulz_sizes,
)

TOLERANCE = 1e-3
FAINT = 1e-6
SLDS = {"sld": 2.0, "sld_solvent": 1.0, "scale": 1.0, "background": 0.0}


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pixels(count: int, top: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """(N,) qx and qy drawn from a pattern of 161 x 161."""
    index = np.random.default_rng(3).choice(161**2, count, replace=False)
    axis = np.linspace(-top, top, 161)
    return axis[index % 161], axis[index // 161]


@pytest.fixture
def kernel(oracle):
    core, direct = oracle("sasmodels.core"), oracle("sasmodels.direct_model")

    def intensity(name: str, q: tuple[np.ndarray, np.ndarray], **parameters: float) -> np.ndarray:
        model = core.build_model(core.load_model_info(name), dtype="double!", platform="dll")
        return direct.call_kernel(model.make_kernel(list(q)), SLDS | parameters)

    return intensity


def midpoints(name: str, width: float, points: int) -> dict:
    """Of a Gaussian, cut as ours."""
    if not width:
        return {}
    spread = {f"{name}_pd": width, f"{name}_pd_n": points, f"{name}_pd_nsigma": CUT * (points - 1) / points}
    return spread | {f"{name}_pd_type": "gaussian"}


def orientation(view: tuple[float, ...], jitter: tuple[float, ...]) -> Orientation:
    angles = [torch.deg2rad(tensor(value)) for value in view]
    spreads = [Gaussian(torch.deg2rad(tensor(value))) for value in jitter]
    return Orientation(*angles, None, *spreads) if len(angles) == 2 else Orientation(*angles, *spreads)


def check(ours: torch.Tensor, theirs: np.ndarray, q: tuple[np.ndarray, np.ndarray], what: str) -> None:
    use = theirs > FAINT * theirs.max()
    error = np.abs(ours[0].numpy() - theirs)[use] / theirs[use]
    rows = sorted(zip(error, q[0][use], q[1][use], theirs[use], strict=True), reverse=True)[:30]
    table = "\n".join(f"  {e:9.2e}  qx={x:9.5f} qy={y:9.5f} {value:12.5e}" for e, x, y, value in rows)
    bins = np.log10(theirs[use] / theirs.max()).astype(int)
    decades = "\n".join(f"  1e{b:3d}  {error[bins == b].max():9.2e}" for b in np.unique(bins))
    assert error.max() < TOLERANCE, (
        f"{what}: largest relative error by decade of I / max\n{decades}\nworst\n{table}"
    )


JITTERS = [(0.0, 0.0), (3.0, 3.0), (10.0, 20.0), (30.0, 30.0), (30.0, 0.0), (0.0, 15.0)]
VIEWS = [(90.0, 30.0), (0.0, 0.0), (35.0, -70.0)]


@pytest.mark.parametrize("jitter", JITTERS)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("radius", "length"), [(45.0, 300.0), (120.0, 20.0)])
def test_cylinder(kernel, radius, length, view, jitter):
    q = pixels(250)
    spread = midpoints("theta", jitter[0], 201) | midpoints("phi", jitter[1], 201)
    theirs = kernel("cylinder", q, radius=radius, length=length, theta=view[0], phi=view[1], **spread)
    plane = saxs2d.plane(*map(torch.from_numpy, q), np.hypot(2 * radius, length))
    ours = saxs2d.cylinder(plane, tensor(radius), tensor(length), orientation(view, jitter))
    volume = np.pi * radius**2 * length
    check(1e-4 * volume * ours, theirs, q, f"cylinder {radius} x {length}, {view}, jitter {jitter}")


@pytest.mark.parametrize("jitter", JITTERS)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("polar", "equatorial"), [(150.0, 40.0), (20.0, 90.0)])
def test_ellipsoid(kernel, polar, equatorial, view, jitter):
    q = pixels(250)
    shape = {"radius_polar": polar, "radius_equatorial": equatorial, "theta": view[0], "phi": view[1]}
    spread = midpoints("theta", jitter[0], 201) | midpoints("phi", jitter[1], 201)
    theirs = kernel("ellipsoid", q, **shape, **spread)
    plane = saxs2d.plane(*map(torch.from_numpy, q), 2 * max(polar, equatorial))
    ours = saxs2d.ellipsoid(plane, tensor(polar), tensor(equatorial), orientation(view, jitter))
    volume = 4 / 3 * np.pi * polar * equatorial**2
    check(1e-4 * volume * ours, theirs, q, f"ellipsoid {polar}, {equatorial}, {view}, jitter {jitter}")


@pytest.mark.parametrize(
    "jitter", [(0.0, 0.0, 0.0), (10.0, 0.0, 20.0), (5.0, 10.0, 0.0), (0.0, 30.0, 30.0), (5.0, 5.0, 8.0)]
)
@pytest.mark.parametrize("view", [(90.0, 30.0, 0.0), (35.0, -70.0, 50.0)])
def test_parallelepiped(kernel, view, jitter):
    q, points = pixels(60), 61 if all(jitter) else 301
    spread = {}
    for name, width in zip(("theta", "phi", "psi"), jitter, strict=True):
        spread |= midpoints(name, width, points)
    angles = dict(zip(("theta", "phi", "psi"), view, strict=True))
    theirs = kernel("parallelepiped", q, length_a=30, length_b=60, length_c=150, **angles, **spread)
    plane = saxs2d.plane(*map(torch.from_numpy, q), 170)
    ours = saxs2d.parallelepiped(plane, tensor(30), tensor(60), tensor(150), orientation(view, jitter))
    check(1e-4 * 30 * 60 * 150 * ours, theirs, q, f"parallelepiped, {view}, jitter {jitter}")


@pytest.mark.parametrize("p", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("kind", ["gaussian", "schulz"])
def test_cylinder_with_sizes(kernel, kind, p):
    q, view, jitter = pixels(120), (60.0, 20.0), (0.0, 12.0)
    radius = midpoints("radius", p, 201)
    sizes = gaussian_sizes(tensor(p))
    if kind == "schulz":
        radius |= {"radius_pd_type": "schulz", "radius_pd_nsigma": 10.0, "radius_pd_n": 401}
        sizes = schulz_sizes(tensor(p))
    spread = midpoints("phi", 12.0, 101) | radius
    theirs = kernel("cylinder", q, radius=45.0, length=200.0, theta=view[0], phi=view[1], **spread)
    plane = saxs2d.plane(*map(torch.from_numpy, q), 800)
    ours = saxs2d.cylinder(plane, tensor(45), tensor(200), orientation(view, jitter), sizes)
    volume = np.pi * 45**2 * 200 * moment(sizes, 4) / moment(sizes, 2)
    check(1e-4 * volume * ours, theirs, q, f"cylinder, {kind} radius {p}")


def test_the_nodes_of_sasmodels_themselves(kernel):
    q = pixels(400)
    spread = {"theta_pd": 8.0, "theta_pd_n": 7, "phi_pd": 12.0, "phi_pd_n": 9, "phi_pd_nsigma": 2.5}
    theirs = kernel("cylinder", q, radius=45.0, length=300.0, theta=70.0, phi=30.0, **spread)
    theta = equispaced_gaussian(torch.deg2rad(tensor(8)), 7)
    phi = equispaced_gaussian(torch.deg2rad(tensor(12)), 9, 2.5)
    turned = Orientation(*torch.deg2rad(tensor(70, 30))[:, None], None, theta, phi)
    plane = saxs2d.plane(*map(torch.from_numpy, q), 314)
    ours = saxs2d.cylinder(plane, tensor(45), tensor(300), turned)
    check(1e-4 * np.pi * 45**2 * 300 * ours, theirs, q, "coarse mesh")
