"""Trust: checks on each posterior, and the verdict with its reason."""

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from nfphasing_bluesky.core import Trust, Verdict
from nfphasing_bluesky.models import Card

LOWEST_Q, HIGHEST_Q = "q_min_inv_angstrom", "q_max_inv_angstrom"
"""Names of a card's ranges that a curve can be cut to."""


def outside(card: Card, features: Mapping[str, Tensor], index: int) -> str:
    """What of a frame lies outside the card's ranges, in words; empty when nothing does."""
    words: list[str] = []
    cut = False
    for name, (low, high) in card.ranges.items():
        value = float(features[name][index])
        if not low <= value <= high:
            verb = "outside" if words else "is outside the model's range"
            words.append(f"{name}={value:.4g} {verb} {low:.4g} to {high:.4g}")
            cut |= (name == LOWEST_Q and value < low) or (name == HIGHEST_Q and value > high)
    return ", ".join(words) + (
        "; leave the points beyond it out (q_range= of a file, or a mask)" if cut else ""
    )


def doubted(trust: Trust, doubt: str) -> Trust:
    """Add what is wrong with the whole measurement of a frame: a verdict of VALID becomes WARNING."""
    if not doubt:
        return trust
    verdict = Verdict.WARNING if trust.verdict is Verdict.VALID else trust.verdict
    return replace(trust, verdict=verdict, reason="; ".join(filter(None, (doubt, trust.reason))))


def noted(trust: Trust, note: str) -> Trust:
    """Add what is to be said of a frame and is no finding: the verdict stays."""
    return replace(trust, reason="; ".join(filter(None, (trust.reason, note)))) if note else trust


def judge(
    card: Card,
    *,
    chi2: float,
    ess: float | None,
    ood: float,
    out_of_range: str,
    acceptance: float | None,
    agreement: float = math.nan,
    disagreement: str = "",
    next_step: str = "",
) -> Trust:
    """Turn the checks into a verdict; the reason tells all findings, the worst first.

    Args:
        card: of the model: its thresholds.
        chi2: as in `Trust`, and so are the next four.
        ess: effective sample size.
        ood: distance from the training set.
        acceptance: of the steps that moved the draws; None where they were not moved.
        agreement: of one part of the frame with the rest; NaN where not checked.
        out_of_range: what lies outside the card's ranges, in words.
        disagreement: what to say where the agreement is too small.
        next_step: what to check where no draw fits.
    """
    t = card.thresholds
    findings: list[tuple[Verdict, str]] = []
    if not chi2 <= t.chi2_alarm:
        words = f"reduced chi-squared {chi2:.3g} exceeds {t.chi2_alarm:.3g}: no draw fits"
        findings.append((Verdict.ALARM, "; ".join(filter(None, (words, next_step)))))
    elif chi2 > t.chi2_warning:
        findings.append((Verdict.WARNING, f"reduced chi-squared {chi2:.3g} exceeds {t.chi2_warning:.3g}"))
    elif chi2 < t.chi2_small:
        findings.append(
            (
                Verdict.WARNING,
                f"reduced chi-squared {chi2:.3g} is below {t.chi2_small:.3g}: less noise than sigma says, or "
                "than counts have; check sigma, and whether counts were divided",
            )
        )
    if out_of_range:
        findings.append((Verdict.WARNING, out_of_range))
    if not ood <= 2.0:
        findings.append((Verdict.ALARM, f"unlike anything in the training set (score {ood:.3g}, limit 1)"))
    elif ood > 1.0:
        findings.append((Verdict.WARNING, f"unusual for the training set (score {ood:.3g}, limit 1)"))
    if ess is not None and acceptance is None and ess < t.ess_warning:
        findings.append(
            (Verdict.WARNING, f"effective sample size {ess:.2%} is below {t.ess_warning:.2%}; polish")
        )
    if agreement < t.agreement_warning:
        findings.append((Verdict.WARNING, f"{disagreement} (p = {agreement:.1g})"))
    findings.sort(key=lambda finding: finding[0] is not Verdict.ALARM)
    verdict = findings[0][0] if findings else Verdict.VALID
    reason = "; ".join(text for _, text in findings)
    return Trust(chi2, ess, ood, verdict, reason, acceptance, None if math.isnan(agreement) else agreement)
