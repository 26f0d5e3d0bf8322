"""A plan that reads, beside each frame, what was reconstructed of it."""

import bluesky.plan_stubs as bps
import numpy as np
import pytest
import tango
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from ophyd import Signal

from nfphasing_bluesky.clients import ophyd_async_device, ophyd_device
from nfphasing_bluesky.core import TransportError
from tests.services.conftest import DEVICE


class Curve(Signal):
    """An array with a unit."""

    units = ""

    def describe(self):
        return {
            self.name: {
                "source": "test",
                "dtype": "array",
                "shape": list(np.shape(self.get())),
                "units": self.units,
            }
        }


def connected(kind):
    """A device of one kind, ready for a plan."""
    if kind is ophyd_device:
        return kind.reconstruction_device(DEVICE, name="nf")
    from ophyd_async.core import init_devices

    with init_devices(timeout=240.0):
        nf = kind.reconstruction_device(DEVICE)
    return nf


@pytest.mark.parametrize("kind", [ophyd_device, ophyd_async_device], ids=["ophyd", "ophyd-async"])
def test_a_plan_waits_for_the_frame_that_it_took(server, worker, raw, until, kind):
    worker.start()
    _, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    engine, events, descriptors = RunEngine({}), [], []
    device = connected(kind)
    det, q, sigma = Curve(name="det"), Curve(name="det_q"), Curve(name="det_sigma")
    q.units = "1/angstrom"
    q.put(raw.Q)
    sigma.put(np.ones(raw.Q.size))
    rng = np.random.default_rng(0)

    def plan():
        yield from bps.open_run()
        for offset in (0, 50, -1000):
            det.put(raw.curve(rng) + offset)
            yield from bps.trigger_and_read([det, q, sigma])
            yield from bps.trigger_and_read([device], name="reconstruction")
        yield from bps.close_run()

    engine.subscribe(lambda name, doc: worker.send([(name, doc)]))
    engine.subscribe(device.follow)
    engine.subscribe(lambda name, doc: events.append(doc["data"]), "event")
    engine.subscribe(lambda name, doc: descriptors.append(doc), "descriptor")
    engine(plan())
    # ophyd-async puts a hyphen behind a device's name
    named = [{key.replace("nf-", "nf_"): value for key, value in data.items()} for data in events]
    seen = [data for data in named if "nf_seq_num" in data]
    assert [data["nf_seq_num"] for data in seen] == [1, 2, 3]
    assert [data["nf_verdict"] for data in seen] == ["VALID", "VALID", "FAILED"]
    assert [data["nf_offset_inv_cm"] for data in seen[:2]] == pytest.approx([100, 150], abs=3)
    assert all(0 < data["nf_offset_inv_cm_std"] < 1 for data in seen[:2])
    assert np.isnan(seen[2]["nf_offset_inv_cm"]) and "negative" in seen[2]["nf_reason"]
    assert [data["nf_density_mean"].shape for data in seen] == [(16,)] * 3
    (described,) = [doc for doc in descriptors if doc["name"] == "reconstruction"]
    key = described["data_keys"]["nf_density_mean" if kind is ophyd_device else "nf-density_mean"]
    assert (key["units"], key["shape"]) == ("1/cm", [16])
    assert "offset_inv_cm" in " ".join(described["hints"]["nf"]["fields"])
    device.follow("start", {"uid": "another"})
    with pytest.raises(FailedStatus) as raised:
        engine(bps.trigger(device, wait=True))
    assert "RE.subscribe" in str(raised.value.__cause__)


@pytest.mark.parametrize("kind", [ophyd_device, ophyd_async_device], ids=["ophyd", "ophyd-async"])
def test_a_device_that_is_not_there(tango_host, kind):
    with pytest.raises(TransportError, match="does not answer"):
        kind.reconstruction_device("nobody/is/here", name="nf")
