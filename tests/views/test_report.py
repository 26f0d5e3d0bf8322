import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bluesky_tiled_plugins import TiledWriter

from nfphasing_bluesky.core import PROJECTED, StorageError, StreamSettings
from nfphasing_bluesky.models import locate, read_card
from nfphasing_bluesky.storage.catalogs import RAW
from nfphasing_bluesky.streaming.outputs import open_outputs
from nfphasing_bluesky.streaming.processor import StreamProcessor
from nfphasing_bluesky.views.report import page, write_report
from nfphasing_bluesky.views.report_data import Measured, read_report
from nfphasing_bluesky.views.report_figures import report_figures


def load(name):
    path = Path(__file__).parent.parent / "streaming" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"report_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """A catalog with a run of curves, two of them doubtful, and one of images whose raw run is elsewhere."""
    tiny, raw = load("tiny"), load("documents")
    outputs = open_outputs(tmp_path_factory.mktemp("report") / "catalog")
    settings = StreamSettings(data_key="det")
    writer, uids = TiledWriter(outputs.owned_catalog[RAW]), {}
    poison = {3: lambda v: v + 8 * (np.arange(v.size) % 2), 4: lambda v: -v}
    md = {"sample": "<b>silica & water</b>", "scan_id": 7}
    for name, info, stored in (("line", tiny.INFO, True), ("image", tiny.IMAGE_INFO, False)):
        processor = StreamProcessor(
            settings, outputs.arrays, outputs.sinks, reconstructor=tiny.LineReconstructor(info=info)
        )
        items = list(raw.raw_run(5, poison=poison, md=md))
        uids[name] = items[0][1]["uid"]
        # one after the other: two writers at once lock the catalog's SQLite
        for item in items if stored else ():
            writer(*item)
        for item in items:
            processor(*item)
    assert outputs.flush(30)
    yield outputs.owned_catalog, uids
    outputs.close()


def test_the_page_holds_the_run_and_asks_for_nothing_from_elsewhere(catalog):
    client, uids = catalog
    report = read_report(client, uids["line"][:8])
    text = page(report)
    assert "http://" not in text and "https://" not in text and "<script" not in text
    assert text.count("data:image/png;base64,") == 4
    for heading in ("What was measured", "u along the scan", "Parameters along", "Trust along", "Ledger"):
        assert heading in text
    assert "3 VALID" in text and "2 ALARM" in text and "of 5 frames" in text
    assert re.search(r"received</th><td>5<.*reconstructed</th><td>4<.*failed</th><td>1<", text)
    assert "not accounted for</th><td>0<" in text and re.search(r"never received[^<]*</th><td>0<", text)
    assert "frame 4" in text and "negative intensity" in text and "reduced chi-squared" in text
    assert "&lt;b&gt;silica &amp; water&lt;/b&gt;" in text and "<b>silica" not in text
    assert uids["line"] in text and "card of tiny-line is not on this machine" in text


def test_what_was_measured_and_its_units_are_read(catalog):
    client, uids = catalog
    report = read_report(client, uids["line"])
    assert report.measured.values.shape == (5, 20) and report.measured.q.shape == (5, 20)
    assert report.measured.q_unit == "1/angstrom"
    assert report.units == {"offset_inv_cm": "1/cm", "slope_inv_cm": "1/cm"}
    assert report.ledger["reconstructed"] == 4 and report.stop["exit_status"] == "success"


def test_images_and_a_raw_run_that_is_elsewhere(catalog, tmp_path):
    client, uids = catalog
    report = read_report(client, uids["image"])
    assert report.density["density_mean"].shape == (5, 6, 8) and report.measured is None
    path = write_report(report, tmp_path / "deep" / "report.html")
    text = path.read_text()
    assert "is not in this catalog" in text and text.count("data:image/png;base64,") == 3


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.images}


def test_a_pattern_and_what_is_behind_it_have_y_upwards(catalog):
    client, uids = catalog
    report = read_report(client, uids["image"])
    values = np.arange(2 * 6 * 8.0).reshape(2, 6, 8)
    report = replace(report, measured=Measured("det", values))
    kept = report.density["density_mean"].values[0]
    for quantity in (report.density.attrs["quantity"], PROJECTED):
        upwards = quantity == PROJECTED
        shown = dict(report_figures(replace(report, density=report.density.assign_attrs(quantity=quantity))))
        measured = panels(shown["What was measured"])["frame 1"]
        np.testing.assert_allclose(measured.images[0].get_array(), np.log10(1 + values[0]))
        assert measured.yaxis_inverted() != upwards  # row 0 is on top where the axis is inverted
        mean = panels(shown["u along the scan"])["frame 1, mean"]
        np.testing.assert_array_equal(mean.images[0].get_array(), kept[:: -1 if upwards else 1])
        _, _, bottom, top = mean.images[0].get_extent()
        assert (top > bottom) == upwards


def test_the_card_is_shown_and_another_one_is_named(catalog):
    client, uids = catalog
    card = read_card(locate("saxs1d-pr")).model_dump(mode="json")
    text = page(read_report(client, uids["line"]), card)
    assert "Certificate" in text and "Calibrated for" in text and "of other weights" in text


def test_a_run_that_is_not_there(catalog):
    client, _ = catalog
    with pytest.raises(StorageError, match="neither a derived run nor a raw one"):
        read_report(client, "0123456789")
