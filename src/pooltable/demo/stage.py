"""The folder of a demonstration and its table `video(id, content, status, caption)`, in plain SQL.

The table is an ordinary one of the user's: pooltable finds it and is told nothing but its name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset(
    (".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
)


@dataclass(frozen=True)
class Video:
    """One row as it stands in the table."""

    id: int
    content: str
    status: str
    caption: str | None


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, timeout=30)) as connection, connection:
        yield connection


def create(file: Path) -> None:
    """Make the table, if it is not there."""
    with _opened(file) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS video (id INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE,"
            " status TEXT NOT NULL DEFAULT 'PENDING', caption TEXT)"
        )


def add(file: Path, contents: Iterable[Path]) -> int:
    """Add a PENDING row for each file that has none yet; returns how many were new."""
    with _opened(file) as connection:
        before = connection.total_changes
        connection.executemany(
            "INSERT OR IGNORE INTO video (content) VALUES (?)", [(str(content),) for content in contents]
        )
        return connection.total_changes - before


def videos(file: Path) -> list[Video]:
    """All rows, in the order of their numbers."""
    with _opened(file) as connection:
        return [Video(*row) for row in connection.execute("SELECT id, content, status, caption FROM video ORDER BY id")]


def files_in(folder: Path) -> list[Path]:
    """The videos in a folder and the folders below it, by their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def url(file: Path) -> str:
    """The database as SQLAlchemy names it."""
    return f"sqlite:///{file}"
