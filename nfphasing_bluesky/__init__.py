"""X-ray scattering reconstruction with error bars, live, at the beamline."""

__version__ = "0.1.0"
