"""The table of `pooltable map`: one row for each combination of arguments, kept in a SQLite file from run to run.

    maps(name, command, runs)                    a command, and the table of its rows
    map_PROGRAM_HASH(id, host, arguments, seq, run, status)

A row is known by its host and arguments. `run` is the last run that was given them: what a run works on are the rows
with its number, so that what an earlier one was given, and this one was not, stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pooltable.arguments import Given
from pooltable.errors import UsageError

if TYPE_CHECKING:
    from pooltable.table.table import TaskTable

_BUSY_SECONDS = 60.0


@dataclass(frozen=True)
class Taken:
    """What a run is about: its rows are those with this number of `run` or a later one."""

    run: int
    left: tuple[int, ...]  # the seq of what is neither done nor failed, in order
    done: int
    failed: int


class Rows:
    """The rows of one command in a file, which is made when it is needed."""

    def __init__(self, file: str, program: str, identity: Sequence[object]) -> None:
        self.file = Path(file)
        written = json.dumps(identity)
        slug = re.sub(r"\W+", "_", Path(program).name.lower(), flags=re.ASCII).strip("_")[:24] or "command"
        self.name = f"map_{slug}_{hashlib.sha256(written.encode()).hexdigest()[:8]}"

    def take(self, command: str, given: Iterable[Given], again: bool = False) -> Taken:
        """Make a row of each combination that is new, and this run the one they belong to; `again`: none is over."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE IF NOT EXISTS maps (name TEXT PRIMARY KEY, command TEXT NOT NULL, runs INTEGER)")
            db.execute(
                f"CREATE TABLE IF NOT EXISTS {self.name} (id INTEGER PRIMARY KEY, host TEXT NOT NULL,"
                " arguments TEXT NOT NULL, seq INTEGER NOT NULL, run INTEGER NOT NULL,"
                " status TEXT NOT NULL DEFAULT 'PENDING', UNIQUE (arguments, host))"
            )
            db.execute(f"CREATE INDEX IF NOT EXISTS {self.name}_pending ON {self.name} (id) WHERE status = 'PENDING'")
            db.execute("INSERT OR IGNORE INTO maps VALUES (?, ?, 0)", (self.name, command))
            (run,) = db.execute(
                "UPDATE maps SET runs = runs + 1 WHERE name = ? RETURNING runs", (self.name,)
            ).fetchone()
            db.executemany(
                f"INSERT INTO {self.name} (host, arguments, seq, run) VALUES (?, ?, ?, {run})"  # noqa: S608
                " ON CONFLICT (arguments, host) DO UPDATE SET seq = excluded.seq, run = excluded.run",
                ((one.host, json.dumps(one.arguments), one.seq) for one in given),
            )
            if again:
                over = f"run = {run} AND status IN ('DONE', 'FAILED')"
                db.execute(f"UPDATE {self.name} SET status = 'PENDING' WHERE {over}")  # noqa: S608
            db.execute("COMMIT")
        return self.look(run)

    def look(self, run: int) -> Taken:
        """Where that run stands."""
        with self._open() as db:
            mine = f"FROM {self.name} WHERE run >= {int(run)}"
            counts = dict(db.execute(f"SELECT status, count(*) {mine} GROUP BY status").fetchall())
            left = f"SELECT seq {mine} AND status NOT IN ('DONE', 'FAILED') ORDER BY seq"
            seqs = tuple(seq for (seq,) in db.execute(left))
        return Taken(run, seqs, counts.get("DONE", 0), counts.get("FAILED", 0))

    def over(self, with_failed: bool) -> set[tuple[str, str]]:
        """Host and arguments of what would not be run again, without making anything."""
        if not self.file.exists():
            return set()
        words = "('DONE', 'FAILED')" if with_failed else "('DONE')"
        with self._open() as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (self.name,)).fetchone():
                return set()
            return set(db.execute(f"SELECT host, arguments FROM {self.name} WHERE status IN {words}"))  # noqa: S608

    def table(self, run: int) -> TaskTable:
        """The rows of that run as a table of tasks."""
        from sqlalchemy import URL

        from pooltable.table.table import TaskTable

        url = URL.create("sqlite", database=str(self.file))
        return TaskTable(
            url.render_as_string(hide_password=False),
            self.name,
            columns=("host", "arguments", "seq"),
            where=f"run >= {int(run)}",
        )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        from pooltable.table.sqlite import create_file

        try:
            if not self.file.exists():
                create_file(str(self.file))
            with closing(sqlite3.connect(self.file, timeout=_BUSY_SECONDS, isolation_level=None)) as db:
                yield db
        except sqlite3.Error as error:
            raise UsageError(f"{str(self.file)!r} cannot be used: {error}") from None
