"""Random objects to learn from: thickness maps like those of samples, and their phase and absorption."""

from nfphasing_bluesky.physics.objects.materials import SHARES, Absorbing, absorbing_maps
from nfphasing_bluesky.physics.objects.mixture import KINDS, Kind, RandomObjects, random_objects
from nfphasing_bluesky.physics.objects.optics import (
    free_phase_and_absorption,
    phase_and_absorption,
    two_materials,
)

__all__ = [
    "KINDS",
    "SHARES",
    "Absorbing",
    "Kind",
    "RandomObjects",
    "absorbing_maps",
    "free_phase_and_absorption",
    "phase_and_absorption",
    "random_objects",
    "two_materials",
]
