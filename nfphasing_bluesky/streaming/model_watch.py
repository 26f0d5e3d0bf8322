"""Whether the files of the loaded model are still those that it was loaded from."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

EVERY_S = 2.0
Find = Callable[[str], Path | None]
Mark = tuple[tuple[str, int, int, int], ...]


def model_folder(model: str) -> Path | None:
    """Folder of a shipped model by name, or of any model by path; None when it is gone."""
    from nfphasing_bluesky.core import ModelError
    from nfphasing_bluesky.models import locate  # torch comes in here and not before

    try:
        return locate(model)
    except ModelError:
        return None


class ModelWatch:
    """Looks at a model's folder now and then, in a thread of its own: a file server may keep it waiting.

    What is loaded goes on whatever happens to the files.

    Args:
        model: name or folder, about to be loaded.
        find: gives its folder.
        every_s: time between two looks.
    """

    def __init__(self, model: str, find: Find = model_folder, every_s: float = EVERY_S) -> None:
        self.notice = ""
        """What happened to the files since the model was loaded; empty for nothing."""
        self._model, self._find, self._every_s = model, find, every_s
        self._loaded = _mark(find(model))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="nfphasing-model-watch", daemon=True)

    def start(self) -> "ModelWatch":
        """Begin to look."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Look no more; does not wait for a look that takes long."""
        self._stopping.set()

    def _look(self) -> None:
        while not self._stopping.wait(self._every_s):
            now = _mark(self._find(self._model))
            notice = "" if now == self._loaded else self._describe("were replaced" if now else "are gone")
            if notice and notice != self.notice:
                logger.warning("%s", notice)
            self.notice = notice

    def _describe(self, what: str) -> str:
        return (
            f"the files of model {self._model!r} {what} since it was loaded; what was loaded stays in use, "
            "load_model takes what is there now"
        )


def _mark(folder: Path | None) -> Mark:
    """Names, sizes, inodes and times of the files in a folder, which a replacement can't keep all."""
    if folder is None:
        return ()
    try:
        found = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_ino, stat.st_mtime_ns) for name, stat in found)
