"""OpenMP's threads sleep while they wait, unless the environment says otherwise or torch is there already."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from nfphasing_bluesky.core import sleep_while_waiting
if sys.argv[1] == "late":
    import torch
print(sleep_while_waiting(), os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(
    ("word", "said", "printed"),
    [("first", None, "True PASSIVE"), ("first", "ACTIVE", "True ACTIVE"), ("late", None, "False None")],
)
def test_it_comes_before_torch_and_leaves_what_was_said(word, said, printed):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if said:
        environment["OMP_WAIT_POLICY"] = said
    command = [sys.executable, "-c", PROGRAM, word]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == printed


@pytest.mark.parametrize(
    "module", ["nfphasing_bluesky.cli", "nfphasing_bluesky.streaming.serve", "nfphasing_bluesky.demo.worker"]
)
def test_entry_points_are_loaded_without_torch(module):
    """Or it would come too late."""
    program = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
