"""SQLite 3.35 and later: files, their modes, and what can be wrong with them."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from typing import Any, ClassVar

import sqlalchemy as sa

from pooltable.errors import DatabaseError, DatabaseUnavailable, MappingError
from pooltable.table.conversion import Limits
from pooltable.table.database import Connection, Refused
from pooltable.table.dialects import Dialect, Index, Trouble
from pooltable.table.mapping import Mapping
from pooltable.table.sqlite_statements import SQLiteStatements
from pooltable.table.statements import Statements
from pooltable.table.values import Converter

# How long SQLite itself waits for a lock. It hears no signal meanwhile; what takes longer is tried again.
BUSY_SECONDS = 1.0

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
    begin_reading = "PRAGMA query_only = ON"
    is_server = False
    # Seconds since 1970, to the millisecond; unixepoch('subsec') is NULL, without an error, before SQLite 3.42.
    now = "((julianday('now') - 2440587.5) * 86400.0)"
    skip_locked = ""
    types: ClassVar[dict[str, str]] = {
        "id": "TEXT",
        "name": "TEXT",
        "text": "TEXT",
        "letters": "TEXT",
        "integer": "INTEGER",
        "long": "INTEGER",
        "real": "REAL",
        "time": "REAL",
    }
    # Not AUTOINCREMENT, which costs 70 us a commit: `prune` leaves the greatest number, so none is given twice.
    counted = "INTEGER PRIMARY KEY"
    keys_at_once = 10_000  # of which each column is a bound value, and there may be 32,766 of those

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        if sqlite3.sqlite_version_info < (3, 35):
            raise MappingError(f"this Python has SQLite {sqlite3.sqlite_version}; pooltable needs 3.35 or later")
        if not engine.url.database or engine.url.database == ":memory:" or "mode=memory" in engine.url.database:
            raise MappingError(
                "a SQLite database in memory belongs to one connection alone; use a file, for example"
                " sqlite:///tasks.db"
            )
        self.path = _path(engine.url)

    def later(self, seconds: str) -> str:
        return f"{self.now} + {seconds}"

    def epoch(self, column: str) -> str:
        return column

    def name_of(self, url: sa.URL) -> str:
        return os.path.basename(_path(url)) or str(url)

    def identity(self) -> object:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            raise MappingError(f"there is no file {self.path!r} (looked in {os.getcwd()})") from None
        except OSError as error:
            raise DatabaseUnavailable(f"{self.path!r} cannot be reached: {error.strerror}") from error
        if stat.S_ISDIR(found.st_mode):
            raise MappingError(f"{self.path!r} is a folder, not a database")
        return found.st_dev, found.st_ino

    def opened(self, raw: Any) -> None:
        raw.isolation_level = None
        raw.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    def still_there(self, raw: Any, identity: object) -> bool:
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return identity == (found.st_dev, found.st_ino)

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

    def advice(self, error: BaseException) -> str:
        return "; give --db the path of a SQLite file that is whole" if self.hopeless(error) else ""

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
        return Converter(mapping, Limits(nan=False, infinity=True, dates_as_text=True))

    def has_table(self, connection: Connection, schema: str | None, name: str) -> bool:
        prefix = f"{self.quote(schema)}." if schema else ""
        return bool(
            connection.all(
                f"SELECT 1 FROM {prefix}sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (name,)
            )
        )

    def indexes(self, connection: Connection, mapping: Mapping) -> list[Index]:
        prefix = f"{self.quote(mapping.schema)}." if mapping.schema else ""
        found = []
        for index in connection.all(f"PRAGMA {prefix}index_list({self.quote(mapping.name)})"):
            columns = [str(row[2]) for row in connection.all(f"PRAGMA {prefix}index_info({self.quote(index[1])})")]
            text = connection.first(
                f"SELECT sql FROM {prefix}sqlite_master WHERE type = 'index' AND name = ?", (index[1],)
            )
            condition = re.split(r"\bWHERE\b", (text and text[0]) or "", maxsplit=1, flags=re.IGNORECASE)[1:]
            found.append(Index(str(index[1]), columns, condition[0] if condition else ""))
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
