"""The hour at 50 frames a second in a minute, with a catalog: what a worker holds does not grow."""

import pytest

from nfphasing_bluesky.streaming.client import ask
from nfphasing_bluesky.streaming.protocol import Counts, Verb
from tests.benchmarks import live


@pytest.mark.slow
def test_a_worker_holds_no_more_after_many_runs_than_after_some():
    with live.worker(stores=True) as (settings, pid, push):

        def status():
            return ask(Verb.HEALTH, settings.control, 30)

        def run(runs, frames):
            for _ in range(runs):
                images = live.Images()
                for message in images.head:
                    push.send(message)
                for number in range(1, frames + 1):
                    push.send(images.event(number))
                push.send(images.stop(frames))

        def settled(frames):
            now = status()
            done = now.counts == Counts(frames, frames, 0, 0) and now.statistics["open_runs"] == 0
            return done and live.all_stored(settings)

        run(15, 10)
        live.until(lambda: settled(150))
        before = live.held(pid)
        run(30, 10)
        live.until(lambda: settled(450))
        live.until(
            lambda: all(after <= was for after, was in zip(live.held(pid)[1:], before[1:], strict=True))
        )
        size = live.held(pid)[0]
    assert size < 1.05 * before[0]


def test_the_ledgers_of_a_hundred_interleaved_runs_add_up():
    (figure,) = live.ledgers(100)
    assert figure.value == 0 and "100 runs of ten frames" in figure.detail and "0 left open" in figure.detail
