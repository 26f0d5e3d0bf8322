"""Errors of the command line say what a user types, and no keywords of Python."""

import inspect
import re

import numpy as np
import pytest

from nfphasing_bluesky.cli import app
from nfphasing_bluesky.spoken import in_options, options_of
from nfphasing_bluesky.storage.readers import read_frames

Q = np.linspace(0.01, 0.3, 20)
KEYWORDS = [p for p in inspect.signature(read_frames).parameters if p not in ("path", "check", "on_failure")]


@pytest.fixture(scope="module")
def commands():
    from typer.main import get_command

    return get_command(app).commands


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pass q_unit='1/nm' or '1/angstrom'", "pass --q-unit '1/nm' or '1/angstrom'"),
        ("pass q_unit='1/nm', and join=2.", "pass --q-unit '1/nm', and --join 2."),
        ("columns=(0, 1, 2, 3) takes it", "--columns 0,1,2,3 takes it"),
        ("pass poni= (a file) or geometry=", "pass --poni (a file) or --geometry"),
        ("with wavelength_angstrom= where", "with --wavelength-angstrom where"),
        ("both poni= and geometry=, expected", "both --poni and --geometry, expected"),
        ("pass renamed={}", "pass --map {}"),
        ("contrast_inv_cm2=0.0, expected", "--contrast 0.0, expected"),
        ("/data/mask=3/x.dat: no such file", "/data/mask=3/x.dat: no such file"),
        ("nfphasing={'geometry': 1}, q_units=2", "nfphasing={'geometry': 1}, q_units=2"),
        ("pass n=3", "pass n=3"),
    ],
)
def test_keywords_become_options(commands, text, said):
    assert in_options(text, options_of(commands["reconstruct"])) == said


def test_keywords_that_a_settings_file_has(commands):
    said = in_options("pass data_key= to say which", options_of(commands["replay"]))
    assert said == "pass stream.data_key (in the settings) to say which"
    said = in_options("pass orientation='transpose'", options_of(commands["serve"]))
    assert said == "pass stream.orientation='transpose' (in the settings)"
    assert in_options("pass data_key= to", options_of(commands["reconstruct"])) == "pass data_key= to"


def test_every_keyword_of_the_reader_has_an_option(commands):
    assert set(KEYWORDS) - {"saturation"} <= set(options_of(commands["reconstruct"]))


def _curve(path, *columns, header=""):
    np.savetxt(path, np.stack(columns, axis=1), header=header)


def test_errors_of_bad_files_name_options(nfphasing, tmp_path):
    _curve(tmp_path / "bare.dat", Q, Q)
    _curve(tmp_path / "nm.dat", 10 * Q, Q, Q)
    _curve(tmp_path / "angles.dat", 10 * Q, Q, Q, header="2theta I sigma")
    _curve(tmp_path / "s.dat", Q, Q, Q, header="s I sigma")
    np.save(tmp_path / "x.npy", Q)
    files = sorted(tmp_path.glob("*.dat"))
    expected = {"bare": "--relative-sigma 0.02", "nm": "--q-unit '1/nm'", "angles": "--wavelength-angstrom"}
    done = nfphasing("reconstruct", *files, "--output", tmp_path / "out", "--json")
    assert done.status == 1
    for result in done.json["results"]:
        name = result["input"].rpartition("/")[2].removesuffix(".dat")
        assert expected.get(name, "--q-unit") in result["error"], result["error"]
        assert result["error"] in done.err.replace("\n", " ") or name in done.err
    for text in (done.out, done.err):
        assert not re.search(rf"\b({'|'.join(KEYWORDS)})=", text), text


def test_log_lines_and_errors_that_end_a_command_do_too(start, tmp_path):
    """The program itself: its log lines are its own only there."""
    _curve(tmp_path / "four.dat", Q, Q**-2, 0.02 * Q**-2, 0.01 * Q)
    _curve(tmp_path / "buffer.dat", Q, Q)
    process = start("reconstruct", tmp_path / "four.dat", "--output", tmp_path / "out")
    _, err = process.communicate(timeout=200)
    assert "--columns 0,1,2,3 takes it" in err, err
    given = ("--buffer", tmp_path / "buffer.dat", "--output", tmp_path / "out")
    process = start("reconstruct", tmp_path / "four.dat", *given)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1 and "FrameError: " in err and "--relative-sigma 0.02" in err, err
