"""What the doctor says: one finding a line."""

from collections.abc import Callable
from dataclasses import dataclass

from nfphasing_bluesky.core import NFPhasingError
from nfphasing_bluesky.core.secrets import redacted

GOOD, DOUBTFUL, BAD, UNKNOWN = "good", "doubtful", "bad", "not checked"

_UNEXPECTED = "this is not expected; report it"


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, what was found, and what to do; empty when nothing is."""

    subject: str
    verdict: str
    found: str
    advice: str = ""


def careful(subject: str, look: Callable[[], Finding], advice: str) -> Finding:
    """Look, and say what went wrong with the advice for that; an oddity of one must not hide the others."""
    try:
        return look()
    except (NFPhasingError, OSError) as error:
        return Finding(subject, BAD, redacted(str(error)), advice)
    except Exception as error:
        return Finding(subject, BAD, redacted(f"{type(error).__name__}: {error}"), _UNEXPECTED)
