"""Tables of a new embedded catalog, made in this process.

tiled starts another process for them, which imports all of tiled again: 3 s of processor time for 0.1 s.
"""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def make_tables(path: Path) -> None:
    """Make an empty catalog's database, unless there is one.

    It is complete from the moment it has its name, so two processes may do this at once.

    Args:
        path: the SQLite file, in a folder that exists.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: it cannot be written.
    """
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with ThreadPoolExecutor(1) as thread:  # an IPython session's own thread has a loop that runs already
            thread.submit(asyncio.run, _make(draft)).result()
        _name(draft, path)
    finally:
        for left in (draft, *path.parent.glob(f"{draft.name}-*")):
            left.unlink(missing_ok=True)


def _name(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        draft.rename(path)


async def _make(path: Path) -> None:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.catalog.alembic_constants import ALEMBIC_DIR
    from tiled.catalog.core import initialize_database

    def stamp(connection: Connection) -> None:
        MigrationContext.configure(connection).stamp(ScriptDirectory(str(ALEMBIC_DIR)), "head")

    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    try:
        await initialize_database(engine)
        async with engine.begin() as connection:
            await connection.run_sync(stamp)
    finally:
        await engine.dispose()
