"""What `doctor` asks of SQLite, and of the file."""

from __future__ import annotations

import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pooltable.table.checkup import ANSWER_SECONDS, LOCK_SECONDS, Checkup, Plan
from pooltable.table.finding import Finding, error, ok, warning

LARGE_ROW = 1_000_000  # bytes
LARGE_LOG = 256 * 1024 * 1024  # bytes; a file in WAL mode is written back at about 4 MB


class SQLiteCheckup(Checkup):
    def bound(self) -> None:
        self.c.run(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")

    def begin(self) -> None:
        until = time.monotonic() + ANSWER_SECONDS
        self.c.raw.set_progress_handler(lambda: time.monotonic() > until, 100_000)
        # Only a claim writes; all else must also work beside somebody who writes for long.
        self.c.run("BEGIN")

    def busy(self, what: str, failed: BaseException) -> Finding:
        detail = f"others have held the file locked for more than {LOCK_SECONDS} s: {self.s.dialect.said(failed)}"
        return error(what, detail, f"see who holds it: fuser -v {shlex.quote(self.path)}")

    @property
    def path(self) -> str:
        return str(self.database.engine.url.database).removeprefix("file:").split("?")[0]

    def own_checks(self) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
        return [
            ("file system", self.file_system),
            ("journal mode", self.journal),
            ("large rows", self.large_rows),
        ]

    def server(self) -> Iterator[Finding]:
        yield ok("server", f"SQLite {sqlite3.sqlite_version}")

    def read_only(self) -> Iterator[Finding]:
        folder = os.path.dirname(os.path.abspath(self.path))
        for place, what in ((self.path, "the file"), (folder, "its folder, where the log is kept,")):
            if not os.access(place, os.W_OK):
                yield error("read only", f"{what} may not be written", f"chmod u+w {shlex.quote(place)}")
        if "mode=ro" in str(self.database.engine.url):
            yield error("read only", "the URL says mode=ro", "give --db a URL without it")

    def file_system(self) -> Iterator[Finding]:
        unsafe = self.s.dialect.unsafe_file_system(self.database.engine.url)
        if unsafe:
            detail = f"the file is on {unsafe}, whose locks SQLite cannot rely on"
            remedy = "move the file to a disk of this machine, or use PostgreSQL or MySQL"
            yield error("network file system", detail, remedy)

    def journal(self) -> Iterator[Finding]:
        ((mode,),) = self.c.all("PRAGMA journal_mode")
        shown = shlex.quote(self.path)
        if mode != "wal":
            detail = f"is {mode!r}: readers and the writer wait for each other, and each commit costs twice"
            yield warning("journal mode", detail, f"sqlite3 {shown} 'PRAGMA journal_mode = WAL'")
            return
        try:
            size = os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            size = 0
        if size > LARGE_LOG:
            detail = f"the log has grown to {size / 1e6:.0f} MB: some connection has been reading for long"
            remedy = f"end that one, then: sqlite3 {shown} 'PRAGMA wal_checkpoint(TRUNCATE)'"
            yield warning("long transaction", detail, remedy)
        else:
            yield ok("journal mode", mode)

    def large_rows(self) -> Iterator[Finding]:
        columns = (*self.m.columns, *self.m.write, *((self.m.result,) if self.m.result else ()))
        sizes = " + ".join(f"coalesce(length({column.sql}), 0)" for column in columns) or "0"
        some = f"(SELECT * FROM {self.s.t} LIMIT 1000) AS {self.s.dialect.quote(self.m.name)}"
        longest = self.c.all(f"SELECT max({sizes}) FROM {some}")[0][0] or 0
        if longest > LARGE_ROW:
            self.room = 1  # what the claim of a hundred of them would write is no measurement
            detail = f"a row holds {longest / 1e6:.0f} MB, and SQLite may write all of it anew when its status changes"
            remedy = "store paths, or keep the content in a table of its own; words of equal length help as well"
            yield warning("large rows", detail, remedy)
        else:
            yield ok("large rows", f"the largest of those looked at holds {longest} bytes")

    def claim(self) -> Iterator[Finding]:
        self.c.rollback()
        self.c.begin()
        yield from super().claim()

    def plan(self, sql: str, values: Sequence[Any]) -> Plan:
        steps = [f"{row[3]} " for row in self.c.all(f"EXPLAIN QUERY PLAN {sql}", values)]
        # Until 3.36 it said TABLE as well. Names stand there without quotes, whatever is in them.
        reads = tuple(f"{verb} {self.m.name} " for verb in ("SCAN", "SEARCH", "SCAN TABLE", "SEARCH TABLE"))
        read = next((step for step in steps if step.startswith(reads)), "")
        names = [index.name for index in self.s.dialect.indexes(self.c, self.m)]
        index = next((name for name in names if f" INDEX {name} " in read), None)
        return Plan(index, any("TEMP B-TREE" in step for step in steps))

    def transactions(self) -> Iterator[Finding]:
        """Who writes for long is met by the claim, who reads for long by the size of the log."""
        return iter(())

    def trigger_names(self) -> list[str]:
        rows = self.c.all(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE AND sql LIKE"
            " '%UPDATE%'",
            (self.m.name,),
        )
        return [str(name) for (name,) in rows]

    def generated(self) -> list[str]:
        rows = self.c.all(f"PRAGMA table_xinfo({self.s.dialect.quote(self.m.name)})")
        return [str(row[1]) for row in rows if row[6] in (2, 3)]
