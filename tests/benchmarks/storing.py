"""How fast derived 1-D runs are written, from posteriors to a catalog that has them."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from nfphasing_bluesky.core import Posterior, StreamSettings
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.streaming.outputs import open_outputs
from nfphasing_bluesky.streaming.processor import StreamProcessor
from tests.benchmarks import subjects
from tests.benchmarks.figures import Figure

BATCH = 64
PATIENCE_S = 300.0


class Prepared:
    """Hands out one posterior that was made before, under each frame's own name: storing is what is timed."""

    def __init__(self, model: str) -> None:
        reconstructor = Reconstructor.load(model, "cpu")
        self.info, self.settings = reconstructor.info, reconstructor.settings
        (posterior,) = reconstructor([subjects.protein()])
        if not isinstance(posterior, Posterior):
            raise RuntimeError(f"the curve was not reconstructed: {posterior.reason}")
        self._posterior = posterior

    def __call__(self, frames):
        """One posterior a frame."""
        return [replace(self._posterior, origin=frame.origin) for frame in frames]


def derived_runs(n: int) -> list[Figure]:
    """Frames a second through a StreamProcessor into an embedded catalog, until it can be read back."""
    documents = list(subjects.scan([subjects.protein()] * n))
    settings = StreamSettings(data_key=subjects.DATA_KEY, batch_size=BATCH, deadline_s=60)
    with tempfile.TemporaryDirectory(prefix="nfphasing-bench-") as folder:
        outputs = open_outputs(Path(folder) / "catalog")
        try:
            processor = StreamProcessor(
                settings, outputs.arrays, outputs.sinks, reconstructor=Prepared("saxs1d-pr")
            )
            began = time.perf_counter()
            for name, document in documents:
                processor(name, document)
            if not outputs.flush(PATIENCE_S) or outputs.problem or processor.trouble:
                raise RuntimeError(f"not stored: {outputs.problem or processor.trouble or 'too slow'}")
            seconds = time.perf_counter() - began
            (run,) = reconstructions_of(outputs.owned_catalog, documents[0][1]["uid"])
            stored = run["density"].read()["density_mean"].shape[0]
        finally:
            outputs.close()
    if stored != n:
        raise RuntimeError(f"{stored} frames in the catalog, expected {n}")
    how = f"{n} frames of saxs1d-pr in batches of {BATCH}, arrays in HDF5, catalog SQLite"
    return [Figure("derived runs written", n / seconds, "frames/s", 300, "higher", how)]
