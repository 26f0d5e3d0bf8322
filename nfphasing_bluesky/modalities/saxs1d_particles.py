"""`saxs1d-particles`: dilute spheres, core-shell spheres, ellipsoids, cylinders; u = rho(r).

The free coordinates of each class are chosen so that its prior is uniform in a box: logarithms of
lengths and ratios, polydispersities and contrast ratios as they are. The classes are equally probable.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Axis, DensityInfo, Frame, Parameter, Posterior
from nfphasing_bluesky.flows import Anchor, AnchorMap, Box, FlowSettings
from nfphasing_bluesky.modalities import curves
from nfphasing_bluesky.modalities.anchors import (
    LIBRARY,
    STARTS,
    CurveLibrary,
    Target,
    anchor_features,
)
from nfphasing_bluesky.modalities.curves import CurveBatch, CurveSimulation
from nfphasing_bluesky.modalities.draws import Anchors, ClassSpec, Draws, Evaluated
from nfphasing_bluesky.modalities.fits import Wanted, fit_together
from nfphasing_bluesky.modalities.linear import BackgroundPrior, ScaleBackground, condition_draws
from nfphasing_bluesky.modalities.network import CurvePosterior, NetworkSettings
from nfphasing_bluesky.modalities.saxs1d import Saxs1D
from nfphasing_bluesky.modalities.smeared_curves import has_resolution, resolution_of, unpacked
from nfphasing_bluesky.physics import saxs
from nfphasing_bluesky.physics.particles import radial_density, tabulated_saxs, tabulated_slopes
from nfphasing_bluesky.physics.particles.core_shell_slopes import core_shell_slopes

LENGTHS = ("radius", "shell_thickness", "polar_radius", "equatorial_radius", "length", "rg")
PD = (0.01, 0.35)


def _box(name: str, **bounds: tuple[float, float]) -> ClassSpec:
    return ClassSpec(
        name,
        tuple(bounds),
        tuple(b[0] for b in bounds.values()),
        tuple(b[1] for b in bounds.values()),
    )


def _log(low: float, high: float) -> tuple[float, float]:
    return math.log(low), math.log(high)


CLASSES = (
    _box("sphere", log_radius=_log(10, 400), polydispersity=PD),
    _box(
        "core_shell_sphere",
        log_radius=_log(10, 300),
        log_shell_thickness=_log(5, 100),
        contrast_ratio=(-1.5, 2.5),
        polydispersity=PD,
        shell_polydispersity=(0.0, 0.3),
    ),
    _box("ellipsoid", log_mean_radius=_log(10, 250), log_aspect=_log(0.15, 6.5), polydispersity=PD),
    _box("cylinder", log_radius=_log(10, 150), log_length=_log(15, 1000), polydispersity=PD),
)

CORE_SHELL = [c.name for c in CLASSES].index("core_shell_sphere")

# The misfit of core-shell spheres has many minima.
LARGE_LIBRARIES = {"core_shell_sphere": 16_384}
MANY_STARTS = {"core_shell_sphere": 4}
OWN_FLOWS = {
    "core_shell_sphere": FlowSettings(
        layers=6, hidden=128, head_hidden=128, head_blocks=1, anchor=AnchorMap.BOUNDED
    )
}

PARAMETERS = (
    Parameter("rg_angstrom", "angstrom", "radius of gyration"),
    Parameter("radius_angstrom", "angstrom", "radius; of the core for core-shell spheres"),
    Parameter("shell_thickness_angstrom", "angstrom", "shell thickness"),
    Parameter("polar_radius_angstrom", "angstrom", "radius along the ellipsoid's axis"),
    Parameter("equatorial_radius_angstrom", "angstrom", "radius across the ellipsoid's axis"),
    Parameter("length_angstrom", "angstrom", "cylinder length"),
    Parameter("polydispersity", "", "relative standard deviation of the size"),
    Parameter("shell_polydispersity", "", "relative standard deviation of the shell thickness"),
    Parameter("contrast_ratio", "", "shell over core contrast"),
    Parameter("i0", "", "forward intensity, in the frame's units"),
    Parameter("background", "", "flat background, in the frame's units"),
)

RELATIVE = "relative to core"
ABSOLUTE = "e/angstrom^3"


def _core_shell(q: Tensor, t: Tensor) -> Tensor:
    core, shell = t[:, 0].exp(), t[:, 1].exp()
    raw = saxs.core_shell_sphere_unnormalised(q, core, shell, t[:, 2], t[:, 3], t[:, 4])
    return raw * _total_contrast(core, shell, t[:, 2]).reciprocal().square()[:, None]


def _total_contrast(core: Tensor, shell: Tensor, ratio: Tensor) -> Tensor:
    """Sum of |contrast| V over core and shell, in units of the outer volume: never zero."""
    inner = (core / (core + shell)) ** 3
    return inner + ratio.abs() * (1 - inner)


def _radii(t: Tensor) -> tuple[Tensor, Tensor]:
    """Polar and equatorial radius from log of (polar equatorial^2)^(1/3) and log(polar/equatorial)."""
    return (t[:, 0] + t[:, 1] * (2 / 3)).exp(), (t[:, 0] - t[:, 1] / 3).exp()


def _forms(physics: ModuleType) -> tuple[Callable[[Tensor, Tensor], Tensor], ...]:
    """P(q) of every class from (N, Q) q and (N, D) theta."""
    return (
        lambda q, t: physics.sphere(q, t[:, 0].exp(), t[:, 1]),
        _core_shell,
        lambda q, t: physics.ellipsoid(q, *_radii(t), t[:, 2]),
        lambda q, t: physics.cylinder(q, t[:, 0].exp(), t[:, 1].exp(), t[:, 2]),
    )


SIMULATED, FORWARD = _forms(saxs), _forms(tabulated_saxs)

SLOPES: tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], ...] = (
    lambda q, t: tabulated_slopes.sphere_slopes(q, t[:, 0].exp(), t[:, 1]),
    lambda q, t: core_shell_slopes(q, t[:, 0].exp(), t[:, 1].exp(), *t[:, 2:].unbind(1)),
    lambda q, t: tabulated_slopes.ellipsoid_slopes(q, *_radii(t), t[:, 2]),
    lambda q, t: tabulated_slopes.cylinder_slopes(q, t[:, 0].exp(), t[:, 1].exp(), t[:, 2]),
)
"""P(q) and its (N, D, Q) derivatives by theta of every class, from (N, Q) q and (N, D) theta."""


_LIBRARIES: dict[str, dict[int, CurveLibrary]] = {}
"""Libraries of all instances, by the digest of their grid: ellipsoids and cylinders take seconds."""


class SaxsParticles(Saxs1D):
    """The modality. It holds its settings, and the libraries of its fits once they were needed."""

    name = "saxs1d-particles"
    parameters = PARAMETERS
    simulation = CurveSimulation(q_min=(0.002, 0.02), q_max=(0.1, 0.6), points=(64, 400), counts=(1.0, 1e7))
    background = BackgroundPrior(1e-7, 0.1)
    noise_columns = 3
    proposals = 2

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        self.settings = settings or NetworkSettings(own=OWN_FLOWS)
        self._libraries: dict[int, CurveLibrary] = _LIBRARIES.setdefault(
            self.settings.encoder.grid.digest(), {}
        )
        self._boxes: dict[tuple[int, torch.device], Box] = {}
        self.classes = CLASSES
        self.axis = torch.linspace(0.0, 500.0, 251)
        axis = Axis("r", self.axis.double().numpy(), "angstrom")
        self.density_info = DensityInfo("rho(r)", RELATIVE, (axis,))

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "SaxsParticles":
        """Make it from what a card and weights hold."""
        return cls(NetworkSettings(**network))

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Equal shares of the classes (in random order), uniform in each class's box."""
        device = generator.device
        label = torch.arange(n, device=device) % len(CLASSES)
        label = label[torch.randperm(n, generator=generator, device=device)]
        u = 0.5 + inner * (torch.rand(n, self.width, generator=generator, device=device) - 0.5)
        lower, upper = self.bounds(label)
        return Draws(label, lower + u * (upper - lower), torch.arange(n, device=device))

    def log_prior(self, draws: Draws) -> Tensor:
        """-log K - log volume of the box; minus infinity outside."""
        lower, upper = self.bounds(draws.label)
        volume = torch.where(upper > lower, (upper - lower).clamp_min(1e-30).log(), 0.0).sum(-1)
        return torch.where(self.inside(draws), -volume - math.log(len(CLASSES)), -torch.inf)

    def curve(self, draws: Draws, q: Tensor) -> Tensor:
        """(N, Q) P(q) on a given (N, Q) grid."""
        return _curve(FORWARD, draws, q)

    def hidden(self, draws: Draws, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw scale and relative background of objects to be simulated."""
        n = len(draws)
        beta = self.background.sample(n, generator)
        scale = curves.log_uniform((1e-3, 1e3), n, generator)
        return {"scale": scale, "beta": beta, "contrast": torch.ones_like(scale)}

    def pattern(self, draws: Draws, hidden: Mapping[str, Tensor], q: Tensor) -> Tensor:
        """(N, Q) P(q), by the closed forms: what is fitted is not what was simulated."""
        return _curve(SIMULATED, draws, q)

    def batch_key(self, frame: Frame) -> str:
        """Curves are padded and share a batch, but for those with a resolution: its matrix is large."""
        return f"resolution {id(frame)}" if has_resolution(frame) else ""

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> CurveBatch:
        """Frames to one batch, with their resolution. Raises as `Saxs1D.collate` does."""
        batch = super().collate(frames, sigma_floor)
        return replace(batch, resolution=resolution_of(frames, batch.q.shape[1]))

    def doubt(self, frame: Frame, posterior: Posterior, sigma_floor: float) -> str:
        """Nothing where the resolution is in the model, else what it would have changed."""
        return "" if has_resolution(frame) else super().doubt(frame, posterior, sigma_floor)

    def network(self) -> nn.Module:
        """Untrained encoder, class head and one flow per class."""
        features = [anchor_features(len(c.free), MANY_STARTS.get(c.name, 0)) for c in CLASSES]
        return CurvePosterior(self.classes, self.settings, features)

    def box(self, k: int, device: torch.device | str = "cpu") -> Box:
        """Box of the free parameters of class k, float64."""
        key = (k, torch.device(device))
        if key not in self._boxes:
            spec = self.classes[k]
            box = Box(torch.tensor(spec.lower), torch.tensor(spec.upper))
            self._boxes[key] = box.to(device, torch.float64)
        return self._boxes[key]

    def anchors(self, batch: CurveBatch) -> Anchors:
        """Where a fit of each class puts the posterior of each frame, found when asked for."""

        def find(wanted: Mapping[int, Tensor]) -> dict[int, Anchor]:
            for k in wanted:
                if k not in self._libraries:
                    self._libraries[k] = self._library(k)
            device = batch.q.device
            each = [Wanted(self._target(k, device), self._libraries[k], rows) for k, rows in wanted.items()]
            # thousands of operations on small tensors, and none that a gradient is asked of
            with torch.inference_mode():
                return dict(zip(wanted, fit_together(each, batch), strict=True))

        return Anchors(len(batch), together=find)

    def _target(self, k: int, device: torch.device | str = "cpu") -> Target:
        def curve(theta: Tensor, q: Tensor) -> Tensor:
            return FORWARD[k](q.to(theta), theta)

        def slopes(theta: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
            if q.ndim == 3:
                at, matrix = unpacked(q)
                curves, by_theta = slopes(theta, at)
                seen = torch.cat([curves[:, None], by_theta], 1) @ matrix.to(curves).mT
                return seen[:, 0], seen[:, 1:]
            return SLOPES[k](q.to(theta), theta)

        return Target(
            box=self.box(k, device),
            curve=curve,
            slopes=slopes,
            background=self.background.moments(),
            starts=MANY_STARTS.get(CLASSES[k].name, STARTS),
            rivals=CLASSES[k].name in MANY_STARTS,
        )

    def _library(self, k: int) -> CurveLibrary:
        """Prior objects of class k, always the same ones."""
        generator = torch.Generator().manual_seed(k)
        size = LARGE_LIBRARIES.get(CLASSES[k].name, LIBRARY)
        theta = self.sample_prior(size * len(self.classes), generator)
        mine = theta.theta[theta.label == k, : len(self.classes[k].free)].double()
        y, _ = self.box(k)(mine, mine)
        return CurveLibrary(y.clamp(-4, 4).float(), self._target(k), self.settings.encoder.grid)

    def forward(self, draws: Draws, batch: CurveBatch) -> Tensor:
        """(N, Q) P(q) of each draw on its frame's q."""
        resolution = batch.resolution
        if resolution is None:
            return self.curve(draws, batch.q[draws.frame])
        return resolution.seen(self.curve(draws, resolution.q[draws.frame]), draws.frame)

    def log_likelihood(self, draws: Draws, batch: CurveBatch) -> Tensor:
        """(N,) log p(I | theta), scale and background integrated out; differentiable in theta."""
        return self._condition(draws, batch)[0].log_evidence

    def evaluate(self, draws: Draws, batch: CurveBatch, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model; scale and background by their exact conditional."""
        linear, shape = self._condition(draws, batch)
        scale, beta = linear.draw(noise)
        normal = torch.zeros_like(scale) if noise is None else noise[:, 2].to(scale)
        factor = curves.size_factor(batch.q_relative_error[draws.frame].to(scale), normal)
        predicted = (scale[:, None] * (shape + beta[:, None])).to(shape.dtype)
        contrast = batch.contrast[draws.frame]
        known = torch.where(contrast.isfinite(), contrast, 1.0)
        nuisance = {"scale": scale, "beta": beta, "q_scale": factor, "contrast": known}
        return Evaluated(linear.log_evidence, nuisance, predicted)

    def _condition(self, draws: Draws, batch: CurveBatch) -> tuple[ScaleBackground, Tensor]:
        shape = self.forward(draws, batch)
        return condition_draws(shape, draws, batch, self.background), shape

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, R) spherical average rho(r) of the mean particle, in the units of `density_of`."""
        stretch = nuisance["q_scale"][:, None]
        r = self.axis.to(draws.theta)[None] / stretch
        out = torch.zeros_like(r)
        for k in range(len(CLASSES)):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                out[chosen] = _profile(k, r[chosen], draws.theta[chosen]).to(out.dtype)
        return out * nuisance["contrast"][:, None]

    def density_of(self, batch: CurveBatch, index: int) -> DensityInfo:
        """Electrons per cubic angstrom when the contrast is known, else relative to the core."""
        known = bool(batch.contrast[index].isfinite())
        return replace(self.density_info, units=ABSOLUTE) if known else self.density_info

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of every reported parameter; NaN where a class lacks it."""
        missing = torch.full_like(draws.theta[:, 0], torch.nan)
        out = {p.name: missing.clone() for p in PARAMETERS}
        for k in range(len(CLASSES)):
            chosen = draws.label == k
            if not chosen.any():
                continue
            for name, value in _report(k, draws.theta[chosen]).items():
                key = f"{name}_angstrom" if name in LENGTHS else name
                scale = nuisance["q_scale"][chosen] if name in LENGTHS else 1.0
                out[key][chosen] = (value * scale).to(missing.dtype)
        out["i0"] = (nuisance["scale"] * self._forward_intensity(draws)).to(missing.dtype)
        out["background"] = (nuisance["scale"] * nuisance["beta"]).to(missing.dtype)
        return out

    def _forward_intensity(self, draws: Draws) -> Tensor:
        """(N,) P(0): one, but for core-shell spheres, which may cancel."""
        out = torch.ones_like(draws.theta[:, 0])
        mine = (draws.label == CORE_SHELL).nonzero()[:, 0]
        if mine.numel():
            core, shell, ratio = draws.theta[mine, 0].exp(), draws.theta[mine, 1].exp(), draws.theta[mine, 2]
            raw = saxs.core_shell_sphere_forward(core, shell, ratio, *draws.theta[mine, 3:5].unbind(1))
            out[mine] = raw * _total_contrast(core, shell, ratio).reciprocal().square()
        return out


def _curve(forms: Sequence[Callable[[Tensor, Tensor], Tensor]], draws: Draws, q: Tensor) -> Tensor:
    out = torch.zeros_like(q)
    for k, form in enumerate(forms):
        chosen = (draws.label == k).nonzero()[:, 0]
        if len(chosen) == len(draws):
            return form(q.to(draws.theta), draws.theta[:, : len(CLASSES[k].free)]).to(out.dtype)
        if chosen.numel():
            theta = draws.theta[chosen, : len(CLASSES[k].free)]
            out = out.index_copy(0, chosen, form(q[chosen].to(theta), theta).to(out.dtype))
    return out


def _profile(k: int, r: Tensor, t: Tensor) -> Tensor:
    if k == 0:
        return radial_density.sphere(r, t[:, 0].exp())
    if k == 1:
        return radial_density.core_shell_sphere(r, t[:, 0].exp(), t[:, 1].exp(), t[:, 2])
    if k == 2:
        return radial_density.ellipsoid(r, *_radii(t))
    return radial_density.cylinder(r, t[:, 0].exp(), t[:, 1].exp())


def _report(k: int, t: Tensor) -> dict[str, Tensor]:
    if k == 0:
        radius, pd = t[:, 0].exp(), t[:, 1]
        return {"radius": radius, "polydispersity": pd, "rg": radial_density.sphere_rg(radius, pd)}
    if k == 1:
        core, shell = t[:, 0].exp(), t[:, 1].exp()
        return {
            "radius": core,
            "shell_thickness": shell,
            "contrast_ratio": t[:, 2],
            "polydispersity": t[:, 3],
            "shell_polydispersity": t[:, 4],
        }
    if k == 2:
        polar, equatorial = _radii(t)
        rg = radial_density.ellipsoid_rg(polar, equatorial, t[:, 2])
        return {"polar_radius": polar, "equatorial_radius": equatorial, "polydispersity": t[:, 2], "rg": rg}
    radius, length = t[:, 0].exp(), t[:, 1].exp()
    rg = radial_density.cylinder_rg(radius, length, t[:, 2])
    return {"radius": radius, "length": length, "polydispersity": t[:, 2], "rg": rg}
