"""What to do about frames of a run that were lost, which depends on who else has them."""

from nfphasing_bluesky.documents.keys import Document, own_metadata

SOURCE_PLAN = "nfphasing_tango_source"
"""Plan name of runs whose documents are made for the worker alone, of frames read from a Tango device."""


def source_of(start: Document) -> str:
    """Return where the frames were read that no catalog holds; empty for the runs of everybody else.

    Args:
        start: of a raw run, or of a derived one, which says under `nfphasing.source` what its raw run said.
    """
    derived = start.get("original_run_uid")
    said = own_metadata(start) if derived else start if start.get("plan_name") == SOURCE_PLAN else {}
    return str(said.get("source") or "")


def remedy(start: Document) -> str:
    """Say what makes up for the lost frames of a run, by the start document of it or of its derived run."""
    source = source_of(start)
    if source:
        return f"no catalog has the frames of {source}: take them again, or from what the detector stored"
    return replay_of(start.get("original_run_uid") or start["uid"])


def replay_of(raw_uid: str) -> str:
    """Say what makes up for the lost frames of a run of which nothing but its uid is known."""
    return f"`nfphasing replay {raw_uid} --missing` makes up for them"
