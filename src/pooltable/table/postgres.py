"""PostgreSQL 12 and later, through psycopg 3.

Nothing is set for a session and nothing is prepared, so that a pooler which hands out connections by transaction may
stand in between.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, datetime
from typing import Any, ClassVar

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader
from sqlalchemy.sql import sqltypes

from pooltable.errors import MappingError
from pooltable.table.conversion import Limits
from pooltable.table.database import Connection, Refused
from pooltable.table.dialects import Dialect, Index, Trouble
from pooltable.table.mapping import Column, Mapping, with_casts
from pooltable.table.postgres_statements import PostgresStatements
from pooltable.table.statements import Statements
from pooltable.table.values import Converter

# How long a transaction may stand still: nothing that takes any time is done between its statements.
IDLE_SECONDS = 5
# It stood still, or took, longer than it may.
ENDED_BY_SERVER = ("25P03", "25P04")

# What does not pass by waiting, as a server that is starting does: password, rights to connect, database, role. libpq
# gives no code with it.
HOPELESS = (
    *("authentication failed", "no password supplied", "no pg_hba.conf entry"),
    *('FATAL:  database "', 'FATAL:  role "'),
)
_NO_SCHEMA = re.compile(r"permission denied for schema (.+)")

OLDEST = 120000  # as `server_version` of the driver tells it


class PostgreSQL(Dialect):
    name = "postgresql"
    # One message to the server; the limits are this transaction's alone. Who falls silent in the middle of one would
    # else keep its locks until the kernel gives the connection up.
    # Rows are named by their keys or come in the order of an index; a planner that takes a list of keys for a large
    # part of the table would read all of it.
    begin = (
        f"BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s';"
        " SET LOCAL enable_seqscan = off; SET LOCAL jit = off"
    )
    types: ClassVar[dict[str, str]] = {
        "id": "text",
        "name": "text",
        "text": "text",
        "integer": "integer",
        "long": "bigint",
        "real": "double precision",
        "time": "timestamptz",
    }

    def later(self, seconds: str) -> str:
        return f"now() + make_interval(secs => {seconds})"

    def epoch(self, column: str) -> str:
        return f"extract(epoch FROM {column})::float8"

    def opened(self, raw: Any) -> None:
        raw.commit()  # what a listener of the user's engine began, such as SET search_path
        raw.autocommit = True
        raw.prepare_threshold = None
        # The driver refuses whole results for one date that Python has no value for.
        for name, loader in (("date", _Date), ("timestamp", _Timestamp), ("timestamptz", _Timestamptz)):
            raw.adapters.register_loader(name, loader)

    def descriptor(self, raw: Any) -> int | None:
        return int(raw.fileno())

    def still_there(self, raw: Any, identity: object) -> bool:
        return not raw.closed

    def in_transaction(self, raw: Any) -> bool:
        return not raw.closed and raw.info.transaction_status != TransactionStatus.IDLE

    def trouble(self, error: BaseException, raw: Any) -> Trouble:
        if raw is not None and raw.closed:
            return Trouble.LOST
        if isinstance(error, (Refused, OverflowError, UnicodeError)):
            return Trouble.REFUSED
        state = getattr(error, "sqlstate", None)
        if state is None:
            # Without a state it is the driver's own: no connection, or a value that it cannot send.
            return Trouble.LOST if isinstance(error, psycopg.OperationalError) else Trouble.REFUSED
        if state in ("40001", "40P01", "55P03", "57014"):
            return Trouble.BUSY
        if state == "25006":
            return Trouble.READ_ONLY
        if state[:2] in ("22", "23", "44", "P0", "54"):
            return Trouble.REFUSED
        if state[:2] in ("08", "57") or state in ENDED_BY_SERVER:
            return Trouble.LOST
        return Trouble.FULL if state[:2] == "53" else Trouble.OTHER

    def said(self, error: BaseException) -> str:
        primary = getattr(getattr(error, "diag", None), "message_primary", None)
        return " ".join(str(primary or error).split())

    def advice(self, error: BaseException) -> str:
        if getattr(error, "sqlstate", None) == "42501":
            if schema := _NO_SCHEMA.search(str(error)):
                return (
                    f"; the role needs it from the schema's owner: GRANT USAGE ON SCHEMA {self.quote(schema[1])} TO ..."
                )
            return "; `pooltable doctor` shows the GRANT that is missing"
        return "; see that the URL names the right user, password and database" if self.hopeless(error) else ""

    def hopeless(self, error: BaseException) -> bool:
        text = str(error)
        return any(part in text for part in HOPELESS)

    def check_server(self, connection: sa.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if driver.info.server_version < OLDEST:
            raise MappingError(
                f"this server is PostgreSQL {driver.info.server_version // 10000}; pooltable needs 12 or later"
            )

    def home(self, connection: sa.Connection, schema: str | None, name: str) -> str | None:
        if schema is not None:
            return schema
        found = connection.exec_driver_sql(
            "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid ="
            " to_regclass(%s)",
            (self.preparer.quote_identifier(name).replace("%%", "%"),),
        ).scalar()
        return None if found is None else str(found)

    def completed(self, connection: sa.Connection, mapping: Mapping) -> Mapping:
        found = connection.exec_driver_sql(
            "SELECT attname, format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = to_regclass(%s)"
            " AND attnum > 0 AND NOT attisdropped",
            (self._relation(mapping),),
        )
        casts = {str(name): self.text(str(kind)) for name, kind in found}
        mapping = with_casts(mapping, casts)
        return replace(mapping, columns=tuple(map(_with_nearest, mapping.columns)))

    def _relation(self, mapping: Mapping) -> str:
        return self.plain(mapping.sql)

    def converter(self, mapping: Mapping) -> Converter:
        return Converter(mapping, Limits(nan=True, infinity=True, dates_as_text=False))

    def key_types(self, connection: Connection, mapping: Mapping) -> list[str]:
        found = connection.all(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), CASE WHEN a.attcollation <> t.typcollation THEN"
            " quote_ident(n.nspname) || '.' || quote_ident(o.collname) END"
            " FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation o ON o.oid ="
            " a.attcollation"
            " LEFT JOIN pg_namespace n ON n.oid = o.collnamespace WHERE a.attrelid = to_regclass(%s)",
            (self._relation(mapping),),
        )
        types = {
            name: self.text(kind + (f" COLLATE {collation}" if collation else "")) for name, kind, collation in found
        }
        return [types[column.name] for column in mapping.key]

    def create_index(self, name: str, schema: str | None, table: str, columns: str, condition: str) -> str:
        where = f" WHERE {condition}" if condition else ""
        return f"CREATE INDEX IF NOT EXISTS {self.quote(name)} ON {table} ({columns}){where}"

    def has_table(self, connection: Connection, schema: str | None, name: str) -> bool:
        sql = (
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = %s AND n.nspname"
            " = %s"
        )
        return bool(connection.all(sql, (name, schema)))

    def online_index(self, name: str, schema: str | None, table: str, columns: str, condition: str) -> str:
        plain = self.create_index(name, schema, table, columns, condition)
        return plain.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)

    def hidden(self, connection: Connection, mapping: Mapping) -> str | None:
        relation = self._relation(mapping)
        mine = (
            "0 = ANY(polroles) OR EXISTS (SELECT 1 FROM unnest(polroles) AS r WHERE r <> 0 AND pg_has_role(r, 'USAGE'))"
        )
        of = f"FROM pg_policy WHERE polrelid = to_regclass(%s) AND polpermissive AND ({mine}) AND polcmd IN"
        active, sees, changes, me = connection.all(
            f"SELECT row_security_active(to_regclass(%s)), EXISTS (SELECT 1 {of} ('*', 'r')), EXISTS (SELECT 1 {of}"
            " ('*', 'w')), quote_ident(current_user)",
            (relation, relation, relation),
        )[0]
        if not active or (sees and changes):
            return None
        return (
            f"row-level security keeps {me} from {'changing' if sees else 'seeing'} any row of {mapping.name!r}:"
            f" CREATE POLICY pooltable ON {relation} TO {me} USING (true), or: ALTER ROLE {me} BYPASSRLS"
        )

    def drop_index(self, mapping: Mapping, name: str) -> str:
        return super().drop_index(mapping, name).replace("DROP INDEX", "DROP INDEX CONCURRENTLY", 1)

    def indexes(self, connection: Connection, mapping: Mapping) -> list[Index]:
        rows = connection.all(
            "SELECT c.relname, ARRAY(SELECT coalesce(a.attname::text, '') FROM unnest(i.indkey::int2[]) WITH ORDINALITY"
            " AS k(no, place)"
            " LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.no ORDER BY k.place),"
            " coalesce(pg_get_expr(i.indpred, i.indrelid), ''), i.indisvalid"
            " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass(%s)",
            (self._relation(mapping),),
        )
        return [Index(name, list(columns), condition, valid) for name, columns, condition, valid in rows]

    def one_at_a_time(self, connection: Connection) -> None:
        # CREATE TABLE IF NOT EXISTS fails when two do it at the same moment. The number is any that only we use.
        connection.all("SELECT pg_advisory_xact_lock(7305808998042)")

    def statements(self, mapping: Mapping, job: str) -> Statements:
        return PostgresStatements(mapping, job, self)


def _lenient(loader: type[Any]) -> type[Any]:
    """A loader that gives the server's own text where Python's dates do not reach: infinity, BC, the year 20000."""

    class Lenient(loader):  # type: ignore[misc]
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except psycopg.DataError:
                return bytes(data).decode()

    return Lenient


_Date, _Timestamp, _Timestamptz = map(_lenient, (DateLoader, TimestampLoader, TimestamptzLoader))


def _with_nearest(column: Column) -> Column:
    """A column that gives a task the nearest date that Python has, where the server has sent a text.

    Only for what is not the key: a key must be sent back as it came.
    """
    if not isinstance(column.type, sqltypes.Date | sqltypes.DateTime):
        return column
    kind, read = date if isinstance(column.type, sqltypes.Date) else datetime, column.read

    def nearest(value: Any) -> Any:
        if type(value) is str:
            value = kind.min if value.startswith("-") or value.endswith("BC") else kind.max
        return value if read is None else read(value)

    return replace(column, read=nearest)
