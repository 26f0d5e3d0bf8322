"""Colours of all figures."""

from nfphasing_bluesky.core import Verdict

LIGHTS = {Verdict.VALID: "#2e7d32", Verdict.WARNING: "#c77700", Verdict.ALARM: "#c62828"}
DATA, FIT, DENSITY, GREY, MUTED = "#37474f", "#d1495b", "#1f5fa8", "#9e9e9e", "#616161"
