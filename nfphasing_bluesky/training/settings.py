"""Settings of a training run."""

from typing import Annotated

from pydantic import Field

from nfphasing_bluesky.core import Settings


class TrainSettings(Settings):
    """How a model is trained.

    Args:
        steps: optimiser steps in all; the learning rate follows them, not the clock.
        batch: simulated frames a step.
        reuse: how often a simulated frame is used.
        round_batches: batches that are simulated together and then gone through `reuse` times.
        rounds: after so many the first comes again, from the run's folder, where they are kept; 0 for never.
        noise: standard deviation of what is added to all that the network sees, so that frames it sees often
            are not learnt by heart; it falls to 0 with the learning rate.
        flips: turn and mirror images, of samples that may lie in any way, each time they come up; for
            modalities whose parameters are images on the pixels of the channels.
        companions: draws of the model to start from beside the object of each frame. The frame is then learnt
            with one or another of them all, chosen by their exact weights, instead of its own object alone;
            0 for that alone.
        learning_rate: peak, after `warmup` steps; a cosine brings it down to 1 % of that.
        clip: largest norm of the gradient.
        average: decay of the running average of the weights; the average is what is saved.
        physics_weight: lambda of the physics loss at full strength; 0 leaves it out.
        physics_ramp: share of the steps over which lambda rises from 0.
        physics_batch, physics_draws: unlabelled frames a step, and draws of each.
        physics_every: steps between two in which the physics loss is taken.
        inner: share of the prior's box that labelled frames come from; unlabelled ones use all of it.
        seed: of weights, simulation and noise.
        checkpoint_every: steps between checkpoints.
        start: model, by name or folder, whose weights are the first ones; empty for random ones.
        only: class whose flow alone is trained, on its frames and without the physics loss; all else stays as
            it was.
        bfloat16: run the linear layers in bfloat16 (log-determinants stay float32).
    """

    steps: Annotated[int, Field(ge=1)] = 10_000
    batch: Annotated[int, Field(ge=2)] = 1024
    reuse: Annotated[int, Field(ge=1)] = 4
    round_batches: Annotated[int, Field(ge=1)] = 16
    rounds: Annotated[int, Field(ge=0)] = 0
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    flips: bool = False
    companions: Annotated[int, Field(ge=0)] = 0
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 200
    clip: Annotated[float, Field(gt=0)] = 5.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    physics_weight: Annotated[float, Field(ge=0)] = 0.1
    physics_ramp: Annotated[float, Field(gt=0, le=1)] = 0.5
    physics_batch: Annotated[int, Field(ge=1)] = 32
    physics_draws: Annotated[int, Field(ge=1)] = 4
    physics_every: Annotated[int, Field(ge=1)] = 4
    inner: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    start: str = ""
    only: str = ""
    bfloat16: bool = False
