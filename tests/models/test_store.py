"""A model folder is loaded whole and unaltered, or not at all."""

import json
import pickle
import shutil

import pytest
import torch

from nfphasing_bluesky.core import ModelError, ModelIntegrityError
from nfphasing_bluesky.models import Card, load, locate, save, shipped

MiB = 2**20


@pytest.fixture
def folder(tmp_path):
    """A small sound model folder."""
    card = Card(
        name="tiny", modality="saxs1d-particles", code_version="0", sha256="0" * 64, network={}, ranges={}
    )
    save(tmp_path / "tiny", card, {"network.w": torch.arange(6.0).view(2, 3), "trust.mean": torch.zeros(2)})
    return tmp_path / "tiny"


def test_what_was_saved_is_loaded(folder):
    stored = load(folder)
    assert torch.equal(stored.part("network")["w"], torch.arange(6.0).view(2, 3))
    assert stored.card.name == "tiny"


@pytest.mark.parametrize("name", ["weights.safetensors", "card.json"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelIntegrityError, match=f"{name} is missing"):
        load(folder)


def test_truncated_weights(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelIntegrityError, match="truncated or altered|truncated \nor"):
        load(folder)


def test_one_flipped_bit(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelIntegrityError, match="sha256"):
        load(folder)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize(
    "writer", [lambda p: p.write_bytes(pickle.dumps(Bomb())), lambda p: torch.save({"w": torch.ones(1)}, p)]
)
def test_a_pickle_in_place_of_the_weights_is_refused_unread(folder, writer):
    writer(folder / "weights.safetensors")
    with pytest.raises(ModelIntegrityError, match="pickle"):
        load(folder)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_whose_digest_is_in_the_card_is_refused_too(folder, protocol):
    import hashlib

    content = pickle.dumps(Bomb(), protocol)
    (folder / "weights.safetensors").write_bytes(content)
    card = json.loads((folder / "card.json").read_text()) | {"sha256": hashlib.sha256(content).hexdigest()}
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelIntegrityError):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"sha256": "short"},
        {"ranges": {"q": "wide"}},
        {"ranges": {"q": [2, 1]}},
        {"format_version": 99},
    ],
)
def test_a_card_that_is_not_one(folder, change):
    card = json.loads((folder / "card.json").read_text()) | change
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelIntegrityError, match=r"card\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "card.json"])
def test_a_folder_in_place_of_a_file(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ModelIntegrityError, match=f"{name} cannot be read"):
        load(folder)


def test_half_a_card(folder):
    text = (folder / "card.json").read_text()
    (folder / "card.json").write_text(text[: len(text) // 2])
    with pytest.raises(ModelIntegrityError, match="not a model card"):
        load(folder)


def test_no_such_model_names_those_there_are():
    with pytest.raises(ModelError, match="saxs1d-pr"):
        locate("saxs9d")


@pytest.mark.parametrize("name", ["saxs1d-particles", "saxs1d-pr"])
def test_shipped_models_are_sound_evaluated_and_small(name):
    assert name in shipped()
    stored = load(name)
    assert (stored.folder / "weights.safetensors").stat().st_size < 16 * MiB
    assert stored.card.metrics["frames"] >= 2000
    assert stored.card.training["steps"] > 1000


def test_a_copy_elsewhere_loads_by_path(tmp_path):
    shutil.copytree(locate("saxs1d-pr"), tmp_path / "copy")
    assert load(tmp_path / "copy").card.sha256 == load("saxs1d-pr").card.sha256
