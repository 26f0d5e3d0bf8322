"""Films: the posterior that a user would get from refnx with bumps DREAM, and how long either takes."""

import time

import numpy as np

from nfphasing_bluesky.core import Failure, ReconstructionSettings
from nfphasing_bluesky.inference import Reconstructor
from tests.benchmarks.figures import Figure
from tests.oracles.dream_film import NAMES, dream_film
from tests.oracles.film import BACKGROUND, KNOWN, TRUE, film_frame
from tests.oracles.test_posterior_against_dream import c2st, independent

DRAWS, STEPS, THINNING = 600, 40, 40
CONVERGED = 10
"""Times the steps of a run of DREAM: two runs without are told apart in up to 61 %, which is no posterior."""

CURVES = (4, 9)
C2ST_TARGET = 0.6


def against_dream(curves: int) -> list[Figure]:
    """Classifier between polished draws and DREAM's, and the ratio of times, for films of `refnx`.

    Draws are weighted along the way from the mixture of flow and fits to the posterior and moved there. DREAM
    begins at the truth; its time is that for as many independent draws; both are of the processor. What draws
    are compared with is a run ten times as long. Two runs of DREAM of the ordinary length are told apart too:
    that is what the chains of a user leave of the figure.
    """
    out = []
    settings = ReconstructionSettings(n_samples=DRAWS, polish_steps=STEPS, sigma_floor=0.0)
    exact = Reconstructor.load("reflectivity", "cpu", settings)
    quick = Reconstructor.load("reflectivity", "cpu", settings.model_copy(update={"polish_steps": 0}))
    exact.warm_up()
    for seed in CURVES[:curves]:
        frame = film_frame(seed)
        began = time.process_time()
        (posterior,) = exact([frame])
        ours_s = time.process_time() - began
        began = time.process_time()
        (fast,) = quick([frame])
        fast_s = time.process_time() - began
        if isinstance(posterior, Failure) or isinstance(fast, Failure):
            raise RuntimeError(f"{frame.origin.label}: not reconstructed")
        start = TRUE | {"scale": 1.0, "beta": BACKGROUND}
        bounds = {n: b for n, b in KNOWN.items() if n != "layers"}
        q = frame.geometry.q_inv_angstrom
        runs, seconds = [], []
        for run, length in enumerate((1, 1, CONVERGED)):
            began = time.process_time()
            steps = length * THINNING * DRAWS
            runs.append(dream_film(q, frame.intensity, frame.sigma, bounds, start, steps, seed=run))
            seconds.append(time.process_time() - began)
        theirs, others, converged = (
            independent(np.stack([run[n] for n in NAMES], axis=1), DRAWS, seed=0) for run in runs
        )
        theirs_s = seconds[0]
        mine, first = (np.stack([p.parameters[n] for n in NAMES], axis=1) for p in (posterior, fast))
        how = f"film {seed}: {DRAWS} draws in {ours_s:.3g} s, DREAM {theirs_s:.3g} s, both of processor time"
        long = f"film {seed}: {DRAWS} draws, DREAM {CONVERGED} times as long, {seconds[-1]:.3g} s"
        name = f"reflectivity: film {seed}"
        out += [
            Figure(f"{name}, C2ST polished", c2st(mine, converged), "", C2ST_TARGET, "lower", long),
            Figure(f"{name}, C2ST polished, DREAM of ordinary length", c2st(mine, theirs), "", detail=how),
            Figure(f"{name}, C2ST of two runs of DREAM", c2st(others, theirs), ""),
            Figure(f"{name}, C2ST of DREAM, ordinary length and ten times it", c2st(theirs, converged), ""),
            Figure(f"{name}, C2ST not polished", c2st(first, converged), "", detail=f"in {fast_s:.3g} s"),
            Figure(f"{name}, faster than DREAM", theirs_s / ours_s, "times", detail=how),
            Figure(f"{name}, not polished", theirs_s / fast_s, "times", detail=f"in {fast_s:.3g} s"),
        ]
    return out
