import numpy as np
import pytest

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.demo.readback import FrameLine, check_same, same
from nfphasing_bluesky.demo.table import results_table

LEDGER = {
    "received": 9.0,
    "reconstructed": 8.0,
    "dropped": 0.0,
    "failed": 1.0,
    "latency_p50_s": 0.012,
    "latency_p99_s": 0.034,
}


def line(seq_num=3, rg=33.4, mean=(1.0, 2.0), **changes):
    parameters = {"rg_angstrom": (rg, 0.25), "d_max_angstrom": (101.0, 4.5)}
    values = {"reduced_chi2": 1.15, "verdict": "VALID", "latency_s": 0.0125, **changes}
    return FrameLine(
        seq_num, "a protein", parameters, mean=np.asarray(mean), std=np.array([0.1, 0.2]), **values
    )


def test_the_table_shows_every_frame_the_last_one_of_tango_and_the_ledger():
    failed = line(4, rg=np.nan, reduced_chi2=np.nan, verdict="ALARM")
    text = results_table(
        [line(), failed],
        line(4, rg=40.0),
        LEDGER,
        "some-model",
        {"rg_angstrom": "Rg, Å", "d_max_angstrom": "Dmax, Å"},
    )
    rows = [row for row in text.splitlines() if "a protein" in row]
    assert len(rows) == 3 and max(map(len, text.splitlines())) <= 120
    for cell in ("tiled", "33.40 ± 0.25", "101.0 ± 4.5", "1.15", "VALID", "12.5"):
        assert cell in rows[0]
    assert "nan" in rows[1] and "ALARM" in rows[1]
    assert "Tango" in rows[2] and "40.00 ± 0.25" in rows[2]
    assert "9 received, 8 reconstructed, 0 dropped, 1 failed" in text
    assert "median 12 ms, 99 % below 34 ms" in text and "some-model" in text


def test_what_agrees_agrees():
    check_same(line(), line(latency_s=0.9))
    check_same(line(mean=(np.nan, np.nan)), line(mean=(np.nan, np.nan)))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (line(rg=33.5), "rg_angstrom"),
        (line(mean=(1.0, 2.01)), "density_mean"),
        (line(mean=(1.0, np.nan)), "density_mean"),
        (line(mean=(1.0, 2.0, 3.0)), "density_mean"),
        (line(4), "seq_num"),
        (line(reduced_chi2=1.16), "reduced_chi2"),
        (line(verdict="ALARM"), r"verdict \(VALID, ALARM\)"),
    ],
)
def test_what_differs_is_named(other, named):
    with pytest.raises(TransportError, match=named):
        check_same(line(), other)


def test_the_tolerance_is_relative_to_the_greatest_value():
    assert same([1e6, 1.0], [1e6, 1.5]) and not same([1.0, 1.0], [1.0, 1.5])
