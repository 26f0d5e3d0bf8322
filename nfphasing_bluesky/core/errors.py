"""Errors: one root, each also the builtin it refines. Messages say found, expected, where, next step."""


class NFPhasingError(Exception):
    """Root of every error this package raises on purpose."""


class FrameError(NFPhasingError, ValueError):
    """A frame that cannot be reconstructed: wrong shape, no counts, all masked, NaN."""


class GeometryError(NFPhasingError, ValueError):
    """Geometry that is missing, inconsistent with the frame, or unphysical."""


class SettingsError(NFPhasingError, ValueError):
    """A setting that is unknown or out of its range."""


class ModelError(NFPhasingError, ValueError):
    """A model that does not exist or does not serve what is asked of it."""


class ModelIntegrityError(ModelError):
    """A model folder with a missing, truncated, altered or unsafe file."""


class DocumentError(NFPhasingError, ValueError):
    """A Bluesky document that cannot be used: no such data key, no handler, unreadable asset."""


class DataKeyError(DocumentError, KeyError):
    """The data key asked for is not in the stream."""

    __str__ = Exception.__str__


class StorageError(NFPhasingError, OSError):
    """Reading or writing results failed: disk full, server gone, truncated file."""


class TransportError(NFPhasingError, ConnectionError):
    """The wire between processes failed or carried something that is refused."""
