"""Numbers and units as people read them."""

import math
import re

from nfphasing_bluesky.core import ModelInfo, Posterior, Summary, Trust

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_LINES = 24
_RARELY_THERE = 0.95
_LENGTHS = ((1e-9, "nm"), (1e-6, "µm"), (1e-3, "mm"), (1.0, "m"))


def pretty_unit(unit: str) -> str:
    """Return a unit for labels: `1/angstrom` becomes `Å⁻¹`, `e/angstrom^3` becomes `e Å⁻³`, `1` nothing."""
    text = re.sub(r"\b(angstroms?|cubic_angstrom)\b", "Å", unit.strip()).replace("**", "^")
    text = re.sub(r"\bmicrometers?\b", "µm", text)
    numerator, _, denominator = text.partition("/")
    inverse = re.sub(r"[\s()*]+", " ", denominator).strip()
    inverse = " ".join(_power(factor, -1) for factor in inverse.split())
    plain = "" if numerator.strip() == "1" else " ".join(_power(factor, 1) for factor in numerator.split())
    return f"{plain} {inverse}".strip()


def handy_unit(span: float, unit: str) -> tuple[float, str]:
    """Return what to divide coordinates by, and the unit that they then have: metres become nm, µm or mm."""
    if unit != "m":
        return 1.0, unit
    fitting = [length for length in _LENGTHS if length[0] <= span / 2]
    return fitting[-1] if fitting else _LENGTHS[0]


def _power(factor: str, sign: int) -> str:
    """Return one factor of a unit with its exponent raised."""
    name, _, exponent = factor.partition("^")
    power = sign * int(exponent) if exponent.lstrip("-").isdigit() else sign
    return name if power == 1 else name + str(power).translate(_SUPERSCRIPT)


def measured(summary: Summary) -> str:
    """Return median and 68 % interval to two digits of the uncertainty: `33.20 ± 0.14 Å`.

    A skewed interval is written with both its sides, because one number would hide it.
    """
    below, above = summary.median - summary.q16, summary.q84 - summary.median
    half = (below + above) / 2
    unit = pretty_unit(summary.unit)
    if not math.isfinite(summary.median):
        return "not defined"
    if half <= 0:
        return f"{summary.median:.5g} {unit}".strip()
    exponent = math.floor(math.log10(max(abs(summary.median), half)))
    scale = 10.0**exponent if exponent < -2 or exponent > 4 else 1.0
    digits = max(0, 1 - math.floor(math.log10(half / scale)))
    number, low, high = (f"{value / scale:.{digits}f}" for value in (summary.median, below, above))
    spread = f"± {half / scale:.{digits}f}" if abs(above - below) < 0.4 * half else f"+{high} −{low}"
    power = "" if scale == 1.0 else f" ×10{str(exponent).translate(_SUPERSCRIPT)}"
    body = f"{number} {spread}"
    return f"({body}){power} {unit}".strip() if power else f"{body} {unit}".strip()


def parameter_lines(posterior: Posterior, info: ModelInfo) -> list[str]:
    """Return one line a parameter, with its label, and how often it exists where that is not always.

    Of very many the most precisely known, and how many are left out.
    """
    labels = {parameter.name: parameter.label for parameter in info.parameters}
    summaries, shares = posterior.summary(), {}
    for name in summaries:
        draws = posterior.parameters[name]
        shares[name] = sum(map(math.isfinite, draws.tolist())) / max(1, draws.size)
    there = [name for name in summaries if shares[name] >= 0.01]
    shown = there
    if len(there) > _MOST_LINES:
        known = sorted(there, key=lambda name: _relative_width(summaries[name]))[: _MOST_LINES - 1]
        shown = [name for name in there if name in known]
    lines = []
    for name in shown:
        share = shares[name]
        note = "" if share > _RARELY_THERE else f"  (in {100 * share:.0f} % of draws)"
        lines.append(f"{labels.get(name, name)} = {measured(summaries[name])}{note}")
    if len(shown) < len(there):
        lines.append(f"and {len(there) - len(shown)} that are known less precisely")
    return lines


def _relative_width(summary: Summary) -> float:
    width = (summary.q84 - summary.q16) / max(abs(summary.median), 1e-300)
    return width if math.isfinite(width) else math.inf


def class_line(posterior: Posterior) -> str:
    """Return the class probabilities, most probable first; empty for models with no classes."""
    ranked = sorted(posterior.classes.items(), key=lambda item: -item[1])
    return " · ".join(
        f"{name} {100 * probability:.0f} %" for name, probability in ranked if probability >= 0.005
    )


def trust_line(trust: Trust) -> str:
    """Return the checks in one line."""
    chi2 = f"{trust.reduced_chi2:.2f}" if trust.reduced_chi2 < 100 else f"{trust.reduced_chi2:.2g}"
    parts = [f"reduced χ² {chi2}"]
    if trust.ess_fraction is not None:
        before = "" if trust.acceptance is None else " before draws were moved"
        parts.append(f"effective samples {100 * trust.ess_fraction:.0f} %{before}")
    if trust.acceptance is not None:
        parts.append(f"moves accepted {100 * trust.acceptance:.0f} %")
    parts.append(f"distance to training {trust.ood_score:.2f} (limit 1)")
    if trust.agreement is not None:
        parts.append(f"agreement {trust.agreement:.1g}")
    return " · ".join(parts)
