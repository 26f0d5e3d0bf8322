"""Memory that was freed stays with the process.

Tensors of some megabytes are allocated and freed all the time. By default glibc asks the system for each of
the large ones and gives it back, and so every page is fetched and cleared again: that took up to three
quarters of the processor time of fits and simulations.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Tell the C library to keep what was freed, for the whole process; whether it can do that.

    For the entry points of processes of our own. Blocks above `LARGEST_BYTES` still go back at once.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    done = [mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)]
    return all(done)
