"""Every Python block of the tutorial runs, in order, in one session."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("page", ["tutorial.md"])
def test_examples_run(page, tmp_path, monkeypatch, oracle, capsys):
    oracle("sasdata")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.S)
    assert len(blocks) >= 4
    session: dict = {}
    for block in blocks:
        exec(compile(block, page, "exec"), session)  # the page's own code, in this checkout
    assert "rg_angstrom" in capsys.readouterr().out
    assert (tmp_path / "conalbumin.png").stat().st_size > 10_000
    assert (tmp_path / "conalbumin.h5").exists()


def test_every_link_between_pages_leads_somewhere():
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
