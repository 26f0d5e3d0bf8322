"""Which modalities there are."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nfphasing_bluesky.core import ModelError
from nfphasing_bluesky.modalities.base import Modality
from nfphasing_bluesky.modalities.gisaxs1d import GisaxsCuts
from nfphasing_bluesky.modalities.gisaxs2d import GisaxsFrames
from nfphasing_bluesky.modalities.gisaxs2d_films import GisaxsFilms
from nfphasing_bluesky.modalities.holography import Holography
from nfphasing_bluesky.modalities.holography_free import FreeHolography
from nfphasing_bluesky.modalities.ptychography import Ptychography
from nfphasing_bluesky.modalities.reflectivity import Reflectivity
from nfphasing_bluesky.modalities.saxs1d_particles import SaxsParticles
from nfphasing_bluesky.modalities.saxs1d_pr import SaxsPairDistance
from nfphasing_bluesky.modalities.saxs2d_cdi import SaxsCoherent
from nfphasing_bluesky.modalities.saxs2d_oriented import SaxsOriented

REGISTRY: Mapping[str, type[Modality]] = {
    kind.name: kind
    for kind in (
        SaxsParticles,
        SaxsPairDistance,
        Holography,
        FreeHolography,
        Ptychography,
        SaxsOriented,
        SaxsCoherent,
        Reflectivity,
        GisaxsCuts,
        GisaxsFrames,
        GisaxsFilms,
    )
}


def modality(
    name: str, network: Mapping[str, Any] | None = None, state: Mapping[str, Tensor] | None = None
) -> Modality:
    """Make a modality by name.

    Args:
        name: a key of `REGISTRY`.
        network: settings of its network; defaults where left out.
        state: tensors of its prior, from a model's weights.

    Raises:
        ModelError: there is no such modality.
    """
    if name not in REGISTRY:
        raise ModelError(f"no modality {name!r}, expected one of {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name].build(network or {}, state or {})
