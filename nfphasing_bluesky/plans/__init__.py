"""Plans that listen to the reconstruction while they run."""

from nfphasing_bluesky.plans.listening import Latest, Listening
from nfphasing_bluesky.plans.next_place import information, scan_where_it_tells_most
from nfphasing_bluesky.plans.until import Measured, measure_until, scan_until

__all__ = [
    "Latest",
    "Listening",
    "Measured",
    "information",
    "measure_until",
    "scan_until",
    "scan_where_it_tells_most",
]
