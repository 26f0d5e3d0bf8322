"""Rounds of frames that are kept and come again."""

import torch

from nfphasing_bluesky.modalities import Anchors, Draws, modality
from nfphasing_bluesky.training import Trainer, TrainSettings
from nfphasing_bluesky.training.loop import _flipped
from nfphasing_bluesky.training.rounds import Labelled, RoundFrames, simulate_round

SETTINGS = {"batch": 4, "round_batches": 2, "reuse": 1, "rounds": 2, "steps": 9, "physics_weight": 0.0}


def frames_of(trainer: Trainer, step: int) -> torch.Tensor:
    trainer.step = step
    return trainer._labelled().draws.theta


def test_a_round_is_read_as_it_was_written(tmp_path):
    settings = TrainSettings(batch=6, round_batches=1)
    made = simulate_round(modality("reflectivity"), settings, torch.Generator().manual_seed(0))
    made.save(tmp_path / "rounds" / "00000.safetensors")
    read = RoundFrames.load(tmp_path / "rounds" / "00000.safetensors", torch.device("cpu"))
    for name in ("channels", "extra", "label", "theta"):
        assert torch.equal(getattr(made, name), getattr(read, name))
    assert list(made.anchors) == list(read.anchors)
    for k, (place, anchor) in made.anchors.items():
        assert torch.equal(place, read.anchors[k][0])
        assert torch.equal(anchor.location, read.anchors[k][1].location)
        assert torch.equal(anchor.factor, read.anchors[k][1].factor)


def test_rounds_come_again_in_another_order_with_a_folder_and_without(tmp_path):
    kept = Trainer(modality("gisaxs1d"), TrainSettings(**SETTINGS))
    kept.run(tmp_path, stop=lambda: kept.step >= 5)
    assert sorted(p.name for p in (tmp_path / "rounds").iterdir()) == [
        "00000.safetensors",
        "00001.safetensors",
    ]
    fresh = Trainer(modality("gisaxs1d"), TrainSettings(**SETTINGS))
    for step in (0, 3, 4, 5):
        assert torch.equal(frames_of(kept, step), frames_of(fresh, step))
    first = torch.cat([frames_of(fresh, step) for step in (0, 1)])
    again = torch.cat([frames_of(fresh, step) for step in (4, 5)])
    assert not torch.equal(first, again)
    there = set(
        map(tuple, simulate_round(fresh.modality, fresh.settings, fresh._generator(1, 0)).theta.tolist())
    )
    assert set(map(tuple, again.tolist())) <= there


def test_noise_disturbs_what_the_network_sees_and_not_the_truth():
    trainer = Trainer(modality("reflectivity"), TrainSettings(**SETTINGS, noise=0.1, warmup=0))
    trainer.step = 1
    plain = trainer._labelled()
    noisy = trainer._disturbed(plain)
    spread = (noisy.channels - plain.channels).std()
    assert 0.05 < float(spread) < 0.15
    assert torch.equal(noisy.draws.theta, plain.draws.theta)
    k = int(plain.draws.label[0])
    rows = (plain.draws.label == k).nonzero()[:, 0]
    assert torch.equal(noisy.anchors.get(k, rows).location, plain.anchors.get(k, rows).location)
    assert not torch.equal(noisy.anchors.get(k, rows).features, plain.anchors.get(k, rows).features)


def test_a_frame_and_its_truth_are_turned_alike():
    theta = torch.arange(2 * 2 * 16.0).reshape(2, -1)
    channels = theta.unflatten(1, (2, 4, 4)).repeat(1, 2, 1, 1)
    taken = Labelled(channels, torch.zeros(2, 1), Anchors(2), Draws(torch.zeros(2), theta, torch.arange(2)))
    seen = set()
    for seed in range(40):
        found = _flipped(taken, torch.Generator().manual_seed(seed))
        images = found.draws.theta.unflatten(1, (2, 4, 4))
        assert torch.equal(found.channels, images.repeat(1, 2, 1, 1))
        assert torch.equal(found.draws.theta.sort(1).values, theta)
        seen.add(tuple(images[0, 0].flatten().tolist()))
    assert len(seen) == 8
