"""Settings of frames that grow: one measurement that the events of a run bring piece by piece."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from nfphasing_bluesky.core.settings_node import Settings

FIRST_POINTS = 12


class PointScan(Settings):
    """A curve measured point by point: each event of a run brings one, and has the curve so far.

    One of `q`, `theta` and `two_theta` is the data key of where the point is; angles want the wavelength. An
    intensity without `sigma` is taken for counts, before it is divided by anything. `planned` are the places
    of the whole scan: those that have yet to be measured are in the frame as masked points, so that the
    posterior predicts them.

    Args:
        intensity: data key, one number an event.
        q, theta, two_theta: data key of the momentum transfer, the incidence, or twice that.
        wavelength_angstrom: of the beam.
        units: of the place, where its data key has none or the wrong ones.
        sigma: data key of the standard deviation of the intensity.
        divide_by: data keys that the intensity is divided by: monitor, time, attenuators' transmission.
        dq_inv_angstrom, dq_over_q, dtheta_rad: standard deviations of the resolution; added in quadrature.
        planned: places of the whole scan, in the unit of their data key.
        first: points before the first frame.
    """

    intensity: str
    q: str | None = None
    theta: str | None = None
    two_theta: str | None = None
    wavelength_angstrom: Annotated[float, Field(gt=0)] | None = None
    units: str | None = None
    sigma: str | None = None
    divide_by: tuple[str, ...] = ()
    dq_inv_angstrom: Annotated[float, Field(ge=0)] = 0.0
    dq_over_q: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dtheta_rad: Annotated[float, Field(ge=0, lt=0.1)] = 0.0
    planned: tuple[float, ...] = ()
    first: Annotated[int, Field(ge=2, le=100_000)] = FIRST_POINTS

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        named = [name for name in ("q", "theta", "two_theta") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"{' and '.join(named) or 'nothing'} says where a point is, expected one of "
                "q, theta, two_theta"
            )
        if self.q is None and self.wavelength_angstrom is None:
            raise ValueError(f"{named[0]} without wavelength_angstrom; add it")
        return self

    @property
    def place(self) -> str:
        """Data key of where a point is."""
        return self.q or self.theta or self.two_theta or ""

    @property
    def keys(self) -> frozenset[str]:
        """Data keys that every event must have."""
        own = (self.intensity, self.place, *self.divide_by)
        return frozenset(own if self.sigma is None else (*own, self.sigma))
