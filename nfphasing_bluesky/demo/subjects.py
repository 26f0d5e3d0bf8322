"""What the demo can show: for each modality a detector, a model, and what of it goes into the table."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nfphasing_bluesky.core import (
    Frame,
    ModelInfo,
    Posterior,
    ReconstructionSettings,
    SettingsError,
    StreamSettings,
)
from nfphasing_bluesky.demo.curves import measured_curves, repeated

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from ophyd import Device

FRAMES = 8
EXPOSURE_S = 0.05
HOLOGRAM = MappingProxyType(
    {
        "fresnel_number": 0.02,
        "beta_over_delta": 0.01,
        "wavelength_m": 1e-10,
        "pixel_size_m": 5e-8,
        "photons": 2e4,
    }
)
SCAN_POINTS = 48
HOLOGRAM_SIDE = SCAN_SIDE = 64
SAMPLES = ("Siemens stars", "cells", "aggregates", "letters")


@dataclass(frozen=True, eq=False)
class Subject:
    """One scan to be shown.

    Args:
        model: name of a shipped model.
        detector: device with a `<name>_sample` beside its frames.
        data_key: of the frames; None to find it.
        samples: what is in the beam, exposure by exposure.
        exposures: of the scan.
        headings: parameter -> heading of its column in the table.
        draw: figure of one frame.
        metadata: of the start document.
        settings: of the reconstruction.
        stream: settings of the frames' stream; for scans of one object, the probe.
        plan: of the detector; None counts the exposures.
        follows: parameter that is drawn over time, with the truth of each exposure; None for none.
        origin: where the frames come from, for people.
    """

    model: str
    detector: "Device"
    data_key: str | None
    samples: tuple[str, ...]
    exposures: int
    headings: Mapping[str, str]
    draw: "Callable[[Frame, Posterior, ModelInfo], Figure]"
    origin: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    settings: ReconstructionSettings = ReconstructionSettings()
    stream: StreamSettings = StreamSettings()
    plan: "Callable[[Device], Iterator[Any]] | None" = None
    follows: tuple[str, tuple[float, ...]] | None = None


def curves(files: Path, shared_data: Path | None) -> Subject:
    """Measured curves of proteins and microemulsions, replayed."""
    from nfphasing_bluesky.demo.detector import ReplayCurves
    from nfphasing_bluesky.views.figures import figure_1d

    found = measured_curves(shared_data)
    labels = tuple(frame.origin.label for frame in found)
    return Subject(
        model="saxs1d-pr",
        detector=ReplayCurves("saxs", found, exposure_s=EXPOSURE_S),
        data_key=None,
        samples=labels,
        exposures=repeated(found, FRAMES),
        headings={"rg_angstrom": "Rg, Å", "d_max_angstrom": "Dmax, Å"},
        draw=figure_1d,
        origin=f"{len(found)} measured curves: {', '.join(labels)}",
    )


def holograms(files: Path, shared_data: Path | None) -> Subject:
    """Simulated holograms, written by the detector to HDF5."""
    from nfphasing_bluesky.demo.images import ReplayImages, simulated_holograms
    from nfphasing_bluesky.views.images import figure_2d

    images = simulated_holograms(SAMPLES, HOLOGRAM_SIDE, dict(HOLOGRAM))
    detector = ReplayImages("camera", files, images, SAMPLES)
    return Subject(
        model="holography",
        detector=detector,
        data_key=detector.image_key,
        samples=SAMPLES,
        exposures=len(images),
        headings={"mean_phase_rad": "mean phase, rad", "phase_spread_rad": "spread, rad"},
        draw=figure_2d,
        origin=f"{len(images)} simulated holograms: {', '.join(SAMPLES)}",
        metadata={"nfphasing": {"geometry": dict(HOLOGRAM)}},
        settings=ReconstructionSettings(n_samples=64),
    )


def scan(files: Path, shared_data: Path | None) -> Subject:
    """A simulated grid scan of one object, written by the detector to HDF5."""
    from nfphasing_bluesky.demo import scan as scans
    from nfphasing_bluesky.demo.images import ReplayImages
    from nfphasing_bluesky.views.images import figure_2d

    made = scans.simulated_scan(SAMPLES[0], SCAN_SIDE, files)
    detector = ReplayImages("camera", files, made.counts, [SAMPLES[0]] * len(made.counts))
    geometry = {"object_pixel_m": scans.PIXEL_M, "wavelength_m": scans.WAVELENGTH_M}
    return Subject(
        model="ptychography",
        detector=detector,
        data_key=detector.image_key,
        samples=SAMPLES[:1],
        exposures=len(made.counts),
        headings={"phase_spread_rad": "phase spread, rad", "mean_transmission": "transmission"},
        draw=figure_2d,
        origin=f"{len(made.counts)} simulated frames of a grid over one object: {SAMPLES[0]}",
        metadata={"nfphasing": {"geometry": geometry}},
        settings=ReconstructionSettings(n_samples=16),
        stream=StreamSettings(probe=made.probe, object_every_s=0.5),
        plan=scans.grid,
    )


def patterns(files: Path, shared_data: Path | None) -> Subject:
    """Simulated 2-D small-angle patterns of oriented particles, written by the detector to HDF5."""
    from nfphasing_bluesky.demo.images import ReplayImages
    from nfphasing_bluesky.demo.patterns import GEOMETRY, PARTICLES, simulated_patterns
    from nfphasing_bluesky.views.images import figure_2d

    names = tuple(PARTICLES)
    images = simulated_patterns(PARTICLES)
    detector = ReplayImages("area", files, images, names)
    return Subject(
        model="saxs2d-oriented",
        detector=detector,
        data_key=detector.image_key,
        samples=names,
        exposures=len(images),
        headings={"phi_deg": "φ, °", "orientation_spread_deg": "spread, °"},
        draw=figure_2d,
        origin=f"{len(images)} simulated patterns: {', '.join(names)}",
        metadata={"nfphasing": {"geometry": dict(GEOMETRY)}},
        settings=ReconstructionSettings(n_samples=128),
    )


def grains(files: Path, shared_data: Path | None) -> Subject:
    """Simulated coherent patterns of single grains, written by the detector to HDF5; several answers each."""
    from nfphasing_bluesky.demo.grains import GEOMETRY, GRAINS, simulated_grains
    from nfphasing_bluesky.demo.images import ReplayImages
    from nfphasing_bluesky.views.images import figure_2d

    images = simulated_grains()
    detector = ReplayImages("area", files, images, GRAINS)
    return Subject(
        model="saxs2d-cdi",
        detector=detector,
        data_key=detector.image_key,
        samples=GRAINS,
        exposures=len(images),
        headings={"total_density": "Σu, px", "scale": "scale", "background": "background"},
        draw=figure_2d,
        origin=f"{len(images)} simulated coherent patterns of compact grains",
        metadata={"nfphasing": {"geometry": dict(GEOMETRY)}},
        settings=ReconstructionSettings(n_samples=128),
    )


def film(files: Path, shared_data: Path | None) -> Subject:
    """A simulated theta scan of a film: the curve grows point by point, and so does what is known of it."""
    import numpy as np
    from bluesky.plans import list_scan

    from nfphasing_bluesky.demo.reflectometer import Angle, SimulatedReflectometer, metadata
    from nfphasing_bluesky.views.figures import figure_1d

    angle = Angle(name="theta")
    detector = SimulatedReflectometer("counter", angle)
    places = np.linspace(0.1, 2.5, SCAN_POINTS)
    return Subject(
        model="reflectivity",
        detector=detector,
        data_key=None,
        samples=("film on silicon",),
        exposures=SCAN_POINTS,
        headings={
            "thickness_1_angstrom": "thickness, Å",
            "density_1_e_per_cubic_angstrom": "density, e/Å³",
            "roughness_1_angstrom": "roughness, Å",
        },
        draw=figure_1d,
        origin=f"a simulated scan of {SCAN_POINTS} angles over one film on silicon",
        metadata=metadata(detector, angle, places),
        plan=lambda counter: list_scan([counter], angle, places.tolist()),
    )


def growth(files: Path, shared_data: Path | None) -> Subject:
    """A simulated film that grows, a frame in grazing incidence each second, from two cuts of each."""
    from nfphasing_bluesky.views.cuts import figure_cuts

    return _growing(files, "gisaxs1d", figure_cuts)


def whole_growth(files: Path, shared_data: Path | None) -> Subject:
    """The same film, from whole frames."""
    from nfphasing_bluesky.views.surface import figure_surface

    return _growing(files, "gisaxs2d", figure_surface)


def _growing(files: Path, model: str, draw: "Callable[[Frame, Posterior, ModelInfo], Figure]") -> Subject:
    from nfphasing_bluesky.demo import islands
    from nfphasing_bluesky.demo.images import ReplayImages

    images = islands.simulated_frames()
    name = "gold islands"
    detector = ReplayImages("area", files, images, [name] * len(images))
    return Subject(
        model=model,
        detector=detector,
        data_key=detector.image_key,
        samples=(name,),
        exposures=len(images),
        headings={
            "height_angstrom": "height, Å",
            "radius_angstrom": "radius, Å",
            "distance_angstrom": "distance, Å",
        },
        draw=draw,
        origin=f"{len(images)} simulated frames, one each second, of {name} that grow on silicon",
        metadata={"nfphasing": {"geometry": dict(islands.GEOMETRY)}},
        settings=ReconstructionSettings(n_samples=128),
        plan=islands.each_second,
        follows=("height_angstrom", tuple(islands.height_angstrom(islands.seconds_of(len(images))))),
    )


SUBJECTS: Mapping[str, Callable[[Path, Path | None], Subject]] = MappingProxyType(
    {
        "saxs1d": curves,
        "saxs2d": patterns,
        "cdi": grains,
        "holography": holograms,
        "ptychography": scan,
        "reflectivity": film,
        "gisaxs": growth,
        "gisaxs2d": whole_growth,
    }
)


def subject(name: str, files: Path, shared_data: Path | None = None) -> Subject:
    """Make a subject by name.

    Args:
        name: a key of `SUBJECTS`.
        files: folder for what detectors write.
        shared_data: see `measured_curves`.

    Raises:
        SettingsError: there is no such subject.
    """
    if name not in SUBJECTS:
        raise SettingsError(f"no demo of {name!r}, expected one of {', '.join(SUBJECTS)}")
    return SUBJECTS[name](files, shared_data)
