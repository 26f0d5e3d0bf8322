"""Names of numbered files, from templates that strangers write: an integer goes in, and nothing else."""

import re

from nfphasing_bluesky.core import DocumentError

_MOST_CHARACTERS = 4096
_BRACES = re.compile(r"\{0?(:0?\d{0,2}d?)?\}")
_PERCENT = re.compile(r"%0?\d{0,2}(\.\d{1,2})?[di]")
_WIDE = re.compile(r"\d{3,}|\*")


def file_name(template: object, index: int) -> str:
    """Return a template, as `img_{:05d}.tif` or `img_%05d.tif`, with a number in its fields.

    Raises:
        DocumentError: it has other fields, or wider ones than any file name has.
    """
    if not isinstance(template, str) or len(template) > _MOST_CHARACTERS:
        raise DocumentError(
            f"template {str(template)[:40]!r} is no text of {_MOST_CHARACTERS} characters or less"
        )
    braces = "{" in template
    field = _BRACES if braces else _PERCENT
    left = field.sub("", template)
    if any(sign in left for sign in ("{}" if braces else "%")):
        raise DocumentError(
            f"template {template[:80]!r} has other fields than whole numbers of at most 99 digits, expected "
            "one such as img_{:05d}.tif or img_%05d.tif"
        )
    return template.format(index) if braces else field.sub(lambda found: found[0] % index, template)


def check_widths(template: str) -> None:
    """Refuse the template of a handler of somebody else, which may have text fields, for wide ones.

    Raises:
        DocumentError: filled in, a field would take hundreds of characters or more.
    """
    fields = [*re.findall(r"\{[^}]*\}", template), *re.findall(r"%[^a-zA-Z%]*[a-zA-Z]", template)]
    wide = [field for field in fields if _WIDE.search(field)]
    if wide or len(template) > _MOST_CHARACTERS:
        raise DocumentError(
            f"template {template[:80]!r} has fields that are too wide for a file name: {wide[:3]}"
        )
