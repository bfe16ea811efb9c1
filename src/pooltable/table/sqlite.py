"""SQLite 3.35 and later: one writer at a time, so a transaction that has begun sees nothing move.

Finishes are written in the hope that every row is still as its claim left it, which the number of changed rows tells; only
where it does not come out right is each row looked at. Statements for many rows go through executemany: about two
microseconds a row, less than any way of passing a list.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import sqlalchemy as sa

from pooltable.errors import DatabaseError, DatabaseUnavailable, MappingError
from pooltable.table.database import Connection, Refused
from pooltable.table.dialects import Dialect, Trouble
from pooltable.table.mapping import Mapping
from pooltable.table.schema import names_for
from pooltable.table.statements import Opening, Picked, Statements, Write
from pooltable.table.states import ROUND_OVER, Claim, Status, explain
from pooltable.table.values import Converter

BUSY_SECONDS = 5.0

_TROUBLES = {
    sqlite3.SQLITE_BUSY: Trouble.BUSY,
    sqlite3.SQLITE_LOCKED: Trouble.BUSY,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_PERM: Trouble.READ_ONLY,
    sqlite3.SQLITE_CONSTRAINT: Trouble.REFUSED,
    sqlite3.SQLITE_MISMATCH: Trouble.REFUSED,
    sqlite3.SQLITE_TOOBIG: Trouble.REFUSED,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_IOERR: Trouble.FULL,
    sqlite3.SQLITE_CANTOPEN: Trouble.LOST,
}
# The file was replaced or removed under the connection; a new connection opens what is there now.
_MOVED = 1032  # SQLITE_READONLY_DBMOVED, which Python names from 3.11 on only in some builds

_NETWORK = re.compile(
    r"^(nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|glusterfs|lustre|beegfs|gpfs|fuse\.(sshfs|s3fs|rclone|gcsfuse|glusterfs|ceph).*)$"
)


class SQLite(Dialect):
    name = "sqlite"
    mark = "?"
    begin = "BEGIN IMMEDIATE"
    # Seconds since 1970, to the millisecond; unixepoch('subsec') is NULL, without an error, before SQLite 3.42.
    now = "((julianday('now') - 2440587.5) * 86400.0)"
    skip_locked = ""
    types: ClassVar[dict[str, str]] = {
        "id": "TEXT",
        "name": "TEXT",
        "text": "TEXT",
        "integer": "INTEGER",
        "long": "INTEGER",
        "real": "REAL",
        "time": "REAL",
    }

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        if sqlite3.sqlite_version_info < (3, 35):
            raise MappingError(f"this Python has SQLite {sqlite3.sqlite_version}; pooltable needs 3.35 or later")
        if not engine.url.database or engine.url.database == ":memory:" or "mode=memory" in engine.url.database:
            raise MappingError(
                "a SQLite database in memory belongs to one connection alone; use a file, for example sqlite:///tasks.db"
            )
        self._file: tuple[int, int] | None = None
        self.path = _path(engine.url)

    def later(self, seconds: str) -> str:
        return f"{self.now} + {seconds}"

    def epoch(self, column: str) -> str:
        return column

    def name_of(self, url: sa.URL) -> str:
        return os.path.basename(_path(url)) or str(url)

    def refuse_missing(self, url: sa.URL) -> None:
        try:
            self._file = _identity(self.path)
        except FileNotFoundError:
            raise MappingError(f"there is no file {self.path!r} (looked in {os.getcwd()})") from None
        except OSError as error:
            raise DatabaseUnavailable(f"{self.path!r} cannot be reached: {error.strerror}") from error
        if os.path.isdir(self.path):
            raise MappingError(f"{self.path!r} is a folder, not a database")

    def opened(self, raw: Any) -> None:
        raw.isolation_level = None
        raw.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    def still_there(self, raw: Any) -> bool:
        try:
            return self._file == _identity(self.path)
        except OSError:
            return False

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.in_transaction)

    def trouble(self, error: BaseException, raw: Any) -> Trouble:
        if isinstance(error, (Refused, OverflowError, UnicodeError)):
            return Trouble.REFUSED
        code = getattr(error, "sqlite_errorcode", None)
        if code == _MOVED:
            return Trouble.LOST
        if code is not None:
            return _TROUBLES.get(code & 0xFF, Trouble.OTHER)
        # Errors without a code are the driver's own: a value of a type that it cannot bind.
        return (
            Trouble.REFUSED if isinstance(error, (sqlite3.InterfaceError, sqlite3.ProgrammingError)) else Trouble.OTHER
        )

    def hopeless(self, error: BaseException) -> bool:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)

    def version(self, connection: Connection) -> int | None:
        row = connection.first("PRAGMA data_version")
        return None if row is None else int(row[0])

    def unique_keys(self, connection: sa.Connection, schema: str | None, name: str) -> list[tuple[str, ...]]:
        # SQLAlchemy reads inline constraints from the table's text, and misses some.
        prefix = f"{self.quote(schema)}." if schema else ""
        found = []
        for index in connection.exec_driver_sql(f"PRAGMA {prefix}index_list({self.quote(name)})").all():
            columns = connection.exec_driver_sql(f"PRAGMA {prefix}index_info({self.quote(index[1])})").all()
            if index[2] and not index[4] and all(column[2] is not None for column in columns):
                found.append(tuple(str(column[2]) for column in columns))
        return found

    def key_types(self, connection: Connection, mapping: Mapping) -> list[str]:
        if mapping.integer_key:
            return ["INTEGER"]
        prefix = f"{self.quote(mapping.schema)}." if mapping.schema else ""
        declared = {row[1]: row[2] for row in connection.all(f"PRAGMA {prefix}table_info({self.quote(mapping.name)})")}
        collations: dict[str, str] = {}
        wanted = {column.name for column in mapping.key}
        for index in connection.all(f"PRAGMA {prefix}index_list({self.quote(mapping.name)})"):
            parts = [part for part in connection.all(f"PRAGMA {prefix}index_xinfo({self.quote(index[1])})") if part[5]]
            if index[2] and {part[2] for part in parts} == wanted:
                collations = {part[2]: part[4] for part in parts}
        return [
            declared[column.name]
            + (f" COLLATE {collations[column.name]}" if collations.get(column.name, "BINARY") != "BINARY" else "")
            for column in mapping.key
        ]

    def entry_options(self, mapping: Mapping) -> str:
        # One tree less to keep where the key is not the row's own number.
        return "" if mapping.integer_key else " WITHOUT ROWID"

    def create_index(self, name: str, schema: str | None, table: str, columns: str, condition: str) -> str:
        if schema:
            name, table = f"{self.quote(schema)}.{self.quote(name)}", table.removeprefix(f"{self.quote(schema)}.")
        else:
            name = self.quote(name)
        return f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({columns})" + (
            f" WHERE {condition}" if condition else ""
        )

    def converter(self, mapping: Mapping) -> Converter:
        # It would keep NaN as NULL, without a word.
        return Converter(mapping, nan=False, infinity=True, dates_as_text=True)

    def has_table(self, connection: Connection, schema: str | None, name: str) -> bool:
        prefix = f"{self.quote(schema)}." if schema else ""
        return bool(
            connection.all(
                f"SELECT 1 FROM {prefix}sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (name,)
            )
        )

    def indexes(self, connection: Connection, mapping: Mapping) -> list[tuple[list[str], str]]:
        prefix = f"{self.quote(mapping.schema)}." if mapping.schema else ""
        found = []
        for index in connection.all(f"PRAGMA {prefix}index_list({self.quote(mapping.name)})"):
            columns = [str(row[2]) for row in connection.all(f"PRAGMA {prefix}index_info({self.quote(index[1])})")]
            text = connection.first(
                f"SELECT sql FROM {prefix}sqlite_master WHERE type = 'index' AND name = ?", (index[1],)
            )
            condition = re.split(r"\bWHERE\b", (text and text[0]) or "", maxsplit=1, flags=re.IGNORECASE)[1:]
            found.append((columns, condition[0] if condition else ""))
        return found

    def statements(self, mapping: Mapping, job: str) -> Statements:
        return SQLiteStatements(mapping, job, self)

    def files(self) -> tuple[str, ...]:
        return self.path, f"{self.path}-wal"

    def unsafe_file_system(self, url: sa.URL) -> str | None:
        kind = _file_system(self.path)
        return kind if kind and _NETWORK.match(kind) else None


def _path(url: sa.URL) -> str:
    path = str(url.database)
    if path.startswith("file:"):
        path = path[5:].split("?")[0]
        path = path.removeprefix("//")
    return path


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _file_system(path: str) -> str | None:
    """The kind of file system that holds the path, as Linux tells it; None elsewhere."""
    path, best, kind = os.path.realpath(path), "", None
    try:
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                before, after = line.split(" - ", 1)
                point = before.split(" ")[4].replace("\\040", " ")
                if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
                    best, kind = point, after.split(" ")[0]
    except OSError:
        return None
    return kind


def create_file(path: str) -> None:
    """Makes an empty SQLite file in WAL mode, in which readers and the writer do not wait for each other."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        raise DatabaseError(f"{path}: {error}") from error
    finally:
        connection.close()


class _NotAll(Exception):
    """Fewer rows changed than were to be written."""


class SQLiteStatements(Statements):
    together = True
    rows_of_values = "VALUES "

    def build(self) -> None:
        super().build()
        m, n = self.mapping, names_for(self.mapping, self.job, self.dialect)
        pending, doing = self.is_word[Status.PENDING], self.set_word[Status.DOING]
        self.sql_opening = (
            f"SELECT {self.dialect.now}, (SELECT paused_at FROM {n.jobs} WHERE job = ?),"
            f" (SELECT expires_at FROM {n.runners} WHERE id = ?), (SELECT min(not_before) FROM {self.e} WHERE not_before IS NOT NULL)"
        )
        known = "runner_id, claim_no, attempt, fails, lost, rescued, round, ended"
        self.sql_due = (
            f"SELECT {self.e_keys}, {', '.join('pt_e.' + name for name in known.split(', '))} FROM {self.e} AS pt_e WHERE pt_e.not_before <= ?"
            f" AND EXISTS (SELECT 1 FROM {self.t} WHERE {self.same} AND {pending}{self.scope})"
            " ORDER BY pt_e.not_before LIMIT ?"
        )
        # The entries' columns are renamed, so that no name in the user's own conditions can mean one of them.
        renamed = ", ".join(
            f"{name} AS pooltable_{i}" for i, name in enumerate((*n.key, *known.split(", "), "not_before"))
        )
        entry = "pooltable_entry"
        joined = " AND ".join(f"{entry}.pooltable_{i} = {column.sql}" for i, column in enumerate(m.key))
        first, last = self.width, self.width + len(known.split(", "))
        found = ", ".join(f"{entry}.pooltable_{i}" for i in range(first, last))
        positions = f", {self.positions}" if self.positions else ""
        head = (
            f"SELECT {self.keys}, {found}{positions} FROM {self.t} LEFT JOIN (SELECT {renamed} FROM {self.e}) AS {entry} ON {joined}"
            f" WHERE {pending}{self.has_key} AND {entry}.pooltable_{last} IS NULL{self.scope}"
        )
        tail = f" ORDER BY {m.order.sql} LIMIT ?"
        self.sql_waiting = head + tail
        self.sql_waiting_after = head + self.behind + tail
        self.known_from, self.known_to = first, last
        marks = ", ".join("?" for _ in range(self.width))
        self.sql_open = (
            f"INSERT INTO {self.e} ({self.entry_keys}, runner_id, claim_no, attempt, round, fails, lost, rescued, claimed_at)"
            f" VALUES ({marks}, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT ({self.entry_keys}) DO UPDATE SET runner_id = excluded.runner_id,"
            " claim_no = excluded.claim_no, attempt = excluded.attempt, round = excluded.round, ended = NULL, fails = excluded.fails,"
            " lost = excluded.lost, rescued = excluded.rescued, not_before = NULL, claimed_at = excluded.claimed_at"
        )
        self.sql_doing = f"UPDATE {self.t} SET {doing} WHERE {self.row_is} AND {pending}"
        fence = f"WHERE {self.entry_is} AND runner_id = ? AND claim_no = ? AND ended IS NULL"
        self.sql_done = f"UPDATE {self.e} SET ended = 'done', finished_at = ?, seconds = ?, worker = ?, error_kind = NULL, error = NULL, log = NULL {fence}"
        self.sql_ended = (
            f"UPDATE {self.e} SET ended = ?, fails = ?, lost = ?, rescued = ?, not_before = ?, finished_at = ?, seconds = ?, worker = ?,"
            f" error_kind = ?, error = ?, log = ? {fence}"
        )

    def opening(self, c: Connection, runner: str) -> Opening:
        now, paused, expires, first_due = c.all(self.sql_opening, (self.job, runner))[0]
        left = None if expires is None else expires - now
        return Opening(now, paused is not None, left, first_due is not None and first_due <= now)

    def due(self, c: Connection, count: int, now: Any) -> list[Picked]:
        w = self.width
        return [Picked(row[:w], (), row[w:]) for row in c.all(self.sql_due, (now, count))]

    def waiting(self, c: Connection, count: int, after: tuple[Any, ...] | None) -> list[Picked]:
        w, to = self.width, self.known_to
        if after is None:
            rows = c.all(self.sql_waiting, (count,))
        else:
            rows = c.all(self.sql_waiting_after, (*self.behind_values(after), count))
        return [Picked(row[:w], row[to:], row[w:to]) for row in rows]

    def take(
        self, c: Connection, runner: str, picked: Sequence[Picked], first: int, now: Any
    ) -> tuple[list[Claim], int]:
        claims, rows = [], []
        for number, (key, _, (known, _, attempt, fails, lost, rescued, round_, ended)) in enumerate(picked, first):
            if known is None:
                attempt = 0
            if known is None or ended in ROUND_OVER:
                fails = lost = rescued = 0
                round_ = f"{runner}-{number}"
            claims.append(Claim(key, number, attempt + 1, fails, lost, rescued, round_))
            rows.append((*key, runner, number, attempt + 1, round_, fails, lost, rescued, now))
        c.many(self.sql_open, rows)
        return claims, c.many(self.sql_doing, [row.key for row in picked])

    def write(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> set[int] | None:
        try:
            c.attempt(lambda: self._write_all(c, runner, writes, now))
            return None
        except _NotAll:
            pass
        good = [write for write in writes if explain(self.find(c, write.claim.key)[0], runner, write.claim) is None]
        try:
            c.attempt(lambda: self._write_all(c, runner, good, now))
            return {write.claim.claim_no for write in good}
        except _NotAll:
            # A trigger leaves a row quietly alone: one by one, to see which.
            return {write.claim.claim_no for write in good if self._write_one(c, runner, write, now)}

    def _write_one(self, c: Connection, runner: str, write: Write, now: Any) -> bool:
        try:
            c.attempt(lambda: self._write_all(c, runner, [write], now))
        except _NotAll:
            return False
        return True

    def _write_all(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> None:
        groups: defaultdict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
        done, ended = [], []
        for write in writes:
            claim = write.claim
            groups[write.status, write.columns].append((*write.values, *claim.key))
            if write.end == "done":
                done.append((now, write.seconds, write.worker, *claim.key, runner, claim.claim_no))
            else:
                due = now + write.pause if write.pause else None
                facts = (
                    write.end,
                    write.fails,
                    write.lost,
                    claim.rescued,
                    due,
                    now,
                    write.seconds,
                    write.worker,
                    write.kind or None,
                    write.detail or None,
                    write.log or None,
                )
                ended.append((*facts, *claim.key, runner, claim.claim_no))
        for (status, columns), rows in groups.items():
            if c.many(self.sql_write(status, columns), rows) != len(rows):
                raise _NotAll
        for sql, facts_of in ((self.sql_done, done), (self.sql_ended, ended)):
            if facts_of and c.many(sql, facts_of) != len(facts_of):
                raise _NotAll
