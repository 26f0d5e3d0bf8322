"""Freed memory is kept: the same large arrays again cost no page faults."""

import resource
import subprocess
import sys

from nfphasing_bluesky.core import keep_freed_memory

PROGRAM = """
import resource, sys, numpy
from nfphasing_bluesky.core import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        numpy.ones(8_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults(word: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_large_arrays_are_taken_from_what_was_freed():
    page = resource.getpagesize()
    assert faults("keep") < 0.1 * 5 * 64_000_000 / page
    assert faults("keep") < 0.2 * faults("not")


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
