"""Templates of strangers make the names that they should, and take no memory."""

import resource

import pytest

from nfphasing_bluesky.core import DocumentError
from nfphasing_bluesky.documents.templates import check_widths, file_name


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("img_{:05d}.tif", "img_00007.tif"),
        ("img_{}.tif", "img_7.tif"),
        ("img_{0:3d}.tif", "img_  7.tif"),
        ("{:06}.cbf", "000007.cbf"),
        ("img_%05d.tif", "img_00007.tif"),
        ("img_%6.6d.tif", "img_000007.tif"),
        ("img_%i.tif", "img_7.tif"),
        ("only.tif", "only.tif"),
    ],
)
def test_fields_of_whole_numbers_are_filled_in(template, name):
    assert file_name(template, 7) == name


@pytest.mark.parametrize(
    "template",
    [
        "{:9000000000}",
        "{:>9000000000d}",
        "{:0900000000d}",
        "%9000000000d",
        "%.900000000d",
        "%*d",
        "%s.tif",
        "%(a)s",
        "{0.__class__}",
        "{0[1]}",
        "{index}",
        "{:{}}",
        "{:05d",
        "%",
        "a" * 5000,
        7,
        None,
    ],
)
def test_anything_else_is_refused_and_takes_no_memory(template):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DocumentError, match="template"):
        file_name(template, 7)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("template", ["%s%s_%9000000000d.tif", "{:9000000000}", "%*d"])
def test_templates_of_handlers_are_refused_for_wide_fields(template):
    with pytest.raises(DocumentError, match="too wide"):
        check_widths(template)


def test_templates_of_handlers_may_have_text():
    check_widths("%s%s_%6.6d.tif")
    check_widths("{:s}_{:05d}_2026.tif")
