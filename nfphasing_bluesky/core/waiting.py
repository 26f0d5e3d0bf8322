"""Threads that wait for each other sleep.

Torch shares an operation among the threads of OpenMP, and one that has done its part spins until the others
have done theirs. Where another process has one of the processors, each operation then costs a turn of the
scheduler: with two threads beside one busy process, two frames of `gisaxs1d` took 11 to 14 s, and 4 s with
threads that sleep (AMD EPYC, two cores).
"""

import os
import sys

POLICY = "OMP_WAIT_POLICY"


def sleep_while_waiting() -> bool:
    """Have OpenMP's threads sleep while they wait, for the whole process; whether it can still do that.

    For the entry points of processes of our own, before torch is imported. A policy that the environment has
    already stays.
    """
    if "torch" in sys.modules:
        return False
    os.environ.setdefault(POLICY, "PASSIVE")
    return True
