"""Array files that a killed process left open: made readable for everyone again."""

import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

log = logging.getLogger(__name__)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK = struct.Struct("<8sBBBBQQQQ")
"""Signature, version, sizes of offsets and lengths, consistency flags, base, extension, end of file, root."""
_VERSION, _FLAGS, _END = 1, 4, 7
_OPEN_FOR_WRITING = 0b101
_WORD = 0xFFFFFFFF


def mend_files(documents: Sequence[tuple[str, dict[str, Any]]]) -> list[Path]:
    """Mend the HDF5 files that a run's stream resources name, where they are of this machine.

    What fails is logged; the file is then as it was.

    Returns:
        Files that were mended.
    """
    uris = {doc["uri"] for name, doc in documents if name == "stream_resource"}
    paths = [Path(unquote(urlparse(uri).path)) for uri in sorted(uris) if uri.startswith("file:")]
    return [path for path in paths if path.suffix == ".h5" and mend(path)]


def mend(path: Path) -> bool:
    """Clear the mark `open for writing` of a file whose writer was killed; True when it had one.

    The rows that were announced are all in it, and readers in SWMR mode see them; others (silx, NexPy, h5py
    as it comes) refuse the file. This does what `h5clear --status --increment=0` does: flags and end of file
    in the superblock (version 3 of the HDF5 file format specification), and its checksum.
    """
    try:
        with path.open("r+b") as file:
            head = file.read(_SUPERBLOCK.size + 4)
            if len(head) < _SUPERBLOCK.size + 4 or not head.startswith(_SIGNATURE):
                return False
            fields = list(_SUPERBLOCK.unpack_from(head))
            if fields[_VERSION] != 3 or not fields[_FLAGS] & _OPEN_FOR_WRITING:
                return False
            if lookup3(head[: _SUPERBLOCK.size]) != int.from_bytes(head[_SUPERBLOCK.size :], "little"):
                log.error("%s was left open by a killed process and its first bytes are damaged", path)
                return False
            fields[_FLAGS] &= ~_OPEN_FOR_WRITING
            fields[_END] = max(fields[_END], file.seek(0, 2))
            head = _SUPERBLOCK.pack(*fields)
            file.seek(0)
            file.write(head + lookup3(head).to_bytes(4, "little"))
    except OSError as error:
        log.error("%s cannot be looked at: %s", path, error)
        return False
    log.warning("%s was left open by a killed process; it is readable again", path)
    return True


def lookup3(data: bytes) -> int:
    """Bob Jenkins' lookup3 hash (`hashlittle` with initial value 0), the checksum of HDF5's metadata."""
    x = y = z = (0xDEADBEEF + len(data)) & _WORD
    padded = data.ljust(-(-len(data) // 12) * 12, b"\0")
    triples = list(struct.iter_unpack("<3I", padded))
    for number, (p, q, r) in enumerate(triples, start=1):
        x, y, z = (x + p) & _WORD, (y + q) & _WORD, (z + r) & _WORD
        if number < len(triples):
            for shift in (4, 6, 8, 16, 19, 4):
                x, y, z = y, (z + y) & _WORD, ((x - z) & _WORD) ^ _rotated(z, shift)
    if not data:
        return z
    for shift in (14, 11, 25, 16, 4, 14, 24):
        x, y, z = y, ((z ^ y) - _rotated(y, shift)) & _WORD, x
    return y


def _rotated(word: int, shift: int) -> int:
    return ((word << shift) | (word >> (32 - shift))) & _WORD
