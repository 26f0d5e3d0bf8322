"""Constants of nature."""

ELECTRON_RADIUS_ANGSTROM = 2.8179403205e-5
"""Classical electron radius (CODATA 2022)."""
