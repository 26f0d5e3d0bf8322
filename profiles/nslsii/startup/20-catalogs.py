"""The embedded catalog: raw runs are stored as they come in; derived ones appear beside them."""

from nfphasing_bluesky.storage.catalogs import RAW, close_catalog, embedded_catalog
from nfphasing_bluesky.storage.sink import CatalogSink

catalog = embedded_catalog(DATA / "catalog")
raw, processed = catalog["raw"], catalog["processed"]
raw_sink = CatalogSink(catalog, DATA / "backup", container=RAW, normalize=True)
RE.subscribe(raw_sink)

atexit.register(close_catalog, catalog)
atexit.register(raw_sink.close)
