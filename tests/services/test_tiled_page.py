"""Tiled's own page shows a derived run, from a server with PostgreSQL and Redis: pixels of a real browser."""

import shutil
from pathlib import Path

import event_model
import numpy as np
import pytest
from PIL import Image

from nfphasing_bluesky.core import Origin, ReconstructionSettings
from nfphasing_bluesky.documents.derived import DerivedRun
from nfphasing_bluesky.storage.catalogs import PROCESSED, close_catalog, open_catalog
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
from nfphasing_bluesky.storage.sink import CatalogSink
from tests.benchmarks.identity import SIDE, Identity
from tests.conftest import require
from tests.services.browser import page, postgresql, redis
from tests.storage.tiled_server import KEY, tiled_server
from tests.waiting import until

NEEDED = all(shutil.which(name) for name in ("chromium", "redis-server")) and any(
    Path("/usr/lib/postgresql").glob("*/bin/initdb")
)
CANVAS = """(() => { const c = document.querySelector("canvas"); if (!c) return null;
const r = c.getBoundingClientRect(), side = Math.min(r.width, r.height);
return {x: r.x + (r.width - side) / 2, y: r.y + (r.height - side) / 2, width: side, height: side}; })()"""
"""Where the image is: in the middle of its canvas, as large as it can be."""


class Spot:
    """A frame with a spot in the upper right corner and a square in the lower left."""

    def __init__(self, number: int) -> None:
        y, x = np.mgrid[:SIDE, :SIDE]
        spot = 100 * np.exp(-((y - 60.0) ** 2 + (x - 180.0) ** 2) / 900)
        self.intensity = (spot + 40.0 * (y > 200) * (x < 50)).astype(np.float32)
        self.origin = Origin("det", "raw", "primary", "det", number, 0.0)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def stored(client, folder: Path) -> str:
    """Uid of a derived run of three images."""
    identity, sink = Identity(), CatalogSink(client, folder / "backup", batch=1)
    start, settings = event_model.compose_run().start_doc, ReconstructionSettings(n_samples=2)
    run = DerivedRun(start, identity.info, settings, sink, DerivedFiles(folder / "derived"))
    run.add(identity([Spot(number) for number in (1, 2, 3)]))
    run.close()
    assert sink.close(240) and sink.problems == ()
    (uid,) = client[PROCESSED]
    return uid


@pytest.mark.slow
def test_a_derived_image_is_on_the_page_with_its_first_row_on_top(tmp_path, monkeypatch):
    require(NEEDED, "chromium, redis-server and postgresql are not installed")
    monkeypatch.setenv("TILED_API_KEY", KEY)
    with postgresql("catalog", "tables") as (catalog, tables), redis() as cache:
        said = {
            "NFPHASING_CATALOG_URI": catalog,
            "NFPHASING_TABLES_URI": tables,
            "TILED_STREAMING_CACHE_URI": cache,
        }
        with tiled_server(tmp_path, **said) as (address, _), page(tmp_path / "chromium") as shown:
            client = open_catalog(address)
            uid = stored(client, tmp_path)
            close_catalog(client)
            shown.call("Page.navigate", url=f"{address}/ui/browse/processed/{uid}/density/density_mean")
            expected = Spot(1).intensity

            def seen() -> np.ndarray | None:
                where = shown.says(CANVAS)
                if not where or where["width"] < SIDE:
                    return None
                picture = np.asarray(Image.fromarray(shown.picture(**where)).resize((SIDE, SIDE)))
                return picture if picture.std() else None

            until(lambda: (now := seen()) is not None and alike(now, expected) > 0.95)
            picture = seen()
            assert picture is not None, shown.says("document.body.innerText")
            assert alike(picture, expected) > 0.95
            for flipped in (picture[::-1], picture[:, ::-1], picture.T, picture[::-1, ::-1]):
                assert alike(flipped, expected) < 0.5
            assert "density_mean" in shown.says("document.body.innerText")
