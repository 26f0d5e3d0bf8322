"""Where a model runs."""

import torch

from nfphasing_bluesky.core import SettingsError


def pick_device(device: str) -> torch.device:
    """`auto` is the GPU when there is one. Raises SettingsError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {device!r} can't be used here ({error}); try 'auto' or 'cpu'") from None
    return chosen
