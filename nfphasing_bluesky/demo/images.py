"""An image detector that writes HDF5 as ophyd-async's do, and the holograms that the demo shows it."""

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from event_model import compose_stream_resource
from numpy.typing import NDArray
from ophyd import Component, Device, Signal
from ophyd.status import DeviceStatus

from nfphasing_bluesky.core import FrameError

DATASET = "/entry/data/data"


class ReplayImages(Device):
    """A detector whose every exposure is the next of some images, appended to an HDF5 file (SWMR).

    Documents refer to the file by StreamResource and StreamDatum, as those of ophyd-async's detectors do.

    Args:
        name: of the device; its data keys are `<name>_image` and `<name>_sample`.
        folder: where a file for each staging is written.
        images: (H, W) counts, shown over and over.
        samples: what each of them shows.

    Raises:
        FrameError: no images, of different shapes, or not a name for each.
    """

    sample = Component(Signal, value="")

    def __init__(
        self, name: str, folder: Path, images: Sequence[NDArray], samples: Sequence[str], **kwargs: Any
    ) -> None:
        shapes = {image.shape for image in images}
        if len(shapes) != 1 or len(samples) != len(images):
            raise FrameError(
                f"{name}: {len(images)} images of shapes {sorted(shapes)} and {len(samples)} names, expected "
                "at least one image, all of one shape, and a name for each"
            )
        super().__init__(name=name, **kwargs)
        self._folder, self._images, self._samples = folder, tuple(images), tuple(samples)
        self._file: h5py.File | None = None
        self._shots = self._told = 0
        self._resource: Any = None

    @property
    def image_key(self) -> str:
        """Data key of the images."""
        return f"{self.name}_image"

    def stage(self) -> list[object]:
        """Begin a file, with the first image."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self.name}-{uuid.uuid4().hex[:8]}.h5"
        shape, dtype = self._images[0].shape, self._images[0].dtype
        self._file = h5py.File(path, "w", libver="latest")
        self._file.create_dataset(
            DATASET, shape=(0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype=dtype
        )
        self._file.swmr_mode = True
        self._shots = self._told = 0
        self._resource = compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=path.resolve().as_uri().replace("file://", "file://localhost", 1),
            data_key=self.image_key,
            parameters={"dataset": DATASET, "chunk_shape": (1, *shape)},
        )
        return list(super().stage())

    def unstage(self) -> list[object]:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        return list(super().unstage())

    def trigger(self) -> DeviceStatus:
        """Write the next image."""
        status = DeviceStatus(self)
        if self._file is None:
            status.set_exception(FrameError(f"{self.name}: not staged; use a plan that stages its detectors"))
            return status
        place = self._shots % len(self._images)
        dataset = self._file[DATASET]
        dataset.resize(self._shots + 1, axis=0)
        dataset[self._shots] = self._images[place]
        dataset.flush()
        self._shots += 1
        self.sample.put(self._samples[place])
        status.set_finished()
        return status

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the sample's description and that of the images in the file."""
        image = {
            "source": "replayed images",
            "dtype": "array",
            "shape": [1, *self._images[0].shape],
            "dtype_numpy": self._images[0].dtype.str,
            "external": "STREAM:",
        }
        return {**super().describe(), self.image_key: image}

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        """Yield documents of the images written since the last call."""
        if self._resource is None or self._shots == self._told:
            return
        if self._told == 0:
            yield "stream_resource", self._resource.stream_resource_doc
        indices = {"start": self._told, "stop": self._shots}
        yield "stream_datum", self._resource.compose_stream_datum(indices)
        self._told = self._shots

    def get_index(self) -> int:
        """Images written."""
        return self._shots


def simulated_holograms(samples: Sequence[str], side: int, geometry: dict[str, float]) -> list[NDArray]:
    """Counts (side, side) of random objects of these kinds behind a coherent beam.

    Args:
        samples: kinds of `physics.objects`.
        side: pixels.
        geometry: `fresnel_number`, `beta_over_delta`, `photons`.
    """
    import torch

    from nfphasing_bluesky.physics.holography import hologram, homogeneous_exit_wave
    from nfphasing_bluesky.physics.objects import random_objects

    generator = torch.Generator().manual_seed(4)
    counts = []
    for kind in samples:
        made = random_objects(1, (side, side), generator=generator, kinds=[kind], isolated=1.0)
        wave = homogeneous_exit_wave(-0.8 * made.maps, geometry["beta_over_delta"])
        expected = geometry["photons"] * hologram(wave, geometry["fresnel_number"])
        counts.append(torch.poisson(expected, generator=generator)[0].numpy().astype(np.uint32))
    return counts
