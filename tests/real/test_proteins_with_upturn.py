"""sasdata's neutron curves of proteins that rise at the smallest q: fitted well, and not to be trusted."""

import pytest

from nfphasing_bluesky.core import Verdict
from nfphasing_bluesky.demo.curves import measured_curves
from nfphasing_bluesky.inference import Reconstructor


@pytest.fixture(scope="module")
def posteriors():
    found = Reconstructor.load("saxs1d-pr")(measured_curves())
    return {posterior.origin.label: posterior for posterior in found}


@pytest.mark.parametrize("protein", ["conalbumin", "apoferritin"])
def test_an_upturn_is_named_though_the_fit_is_good(posteriors, protein):
    trust = posteriors[protein].trust
    assert trust.reduced_chi2 < 1.2
    assert trust.agreement < 1e-8
    assert trust.verdict is Verdict.WARNING
    assert "lowest q" in trust.reason


@pytest.mark.parametrize("sample", ["AOT microemulsion, drops", "AOT microemulsion, shells"])
def test_curves_that_agree_with_themselves_stay_valid(posteriors, sample):
    assert posteriors[sample].trust.agreement > 1e-3
    assert posteriors[sample].trust.verdict is Verdict.VALID
