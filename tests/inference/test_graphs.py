"""What is recorded on a GPU and launched as a whole; here the recording is a function called anew."""

import logging

import pytest
import torch

from nfphasing_bluesky.flows import CHANNELS, CurveNetwork, EncoderSettings, FlowSettings, build_flow
from nfphasing_bluesky.inference.graphs import CALLS_BEFORE, MOST, Replayed, replay


class Recorder:
    """Writes where it wrote before, from where it read before, as a CUDA graph does."""

    def __init__(self):
        self.recorded = self.launched = 0

    def __call__(self, function):
        own = function()
        self.recorded += 1

        def launch():
            self.launched += 1
            for kept, made in zip(own, function(), strict=True):
                kept.copy_(made)
            return own

        return launch


def called(x, pair, factor):
    a, b = pair
    return {"sum": x + factor * a}, b.square()


def inputs(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 3, generator=generator) for _ in range(3)]


@torch.no_grad()
def test_launches_give_what_the_function_gives():
    recorder = Recorder()
    replayed, kept = Replayed(called, recorder), []
    for seed in range(6):
        for rows in (2, 4):
            x, a, b = inputs(rows, seed)
            kept.append((replayed(x, (a, b), 2.0), called(x, (a, b), 2.0)))
    # all of them, also the first ones, which later launches must not have written over
    for (found, square), (expected, other) in kept:
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(square, other)
    assert recorder.recorded == 2
    # one of each to compare with, then one a call
    assert recorder.launched == 2 * (1 + 6 - CALLS_BEFORE)
    x, a, b = inputs(2, 0)
    torch.testing.assert_close(replayed(x, (a, b), 3.0), called(x, (a, b), 3.0))
    torch.testing.assert_close(replayed(x.double(), (a, b), 2.0), called(x.double(), (a, b), 2.0))


def test_gradients_and_shapes_that_never_come_again_call_the_function():
    recorder = Recorder()
    replayed = Replayed(torch.square, recorder)
    x = torch.ones(2, requires_grad=True)
    for _ in range(3):
        replayed(x).sum().backward()
    assert x.grad is not None and recorder.recorded == 0
    with torch.no_grad():
        for size in range(2 * MOST):
            for _ in range(CALLS_BEFORE):
                assert float(replayed(torch.full((size,), 3.0)).sum()) == 9 * size
    assert recorder.recorded == MOST


@torch.no_grad()
@pytest.mark.parametrize("wrong", ["values", "refused"])
def test_a_recording_that_is_wrong_or_refused_is_not_used(wrong, caplog):
    def record(function):
        if wrong == "refused":
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda: [value + 1 for value in function()]

    replayed = Replayed(torch.square, record)
    with caplog.at_level(logging.INFO):
        for value in range(5):
            assert float(replayed(torch.tensor(float(value)))) == value**2
    assert ("gives other values" if wrong == "values" else "not permitted") in caplog.text
    assert len(caplog.records) == 1


@torch.no_grad()
def test_networks_are_replayed_where_only_tensors_pass():
    torch.manual_seed(0)
    encoder = CurveNetwork(EncoderSettings(width=16, blocks=1, context=8, extras=1))
    flow = build_flow(3, 8, [0.0] * 3, [1.0] * 3, FlowSettings(layers=2, hidden=8))
    both = torch.nn.ModuleList([encoder, flow])
    channels = torch.randn(4, len(CHANNELS), encoder.settings.grid.points)
    extras, noise = torch.randn(4, 1), torch.randn(5, 4, 3)

    def drawn():
        return flow(encoder(channels, extras)).from_latent(noise)

    expected, recorder = drawn(), Recorder()
    replay(both, recorder)
    for _ in range(CALLS_BEFORE + 2):
        torch.testing.assert_close(drawn(), expected)
    assert recorder.recorded == 2 and recorder.launched == 2 * 3
