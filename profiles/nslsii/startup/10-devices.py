"""A sample whose particles grow along its axis, the detector that sees them, and one that replays data."""

from ophyd.sim import SynAxis

from nfphasing_bluesky.demo import ReplayCurves, SimulatedSaxs, measured_curves

sample = SynAxis(name="sample", egu="mm")
saxs = SimulatedSaxs("saxs", sample, exposure_s=0.2)
replay = ReplayCurves("replay", measured_curves(), exposure_s=0.2)
