"""pty-chi on the frames of a benchmark's scan, with the same known probe, where it is installed.

It is no dependency: `pip install ptychi`. Without it the benchmark has its stored object alone.
"""

import importlib.util
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame

INSTALLED = importlib.util.find_spec("ptychi") is not None
BATCH = 64


class Epochs(NamedTuple):
    """What LSQML has after some epochs, and the seconds of all so far."""

    number: int
    image: NDArray[np.complexfloating]
    seconds: float


def lsqml(
    frames: Sequence[Frame], corners: NDArray, shape: tuple[int, int], stops: Sequence[int]
) -> Iterator[Epochs]:
    """Yield the object after each of some numbers of epochs (Odstrcil, Menzel and Guizar-Sicairos 2018).

    Args:
        frames: of one scan, the direct beam at [0, 0], with their probe in photons^(1/2).
        corners: (n, 2) places of pixels [0, 0] in the object.
        shape: (Y, X) of the object.
        stops: numbers of epochs, rising.
    """
    import ptychi.api as api
    from ptychi.api.task import PtychographyTask

    began = time.perf_counter()
    probe = frames[0].geometry.probe
    side = probe.shape[-1]
    # from the middle of the frame to that of the object
    centred = np.asarray(corners) + side // 2 - [n // 2 for n in shape]
    options = api.LSQMLOptions()
    options.reconstructor_options.num_epochs = stops[-1]
    options.reconstructor_options.batch_size = BATCH
    options.reconstructor_options.random_seed = 0
    options.reconstructor_options.default_device = api.Devices.CPU
    options.reconstructor_options.rescale_probe_intensity_in_first_epoch = False
    options.data_options.data = np.stack([frame.intensity for frame in frames]).clip(0)
    options.data_options.fft_shift = False
    options.object_options.initial_guess = torch.ones(1, *shape, dtype=torch.complex64)
    # its Fourier transform has no norm
    options.probe_options.initial_guess = torch.from_numpy(probe[None] / side).to(torch.complex64)
    options.probe_options.optimizable = False
    options.probe_position_options.position_y_px = centred[:, 0]
    options.probe_position_options.position_x_px = centred[:, 1]
    task = PtychographyTask(options)
    done = 0
    for stop in stops:
        task.run(stop - done)
        done = stop
        seconds = time.perf_counter() - began
        image = task.get_data_to_cpu("object", as_numpy=True)[0]
        began = time.perf_counter() - seconds
        yield Epochs(stop, image, seconds)
