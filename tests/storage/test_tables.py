"""Tables of a new catalog: the same as tiled's own, complete however many make them at once."""

import asyncio
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nfphasing_bluesky.storage.tables import make_tables


def statements(path: Path) -> list[str]:
    """What makes this database; times of creation, to the second, left out."""
    with sqlite3.connect(path) as database:
        return sorted(line for line in database.iterdump() if not line.startswith("INSERT")) + [
            str(row) for row in database.execute("SELECT version_num FROM alembic_version")
        ]


def rows(path: Path) -> list[tuple]:
    with sqlite3.connect(path) as database:
        return [
            *database.execute("SELECT id, parent, key, structure_family, metadata, specs FROM nodes"),
            *database.execute("SELECT id, name, is_public FROM access_tags"),
            *database.execute("SELECT * FROM node_access_tags_association"),
            *database.execute("SELECT * FROM nodes_closure"),
        ]


def test_tables_are_those_that_tiled_makes(tmp_path):
    ours, theirs = tmp_path / "catalog.db", tmp_path / "tiled.db"
    make_tables(ours)
    subprocess.run(
        [sys.executable, "-m", "tiled", "catalog", "init", f"sqlite:///{theirs}"],
        check=True,
        capture_output=True,
    )
    assert statements(ours) == statements(theirs)
    assert rows(ours) == rows(theirs)


def test_several_at_once_leave_one_whole_database(tmp_path):
    path = tmp_path / "catalog.db"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(make_tables, [path] * 4))
    assert [left.name for left in tmp_path.iterdir()] == ["catalog.db"]
    assert len(rows(path)) > 2


def test_inside_a_running_loop_and_over_an_old_database(tmp_path):
    path = tmp_path / "catalog.db"

    async def session() -> None:
        make_tables(path)

    asyncio.run(session())
    before = path.read_bytes()
    make_tables(path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match="unable to open database file"):
        make_tables(tmp_path / "missing" / "catalog.db")
    assert list(tmp_path.iterdir()) == []
