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

HANDED_ON = """
import sys, numpy
from nfphasing_bluesky.core import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
from concurrent.futures import ThreadPoolExecutor
frames = []
def take():
    frames.extend(numpy.ones(8_192) for _ in range(1_000))
one, other = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
for thread in (one, other):
    thread.submit(numpy.ones, 8_192).result()
one.submit(take).result()
full = resident()
one.submit(frames.clear).result()
other.submit(take).result()
print(resident() - full)
"""
"""Kilobytes that 65 MB in the hands of one thread take after another thread's 65 MB were freed."""


def faults(word: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_large_arrays_are_taken_from_what_was_freed():
    page = resource.getpagesize()
    assert faults("keep") < 0.1 * 5 * 64_000_000 / page
    assert faults("keep") < 0.2 * faults("not")


def test_what_one_thread_freed_serves_another():
    grown = {}
    for word in ("keep", "not"):
        command = [sys.executable, "-c", HANDED_ON, word]
        grown[word] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown["keep"] < 6_000 < 15_000 < grown["not"]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
