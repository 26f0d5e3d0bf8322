"""Model folders: `weights.safetensors` beside `card.json`; everything is checked before it is used."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from nfphasing_bluesky.core import ModelError, ModelIntegrityError
from nfphasing_bluesky.models.card import FORMAT_VERSION, Card

WEIGHTS = "weights.safetensors"
CARD = "card.json"
SHIPPED = Path(__file__).parent


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model folder that was read and checked."""

    folder: Path
    card: Card
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under `prefix.`, with the prefix taken off."""
        return {
            k.removeprefix(f"{prefix}."): v for k, v in self.tensors.items() if k.startswith(f"{prefix}.")
        }


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}"))


def locate(name_or_path: str | Path) -> Path:
    """Folder of a shipped model by name, or of any model by path. Raises ModelError when there is none."""
    for folder in (SHIPPED / str(name_or_path), Path(name_or_path)):
        if (folder / CARD).exists() or (folder / WEIGHTS).exists():
            return folder
    raise ModelError(
        f"no model {str(name_or_path)!r}: expected one of {', '.join(shipped()) or 'none shipped'}, or a "
        f"folder with {WEIGHTS} and {CARD}; see `nfphasing models`"
    )


def load(name_or_path: str | Path) -> StoredModel:
    """Read a model folder.

    Raises:
        ModelError: there is no such model.
        ModelIntegrityError: a file is missing, truncated, altered, or not what it says it is.
    """
    folder = locate(name_or_path)
    card = read_card(folder)
    return StoredModel(folder, card, _read_weights(folder, card))


def read_card(folder: Path) -> Card:
    """Read and check `card.json`."""
    path = folder / CARD
    try:
        card = Card.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelIntegrityError(f"{path} is missing; a model folder needs {WEIGHTS} and {CARD}") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelIntegrityError(
            f"{path} is not a model card: {where}: {first['msg']}; restore the folder from where it came from"
        ) from None
    if card.format_version != FORMAT_VERSION:
        raise ModelIntegrityError(
            f"{path} has format {card.format_version}, expected {FORMAT_VERSION}; "
            "use the version of nfphasing-bluesky that wrote it"
        )
    return card


def _read_weights(folder: Path, card: Card) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelIntegrityError(f"{path} is missing; restore the folder from where it came from") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    if content[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ModelIntegrityError(
            f"{path} is a pickle or zip archive, which is never loaded; expected safetensors"
        )
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.sha256:
        raise ModelIntegrityError(
            f"{path} has sha256 {digest[:12]}..., its card says {card.sha256[:12]}...: it was truncated "
            "or altered; restore the folder from where it came from"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise ModelIntegrityError(f"{path} is not a safetensors file: {error}") from None


def _unreadable(path: Path, error: OSError) -> ModelIntegrityError:
    return ModelIntegrityError(
        f"{path} cannot be read ({error.strerror}), expected a file; restore the folder from "
        "where it came from"
    )


def save(folder: Path, card: Card, tensors: dict[str, Tensor]) -> StoredModel:
    """Write a model folder; the card gets the weights' digest. Each file is replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    content = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    card = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    _replace(folder / WEIGHTS, content)
    write_card(folder, card)
    return StoredModel(folder, card, tensors)


def write_card(folder: Path, card: Card) -> None:
    """Write `card.json` alone, for a model whose weights stay."""
    text = json.dumps(card.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    _replace(folder / CARD, text.encode())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
