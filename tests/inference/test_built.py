"""Card and weights that don't fit each other, or another version's, are a ModelError and never numbers."""

from dataclasses import replace

import pytest
import torch

from nfphasing_bluesky.core import ModelError
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.models import load


def without(prefix):
    return lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(prefix)}


def changed(name, change):
    return lambda tensors: tensors | {name: change(tensors[name])}


BIAS = "network.mixture.flows.0.transform.transforms.0.columns"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("prior."), "prior has nothing, expected"),
        (without("trust."), "distance from the training set"),
        (without("trust.whitening"), "whitening"),
        (without(BIAS), BIAS.removeprefix("network.")),
        (lambda tensors: tensors | {"network.more": torch.ones(2)}, "more"),
        (changed("network.encoder.blocks.0.first.weight", lambda t: t[1:]), "size mismatch"),
        (changed("network.encoder.blocks.0.first.weight", lambda t: t * torch.nan), "holds NaN"),
    ],
)
def test_weights_that_do_not_fit(change, words):
    stored = load("saxs1d-pr")
    with pytest.raises(ModelError, match="card and weights don't fit") as refused:
        Reconstructor.from_stored(replace(stored, tensors=change(stored.tensors)), "cpu")
    assert words in str(refused.value)
    assert str(stored.folder) in str(refused.value) and "train it again" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": {"bogus": 1}}, "bogus"),
        ({"modality": "saxs1d-particles"}, "saxs1d-pr"),
        ({"ranges": {"q_mim_inv_angstrom": (0.0, 1.0)}}, "q_mim_inv_angstrom"),
        ({"modality": "telepathy"}, "no modality 'telepathy'"),
    ],
)
def test_a_card_of_another_model(change, words):
    stored = load("saxs1d-pr")
    with pytest.raises(ModelError) as refused:
        Reconstructor.from_stored(replace(stored, card=stored.card.model_copy(update=change)), "cpu")
    assert words in str(refused.value)
