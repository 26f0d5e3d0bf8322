"""The stitched object of a ptychographic scan as Tango images."""

import numpy as np
import pytest
import tango

from nfphasing_bluesky.clients.data_array import decode
from tests.known_object import SIDE, deviation, raw_scan


def test_the_object_grows_and_comes_as_images(scanning, worker, until):
    proxy = scanning
    infos = {info.name: info for info in proxy.attribute_list_query()}
    for name in ("object_phase", "object_std", "density_mean", "absorption_std"):
        assert infos[name].data_format == tango.AttrDataFormat.IMAGE, name
        assert infos[name].unit and infos[name].description and infos[name].label != name
    assert {"axis_y", "axis_x", "phase_range_rad"} <= set(infos) and "axis_part" not in infos
    assert proxy.read_attribute("object_phase").quality == tango.AttrQuality.ATTR_INVALID
    documents = list(raw_scan())
    worker.send(documents[:20])
    assert until(lambda: proxy.object_frames == 18)
    first = np.isfinite(proxy.object_phase).sum()
    worker.send(documents[20:])
    assert until(lambda: proxy.object_frames == 63)
    phase, std = proxy.object_phase, proxy.object_std
    assert phase.shape == std.shape == (60, 72) and np.isfinite(phase).sum() > first
    assert proxy.object_components == 1 and proxy.object_axis_unit == "m"
    assert proxy.object_axis_x[1] == pytest.approx(2e-8) and len(proxy.object_axis_y) == 60
    whole = np.full((64, 72), np.nan + 0j)
    whole[:60] = np.exp(1j * phase)
    bars = np.full((64, 72), np.nan)
    bars[:60] = std
    # the modulus of the truth is not 1 everywhere, and is not shown
    assert np.nanmedian(deviation(whole, bars)[12:48, 12:60]) < 4
    assert proxy.density_mean.shape == proxy.absorption_mean.shape == (SIDE, SIDE)


def test_new_states_come_as_events_of_the_encoded_image(scanning, worker, until):
    proxy = scanning
    proxy.image_rate_hz = 20.0
    heard = []
    number = proxy.subscribe_event("object_phase_encoded", tango.EventType.CHANGE_EVENT, heard.append)
    worker.send(raw_scan())

    def shapes():
        return {decode(e.attr_value.value).shape for e in heard if not e.err and e.attr_value.value}

    assert until(lambda: (60, 72) in shapes())
    proxy.unsubscribe_event(number)
    proxy.image_rate_hz = 2.0  # it is memorized, and the database is everybody's
