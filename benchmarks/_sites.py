"""The databases of the measurements: SQLite, the tests' servers with every commit synced."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from pooltable import TaskTable
from pooltable.table.sqlite import create_file
from tests.on_servers.sturdy import SturdyMariaDB, SturdyPostgreSQL
from tests.servers import Missing, Server, running

PATIENCE = 150.0  # seconds, for one measurement
NOW = {"SQLite": "unixepoch()", "PostgreSQL": "now()", "MariaDB": "utc_timestamp(6)"}


class SyncedPostgreSQL(SturdyPostgreSQL):
    """As it is installed: every commit is synced."""

    def command(self) -> list[str]:
        return [*super().command(), "--fsync=on", "--shared_buffers=128MB"]


class SyncedMariaDB(SturdyMariaDB):
    def command(self) -> list[str]:
        return [*super().command(), "--innodb-flush-log-at-trx-commit=1"]


SERVERS: dict[str, type[Server]] = {"PostgreSQL": SyncedPostgreSQL, "MariaDB": SyncedMariaDB}


@dataclass
class Site:
    """A database: its name, its URL, and a folder for files beside it."""

    name: str
    url: str
    folder: Path
    server: Server | None = None

    def fill(self, rows: int, kind: str, done: int = 0) -> TaskTable:
        """The table `video` with so many PENDING rows of one kind, behind so many that are DONE and have their entries,
        and the index that claims need."""
        if self.server is None:
            return self._fill_file(rows, kind, done)
        self.server.make_empty()
        engine = sa.create_engine(self.url, poolclass=NullPool)
        count = done + rows
        numbers = f"generate_series(1, {count})" if self.name == "PostgreSQL" else f"seq_1_to_{max(count, 1)}"
        number = "generate_series" if self.name == "PostgreSQL" else "seq"
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE video (id integer PRIMARY KEY, content varchar(50), status varchar(20) NOT NULL)"
            )
            if count:
                status = f"CASE WHEN {number} <= {done} THEN 'DONE' ELSE 'PENDING' END"
                connection.exec_driver_sql(f"INSERT INTO video SELECT {number}, '{kind}', {status} FROM {numbers}")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE video" if self.name == "PostgreSQL" else "ANALYZE TABLE video")
        engine.dispose()
        return self._prepared(done)

    def _fill_file(self, rows: int, kind: str, done: int) -> TaskTable:
        for path in self.folder.glob("tasks.db*"):
            path.unlink()
        create_file(str(self.folder / "tasks.db"))
        with contextlib.closing(sqlite3.connect(self.folder / "tasks.db")) as db, db:
            db.execute("CREATE TABLE video (id INTEGER PRIMARY KEY, content TEXT, status TEXT NOT NULL)")
            words = ((key, kind, "DONE" if key <= done else "PENDING") for key in range(1, done + rows + 1))
            db.executemany("INSERT INTO video VALUES (?, ?, ?)", words)
        return self._prepared(done)

    def _prepared(self, done: int) -> TaskTable:
        table = TaskTable(self.url, "video")
        table.prepare()
        table.create_index()
        self._remember(done)
        return table

    def _remember(self, done: int) -> None:
        """The claims of the first so many rows, by hundreds, as a run would have left them."""
        now = NOW[self.name]
        claims = []
        for at in range(1, done + 1, 100):
            keys = list(range(at, min(at + 100, done + 1)))
            size, listed = len(keys), json.dumps(keys, separators=(",", ":"))
            claims.append(f"('nobody', {at}, 1, {now}, {now}, {size}, 0, '{listed}', '{'d' * size}')")
        columns = "runner_id, no, turn, claimed_at, closed_at, size, left_open, row_keys, ended"
        with self.connection() as run:
            for at in range(0, len(claims), 500):
                run(f"INSERT INTO pooltable_video_claims ({columns}) VALUES {', '.join(claims[at : at + 500])}")
            self._analyze(run, "pooltable_video_claims")

    def put_off(self, rows: int) -> None:
        """The first so many rows have failed once and wait for their next try, for longer than anything here takes."""
        later = {
            "SQLite": "unixepoch() + 36000",
            "PostgreSQL": "now() + interval '10 hours'",
            "MariaDB": "utc_timestamp(6) + interval 10 hour",
        }[self.name]
        now = NOW[self.name]
        with self.connection() as run:
            run(
                "INSERT INTO pooltable_video_entry (id, runner_id, claim_no, attempt, round, ended, fails, lost,"
                " rescued, claimed_at, finished_at, not_before) SELECT id, 'nobody', id, 1, 'nobody', 'retry', 1, 0, 0,"
                f" {now}, {now}, {later} FROM video WHERE id <= {rows}"
            )
            self._analyze(run, "pooltable_video_entry")

    def _analyze(self, run: Callable[[str], Any], table: str) -> None:
        if self.server is not None:
            run(f"ANALYZE {table}" if self.name == "PostgreSQL" else f"ANALYZE TABLE {table}")

    def insert(self, key: int, kind: str) -> None:
        with self.connection() as run:
            run(f"INSERT INTO video (id, content, status) VALUES ({key}, '{kind}', 'PENDING')")

    @contextlib.contextmanager
    def connection(self) -> Iterator[Callable[[str], Any]]:
        """A function that runs a statement and commits it."""
        if self.server is None:
            with contextlib.closing(sqlite3.connect(self.folder / "tasks.db", timeout=30, isolation_level=None)) as db:
                yield lambda sql: db.execute(sql).fetchall()
            return
        engine = sa.create_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:

            def run(sql: str) -> Any:
                result = connection.exec_driver_sql(sql)
                return result.fetchall() if result.returns_rows else None

            yield run
        engine.dispose()

    def done(self) -> int:
        with self.connection() as run:
            return int(run("SELECT count(*) FROM video WHERE status = 'DONE'")[0][0])

    def version(self) -> str:
        with self.connection() as run:
            return (
                str(run("SELECT sqlite_version()" if self.server is None else "SELECT version()")[0][0])
                .split(" on ")[0]
                .removeprefix("PostgreSQL ")
            )


@contextlib.contextmanager
def sites(folder: Path) -> Iterator[dict[str, Site]]:
    """SQLite, and each server that can be had."""
    with contextlib.ExitStack() as stack:
        found = {"SQLite": Site("SQLite", f"sqlite:///{folder / 'tasks.db'}", folder)}
        for name, kind in SERVERS.items():
            try:
                server = stack.enter_context(running(kind))
            except Missing as missing:
                print(f"{name} is left out: {missing}", file=sys.stderr)
                continue
            server.make_empty()
            found[name] = Site(name, server.url, folder, server)
        yield found
