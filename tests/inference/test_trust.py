"""Verdicts: what each check says is kept, the worst first."""

import pytest
import torch

from nfphasing_bluesky.core import Trust, Verdict
from nfphasing_bluesky.inference.trust import judge, outside
from nfphasing_bluesky.models import Card

CARD = Card(
    name="model",
    modality="saxs1d-pr",
    code_version="0",
    sha256="0" * 64,
    network={},
    ranges={"photons": (10.0, 1e4), "masked_share": (0.0, 0.1), "fresnel_number": (1e-3, 0.1)},
)


def verdict(chi2=1.0, ood=0.5, out_of_range="") -> Trust:
    return judge(CARD, chi2=chi2, ess=None, ood=ood, out_of_range=out_of_range, acceptance=None)


def test_every_range_that_a_frame_leaves_is_named():
    features = {
        "photons": torch.tensor([100.0, 100.0]),
        "masked_share": torch.tensor([0.05, 0.4]),
        "fresnel_number": torch.tensor([0.01, 0.5]),
    }
    assert outside(CARD, features, 0) == ""
    assert outside(CARD, features, 1) == (
        "masked_share=0.4 is outside the model's range 0 to 0.1, fresnel_number=0.5 outside 0.001 to 0.1"
    )


def test_a_curve_that_goes_beyond_is_to_be_cut():
    ranges = {"q_min_inv_angstrom": (0.005, 0.05), "q_max_inv_angstrom": (0.12, 0.55)}
    card = CARD.model_copy(update={"ranges": ranges})
    features = {
        "q_min_inv_angstrom": torch.tensor([0.001, 0.01, 0.01, 0.1]),
        "q_max_inv_angstrom": torch.tensor([0.2, 0.9, 0.05, 0.2]),
    }
    told = [outside(card, features, b) for b in range(4)]
    assert all("outside the model's range" in text for text in told)
    assert ["q_range=" in text for text in told] == [True, True, False, False], "nothing there to leave out"


def test_the_reason_of_an_alarm_tells_its_likely_cause_too():
    found = verdict(chi2=9.0, ood=1.5, out_of_range="fresnel_number=0.5 is outside")
    assert found.verdict is Verdict.ALARM
    assert found.reason == (
        "reduced chi-squared 9 exceeds 3: no draw fits; fresnel_number=0.5 is outside; unusual for the "
        "training set (score 1.5, limit 1)"
    )
    unlike = verdict(chi2=2.0, ood=7.0)
    assert unlike.verdict is Verdict.ALARM
    assert unlike.reason.index("unlike anything") < unlike.reason.index("reduced chi-squared 2")


def test_a_fit_that_is_too_good_is_a_finding():
    """Counts that were divided by something look as if they had far less noise than counting allows."""
    found = verdict(chi2=0.0089)
    assert found.verdict is Verdict.WARNING
    assert "reduced chi-squared 0.0089 is below 0.3" in found.reason and "sigma" in found.reason
    assert verdict(chi2=0.4).verdict is Verdict.VALID


def test_nothing_to_say():
    found = verdict()
    assert found.verdict is Verdict.VALID and found.reason == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_checks_that_are_no_numbers_are_alarms(value):
    assert verdict(chi2=value).verdict is Verdict.ALARM and verdict(ood=value).verdict is Verdict.ALARM
