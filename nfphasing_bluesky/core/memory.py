"""Memory that was freed stays with the process, and any of its threads takes it.

Tensors of some megabytes are allocated and freed all the time. By default glibc asks the system for each of
the large ones and gives it back, and so every page is fetched and cleared again: that took up to three
quarters of the processor time of fits and simulations. Also by default each thread has an arena of its own,
and what one thread freed is of no use to the next: frames that one reads, one reconstructs and one stores
made a worker grow by 25 kB a run, without a leak and without an end in sight.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Tell the C library to keep what was freed, for all threads of the process; whether it can do that.

    For the entry points of processes of our own. Blocks above `LARGEST_BYTES` still go back at once.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wanted = {M_MMAP_THRESHOLD: LARGEST_BYTES, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}
    return all(mallopt(what, value) for what, value in wanted.items())
