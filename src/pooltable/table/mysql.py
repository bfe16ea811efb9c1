"""MySQL 8.0.13 and later, MariaDB 10.6 and later, through PyMySQL: one statement for each step, READ COMMITTED.

There is no RETURNING that both know, so rows are locked, read, and then written, in the order of their keys. Many rows are
changed by one statement: entries by an INSERT that turns into an update, columns of rows by a CASE over the keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import pymysql
import sqlalchemy as sa
from pymysql.constants import SERVER_STATUS
from sqlalchemy.sql import sqltypes

from pooltable.errors import MappingError
from pooltable.events import Key
from pooltable.table.database import Connection, Refused
from pooltable.table.dialects import Dialect, Trouble
from pooltable.table.mapping import Mapping
from pooltable.table.requeue import in_order
from pooltable.table.states import ROUND_OVER, Claim, Status
from pooltable.table.statements import Opening, Picked, Statements, Write
from pooltable.table.values import Converter

Item = TypeVar("Item")

# How long a statement waits for a lock; the server's own 50 seconds are longer than a lease.
LOCK_SECONDS = 5
# MariaDB turns longer lists of values into joins, which lock more than the rows that are meant.
KEYS_AT_ONCE = 500
VALUES_AT_ONCE = 50

_BUSY = {1205, 1213, 1020, 1317, 3024, 3572, 1969}
_LOST = {1053, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031}
_READ_ONLY = {1290, 1792, 1836}
_FULL = {1021, 1030, 1037, 1040, 1041, 1114, 1203, 3675}
# Refusals that PyMySQL gives as general errors: signals, checks, values of a wrong type.
_REFUSED = {1048, 1364, 1366, 1406, 1411, 1644, 3140, 3819, 4025}

_OVER = ", ".join(f"'{ended}'" for ended in ROUND_OVER)


class MySQL(Dialect):
    name = "mysql"
    begin = "START TRANSACTION"
    now = "UTC_TIMESTAMP(6)"
    partial_indexes = False
    key_in_every_index = True
    row_comparison = False
    types: ClassVar[dict[str, str]] = {
        "id": "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin",
        "name": "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "text": "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "integer": "INTEGER",
        "long": "BIGINT",
        "real": "DOUBLE",
        "time": "DATETIME(6)",
    }
    table_options = " ENGINE=InnoDB"

    def later(self, seconds: str) -> str:
        return f"{self.now} + INTERVAL ROUND({seconds} * 1000000) MICROSECOND"

    def epoch(self, column: str) -> str:
        return f"(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {column}) / 1e6)"

    def opened(self, raw: Any) -> None:
        raw.autocommit(True)
        with raw.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            # Else what is too long or of a wrong type would be cut or changed without a word.
            cursor.execute(
                f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}, sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')"
            )

    def still_there(self, raw: Any) -> bool:
        return bool(raw.open)

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.open and raw.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def trouble(self, error: BaseException, raw: Any) -> Trouble:
        if raw is not None and not raw.open:
            return Trouble.LOST
        if isinstance(error, (Refused, OverflowError, UnicodeError)):
            return Trouble.REFUSED
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        for codes, trouble in ((_BUSY, Trouble.BUSY), (_LOST, Trouble.LOST), (_READ_ONLY, Trouble.READ_ONLY), (_FULL, Trouble.FULL)):
            if code in codes:
                return trouble
        if code in _REFUSED or isinstance(error, (pymysql.err.DataError, pymysql.err.IntegrityError)):
            return Trouble.REFUSED
        if code == 0 and isinstance(error, pymysql.err.ProgrammingError):
            return Trouble.REFUSED  # the driver's own: a value that it cannot write
        return Trouble.LOST if isinstance(error, pymysql.err.InterfaceError) else Trouble.OTHER

    def hopeless(self, error: BaseException) -> bool:
        # Wrong password, no such database, no right to it.
        return bool(error.args) and error.args[0] in (1044, 1045, 1049)

    def check_server(self, connection: sa.Connection) -> None:
        dialect: Any = connection.dialect
        version, maria = dialect.server_version_info, dialect.is_mariadb
        oldest = (10, 6) if maria else (8, 0, 13)
        if tuple(version[: len(oldest)]) < oldest:
            kind = "MariaDB" if maria else "MySQL"
            shown = ".".join(map(str, version[:3]))
            raise MappingError(f"this server is {kind} {shown}; pooltable needs MySQL 8.0.13 or MariaDB 10.6, or later")

    def completed(self, connection: sa.Connection, mapping: Mapping) -> Mapping:
        engine = connection.execute(
            sa.text("SELECT engine FROM information_schema.tables WHERE table_schema = coalesce(:s, database()) AND table_name = :t"),
            {"s": mapping.schema, "t": mapping.name},
        ).scalar()
        if str(engine).upper() != "INNODB":
            raise MappingError(
                f"table {mapping.name!r} is kept by {engine}, which has no transactions; change it with: ALTER TABLE {self.plain(mapping.sql)} ENGINE=InnoDB"
            )
        for column in mapping.key:
            if isinstance(column.type, (sqltypes.Text, sqltypes._Binary)) and not getattr(column.type, "length", None):
                raise MappingError(f"key column {column.name!r} is {column.type}, whose index holds only its beginning; use VARCHAR")
        return mapping

    def reflected(self, name: str) -> str:
        return name.replace("``", "`")

    def unique_keys(self, connection: sa.Connection, schema: str | None, name: str) -> list[tuple[str, ...]]:
        inspector = sa.inspect(connection)
        return [
            tuple(self.reflected(str(column)) for column in index["column_names"])
            for index in inspector.get_indexes(name, schema=schema)
            # An index over the beginnings of values keeps only those unique.
            if index["unique"] and None not in index["column_names"] and not index.get("dialect_options", {}).get(f"{self.sqlalchemy.name}_length")
        ]

    def converter(self, mapping: Mapping) -> Converter:
        return Converter(mapping, nan=False, infinity=False, dates_as_text=False)

    def key_types(self, connection: Connection, mapping: Mapping) -> list[str]:
        found = connection.all(
            "SELECT column_name, column_type, character_set_name, collation_name FROM information_schema.columns"
            " WHERE table_schema = coalesce(%s, database()) AND table_name = %s",
            (mapping.schema, mapping.name),
        )
        types = {
            str(name): self.text(f"{_text(kind)} CHARACTER SET {characters} COLLATE {collation}" if characters else _text(kind))
            for name, kind, characters, collation in found
        }
        return [types[column.name] for column in mapping.key]

    def create_index(self, name: str, schema: str | None, table: str, columns: str, condition: str) -> str:
        return f"CREATE INDEX {self.quote(name)} ON {table} ({columns})"

    def has_table(self, connection: Connection, schema: str | None, name: str) -> bool:
        sql = "SELECT 1 FROM information_schema.tables WHERE table_schema = coalesce(%s, database()) AND table_name = %s"
        return bool(connection.all(sql, (schema, name)))

    def indexes(self, connection: Connection, mapping: Mapping) -> list[tuple[list[str], str]]:
        rows = connection.all(
            "SELECT index_name, column_name FROM information_schema.statistics"
            " WHERE table_schema = coalesce(%s, database()) AND table_name = %s ORDER BY index_name, seq_in_index",
            (mapping.schema, mapping.name),
        )
        found: defaultdict[str, list[str]] = defaultdict(list)
        for index, column in rows:
            found[index].append(str(column))
        return [(columns, "") for columns in found.values()]

    def insert_once(self, connection: Connection, table: str, columns: str, marks: str, values: Any) -> None:
        connection.run(f"INSERT IGNORE INTO {table} ({columns}) VALUES ({marks})", values)

    def statements(self, mapping: Mapping, job: str) -> Statements:
        return MySQLStatements(mapping, job, self)


def _text(value: Any) -> str:
    """MySQL 8 gives some columns of information_schema as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


class MySQLStatements(Statements):
    def keys_in(self, keys: Sequence[Key]) -> tuple[str, Sequence[Any]]:
        if self.width == 1:
            return super().keys_in(keys)
        # A list of tuples is served by no index in MariaDB.
        return f"({' OR '.join([f'({self.row_is})'] * len(keys))})", [part for key in keys for part in key]

    def entries_in(self, keys: Sequence[Key]) -> tuple[str, Sequence[Any]]:
        if self.width == 1:
            return f"{self.entry_keys} IN ({', '.join(['%s'] * len(keys))})", [key[0] for key in keys]
        return f"({' OR '.join([f'({self.entry_is})'] * len(keys))})", [part for key in keys for part in key]

    def build(self) -> None:
        super().build()
        m, n, d = self.mapping, self.names, self.dialect
        pending = self.is_word[Status.PENDING]
        paused = f"(SELECT paused_at IS NOT NULL FROM {n.jobs} WHERE {d.quote('job')} = %s)"
        due = f"coalesce((SELECT min(not_before) FROM {self.e}) <= {d.now}, FALSE)"
        left = f"TIMESTAMPDIFF(MICROSECOND, {d.now}, expires_at) / 1e6"
        self.sql_opening = f"SELECT {d.now}, {paused}, {due}, {left} FROM {n.runners} WHERE id = %s FOR UPDATE"
        self.sql_opening_without = f"SELECT {d.now}, {paused}, {due}"
        its_row = f"EXISTS (SELECT 1 FROM {self.t} WHERE {self.same} AND {pending}{self.scope})"
        self.sql_due = (
            f"SELECT {self.e_keys} FROM {self.e} AS pt_e WHERE pt_e.not_before <= {d.now} AND {its_row}"
            " ORDER BY pt_e.not_before LIMIT %s FOR UPDATE SKIP LOCKED"
        )
        under = "(SELECT pt_b.not_before FROM {} AS pt_b WHERE {}) IS NULL".format(
            self.e, " AND ".join(f"pt_b.{name} = {column.sql}" for name, column in zip(n.key, m.key, strict=True))
        )
        positions = f", {self.positions}" if self.positions else ""
        head = f"SELECT {self.keys}{positions} FROM {self.t} WHERE {pending} AND {under}{self.scope}"
        tail = f" ORDER BY {m.order.sql} LIMIT %s FOR UPDATE SKIP LOCKED"
        self.sql_waiting = head + tail
        self.sql_waiting_behind = head + self.behind + tail
        marks = ", ".join(["%s"] * (self.width + 6))
        fresh = f"ended IN ({_OVER})"
        # Evaluated from left to right: what looks at `ended` comes before `ended` itself changes.
        self.sql_open = (
            f"INSERT INTO {self.e} ({self.entry_keys}, runner_id, claim_no, attempt, round, claimed_at, fails, lost, rescued)"
            f" VALUES ({marks}, %s, %s) ON DUPLICATE KEY UPDATE fails = IF({fresh}, 0, fails), lost = IF({fresh}, 0, lost),"
            f" rescued = IF({fresh}, 0, rescued), round = IF({fresh}, VALUES(round), round), attempt = attempt + 1,"
            " runner_id = VALUES(runner_id), claim_no = VALUES(claim_no), claimed_at = VALUES(claimed_at), not_before = NULL, ended = NULL"
        )
        marks = ", ".join(["%s"] * (self.width + 16))
        changed = ["ended", "fails", "lost", "rescued", "not_before", "finished_at", "seconds", "worker", "error_kind", "error", "log"]
        self.sql_close_many = (
            f"INSERT INTO {self.e} ({self.entry_keys}, runner_id, claim_no, attempt, round, claimed_at, {', '.join(changed)})"
            f" VALUES ({marks}) ON DUPLICATE KEY UPDATE {', '.join(f'{name} = VALUES({name})' for name in changed)}"
        )
        self.sql_due_at = f"SELECT {d.later('%s')}"

    def opening(self, c: Connection, runner: str) -> Opening:
        row = c.first(self.sql_opening, (self.job, runner))
        now, paused, due, left = row or (*c.all(self.sql_opening_without, (self.job,))[0], None)
        return Opening(now, bool(paused), left, bool(due))

    def _locked(self, c: Connection, keys: Sequence[Key], status: Status, scope: str = "") -> set[Key]:
        """Those of the keys whose rows hold the word, and that nobody else has locked; locked for us."""
        found: set[Key] = set()
        for some in _portions(in_order(keys), KEYS_AT_ONCE):
            among, values = self.keys_in(some)
            sql = f"SELECT {self.keys} FROM {self.t} WHERE {among} AND {self.is_word[status]}{scope} FOR UPDATE SKIP LOCKED"
            found.update(c.all(sql, values))
        return found

    def due(self, c: Connection, count: int, now: Any) -> list[Picked]:
        keys = c.all(self.sql_due, (count,))
        locked = self._locked(c, keys, Status.PENDING, self.scope) if keys else ()
        return [Picked(key, ()) for key in keys if key in locked]

    def waiting(self, c: Connection, count: int, after: tuple[Any, ...] | None) -> list[Picked]:
        if after is None:
            rows = c.all(self.sql_waiting, (count,))
        else:
            rows = c.all(self.sql_waiting_behind, (*self.behind_values(after), count))
        return [Picked(row[: self.width], row[self.width :]) for row in rows]

    def take(
        self, c: Connection, runner: str, picked: Sequence[Picked], first: int, now: Any
    ) -> tuple[list[Claim], int]:
        numbers = {row.key: number for number, row in enumerate(picked, first)}
        keys = in_order(list(numbers))
        c.many(self.sql_open, [(*key, runner, numbers[key], 1, f"{runner}-{numbers[key]}", now, 0, 0, 0) for key in keys])
        changed = 0
        for some in _portions(keys, KEYS_AT_ONCE):
            among, values = self.keys_in(some)
            changed += c.run(
                f"UPDATE {self.t} SET {self.set_word[Status.DOING]} WHERE {among} AND {self.is_word[Status.PENDING]}", values
            )
        return self.claimed(c, runner, first), changed

    def write(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> set[int] | None:
        # First the rows, then the entries, as everybody does it; what others hold is left for the next group.
        of = {write.claim.key: write for write in writes}
        locked = self._locked(c, list(of), Status.DOING)
        good: list[Write] = []
        for some in _portions(in_order(list(locked)), KEYS_AT_ONCE):
            among, values = self.entries_in(some)
            sql = f"SELECT {self.entry_keys}, claim_no FROM {self.e} WHERE {among} AND runner_id = %s AND ended IS NULL FOR UPDATE"
            for row in c.all(sql, (*values, runner)):
                write = of[row[: self.width]]
                if write.claim.claim_no == row[self.width]:
                    good.append(write)
        if good:
            self._close(c, good, now)
            groups: defaultdict[tuple[Any, ...], list[Write]] = defaultdict(list)
            for write in good:
                groups[write.status, write.columns].append(write)
            for (status, columns), group in groups.items():
                self._write_rows(c, status, columns, group)
        return {write.claim.claim_no for write in good}

    def _close(self, c: Connection, writes: Sequence[Write], now: Any) -> None:
        due_at = {pause: c.all(self.sql_due_at, (pause,))[0][0] for pause in {w.pause for w in writes if w.pause}}
        rows = []
        for write in writes:
            claim = write.claim
            unchanged = (*claim.key, "", claim.claim_no, claim.attempt, "", now)
            counts = (write.end, write.fails, write.lost, claim.rescued, due_at[write.pause] if write.pause else None)
            facts = (now, write.seconds, write.worker, write.kind or None, write.detail or None, write.log or None)
            rows.append((*unchanged, *counts, *facts))
        c.many(self.sql_close_many, rows)

    def _write_rows(self, c: Connection, status: Status, columns: tuple[str, ...], writes: Sequence[Write]) -> None:
        m = self.mapping
        known = {column.name: column for column in (*m.write, *((m.result,) if m.result else ()))}
        for some in _portions(writes, VALUES_AT_ONCE if columns else KEYS_AT_ONCE):
            sets, values = [self.set_word[status]], []
            for i, name in enumerate(columns):
                cases = " ".join([f"WHEN {self.row_is} THEN %s"] * len(some))
                sets.append(f"{known[name].bare} = CASE {cases} END")
                for write in some:
                    values += [*write.claim.key, write.values[i]]
            among, keys = self.keys_in([write.claim.key for write in some])
            c.run(f"UPDATE {self.t} SET {', '.join(sets)} WHERE {among}", [*values, *keys])


def _portions(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
