"""The command line in this process (fast) and as the program that users start (few: each costs an import)."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch

from nfphasing_bluesky import cli

PROGRAM = Path(sys.executable).with_name("nfphasing")
STEPS = 24
TRAIN = ("train", "saxs1d-particles", "--steps", str(STEPS), "--batch", "8", "--seed", "3", "--device", "cpu")


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        """What it printed on stdout, which must be one JSON object and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def nfphasing(monkeypatch, capsys):
    """`nfphasing("models", "--json")` runs the command line here, through the entry point of the program."""

    def run(*arguments) -> Done:
        monkeypatch.setattr(sys, "argv", ["nfphasing", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capsys.readouterr()
        return Done(int(exit_.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def start():
    """Start the real program; ended after the tests when it did not end before."""
    made = []

    def begin(*arguments) -> subprocess.Popen:
        # Sums over as many threads as here, so that results are the same to the last bit.
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "COLUMNS": "200"}
        process = subprocess.Popen(
            [str(PROGRAM), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=_heed_interrupts,
        )
        made.append(process)
        return process

    yield begin
    for process in made:
        if process.poll() is None:
            process.kill()
            process.wait()


def _heed_interrupts() -> None:
    """A shell's background jobs ignore SIGINT, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen, timeout_s: float = 240) -> Done:
    """Wait for a process and take what it printed."""
    out, err = process.communicate(timeout=timeout_s)
    return Done(process.returncode, out, err)


@dataclass(frozen=True)
class Trained:
    """A training run that SIGINT interrupted and that the same command finished."""

    folder: Path
    interrupted: Done
    steps_before: int
    finished: Done


@pytest.fixture(scope="session")
def trained(start, tmp_path_factory) -> Trained:
    """Interrupt a real training process after its first steps, at once again, and run the command anew."""
    folder = tmp_path_factory.mktemp("train")
    command = (*TRAIN, "--output", folder)
    process = start(*command)
    curve = folder / "learning_curve.csv"
    wait(lambda: curve.exists() and len(curve.read_text().splitlines()) > 2, process)
    process.send_signal(signal.SIGINT)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "interrupt again" in line:
            break
    # again and again: Python swallows an interrupt that arrives while an object is destroyed
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    interrupted = finish(process)
    interrupted = Done(interrupted.status, interrupted.out, "".join(lines) + interrupted.err)
    steps_before = len(curve.read_text().splitlines()) - 1
    with pytest.MonkeyPatch.context() as patch:
        # fewer simulated frames for the out-of-distribution reference: seconds instead of half a minute
        patch.setattr(import_module("nfphasing_bluesky.training.export"), "REFERENCE_FRAMES", 1000)
        return Trained(folder, interrupted, steps_before, _finish_here([*command, "--json"]))


def _finish_here(command) -> Done:
    """Run a command in this process, outside of any test."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["nfphasing", *map(str, command)])
        try:
            cli.main()
        except SystemExit as exit_:
            return Done(int(exit_.code or 0), out.getvalue(), err.getvalue())
    return Done(0, out.getvalue(), err.getvalue())


def wait(condition, process: subprocess.Popen, timeout_s: float = 200) -> None:
    """Wait for something that a running process does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def sasdata_curve(require_session) -> Path:
    """A measured curve that sasdata ships."""
    found = importlib.util.find_spec("sasdata")
    require_session(found, "sasdata is not installed; install the extra 'test'")
    return Path(found.origin).parent / "example_data" / "1d_data" / "conalbumin.txt"


@pytest.fixture(scope="session")
def require_session():
    """`require` for fixtures of a session."""
    from tests.conftest import require

    return require
