"""The base of every settings node."""

import hashlib
import json

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of every settings node: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def digest(self) -> str:
        """Digest of the settings, the same in every process."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
