"""Plans and helpers of this session, and what to type."""

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.storage.queries import density_dataset, reconstructions_of

_runs = []
RE.subscribe(lambda name, doc: _runs.append(doc["uid"]), "start")


def growth(points=5):
    """Plan: follow the particles from small to large."""
    yield from scan([saxs], sample, 0, 1, points)


def wait_for_reconstructions(timeout_s=60.0):
    """Wait until everything scanned so far is reconstructed and stored; return the ledger."""
    if not reconstruct.wait(timeout_s):
        raise TimeoutError(
            f"not finished within {timeout_s:g} s: {reconstruct.ledger()}, {reconstruct.trouble}"
        )
    raw_sink.flush(timeout_s)
    return reconstruct.ledger()


def reconstruction(uid=None):
    """Return the densities and parameters of a raw run, the last one by default, as an xarray Dataset."""
    if uid is None and not _runs:
        raise StorageError("no run in this session yet; pass the uid of an earlier one")
    wanted = _runs[-1] if uid is None else uid
    derived = reconstructions_of(catalog, wanted)
    if not derived:
        raise StorageError(f"no reconstruction of {wanted}; {reconstruct.trouble or 'was it finished?'}")
    return density_dataset(derived[-1])


print(f"""
nfphasing: model {MODEL}, data in {DATA}
  RE(growth())                         scan the sample axis; or RE(scan([saxs], sample, 0, 1, 5))
  RE(count([replay], 5))               replay measured curves
  wait_for_reconstructions()           until all is stored; returns the ledger
  reconstruction()                     the last run's densities, an xarray Dataset
  raw, processed                       the catalogs (tiled clients)
  live                                 the plot; its picture is {DATA / "live.png"}
""")
