"""MySQL 8.0.13 and later, MariaDB 10.6 and later, through PyMySQL, with READ COMMITTED."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any, ClassVar

import pymysql
import sqlalchemy as sa
from pymysql.constants import SERVER_STATUS
from sqlalchemy.sql import sqltypes

from pooltable.errors import MappingError
from pooltable.table.conversion import Limits
from pooltable.table.database import Connection, Refused
from pooltable.table.dialects import Dialect, Index, Trouble
from pooltable.table.mapping import Column, Mapping
from pooltable.table.mysql_statements import MySQLStatements
from pooltable.table.statements import Statements
from pooltable.table.values import Converter

# How long a statement waits for a lock; the server's own 50 seconds are longer than a lease.
LOCK_SECONDS = 5
# How long a transaction may stand still in MariaDB, and how long a connection may in MySQL.
IDLE_SECONDS = 5
WAIT_SECONDS = 30

_BUSY = {1205, 1213, 1020, 1317, 3024, 3572, 1969}
_LOST = {1053, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031}
_READ_ONLY = {1290, 1792, 1836}
_FULL = {1021, 1030, 1037, 1040, 1041, 1114, 1203, 3675}
# Refusals that PyMySQL gives as general errors: signals, checks, values of a wrong type.
_REFUSED = {1048, 1364, 1366, 1406, 1411, 1644, 3140, 3819, 4025}


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
        "letters": "VARCHAR(1000) CHARACTER SET ascii COLLATE ascii_bin",
        "integer": "INTEGER",
        "long": "BIGINT",
        "real": "DOUBLE",
        "time": "DATETIME(6)",
    }
    table_options = " ENGINE=InnoDB"
    claims_options = table_options
    counted = "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"
    keys_at_once = 500  # MariaDB turns longer lists of values into joins, which lock more than the rows that are meant

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
                f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}, sql_mode = CONCAT(@@sql_mode,"
                " ',STRICT_TRANS_TABLES')"
            )

            # Who falls silent in the middle of a transaction would else keep its locks for eight hours. MySQL has one
            # limit for all that is idle; a connection that it closes between transactions is opened anew.
            if "MariaDB" in raw.get_server_info():
                cursor.execute(f"SET SESSION idle_transaction_timeout = {IDLE_SECONDS}")
            else:
                cursor.execute(f"SET SESSION wait_timeout = {WAIT_SECONDS}")

    def drop_index(self, mapping: Mapping, name: str) -> str:
        return self.plain(f"DROP INDEX {self.quote(name)} ON {mapping.sql}")

    def descriptor(self, raw: Any) -> int | None:
        return int(raw._sock.fileno())

    def still_there(self, raw: Any, identity: object) -> bool:
        return bool(raw.open)

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.open and raw.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def trouble(self, error: BaseException, raw: Any) -> Trouble:
        if raw is not None and not raw.open:
            return Trouble.LOST
        if isinstance(error, (Refused, OverflowError, UnicodeError)):
            return Trouble.REFUSED
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        for codes, trouble in (
            (_BUSY, Trouble.BUSY),
            (_LOST, Trouble.LOST),
            (_READ_ONLY, Trouble.READ_ONLY),
            (_FULL, Trouble.FULL),
        ):
            if code in codes:
                return trouble
        if code in _REFUSED or isinstance(error, (pymysql.err.DataError, pymysql.err.IntegrityError)):
            return Trouble.REFUSED
        if code == 0 and isinstance(error, pymysql.err.ProgrammingError):
            return Trouble.REFUSED  # the driver's own: a value that it cannot write
        return Trouble.LOST if isinstance(error, pymysql.err.InterfaceError) else Trouble.OTHER

    def said(self, error: BaseException) -> str:
        return " ".join(str(error.args[1] if len(error.args) > 1 else error).split())

    def advice(self, error: BaseException) -> str:
        if error.args and error.args[0] in (1142, 1143, 1227, 1370):
            return "; `pooltable doctor` shows the GRANT that is missing"
        return "; see that the URL names the right user, password and database" if self.hopeless(error) else ""

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
            sa.text(
                "SELECT engine FROM information_schema.tables WHERE table_schema = coalesce(:s, database()) AND"
                " table_name = :t"
            ),
            {"s": mapping.schema, "t": mapping.name},
        ).scalar()
        if str(engine).upper() != "INNODB":
            raise MappingError(
                f"table {mapping.name!r} is kept by {engine}, which has no transactions; change it with: ALTER TABLE"
                f" {self.plain(mapping.sql)} ENGINE=InnoDB"
            )
        if self.sqlalchemy.is_mariadb:  # type: ignore[attr-defined]
            mapping = self._with_json(connection, mapping)
        for column in mapping.key:
            if isinstance(column.type, (sqltypes.Text, sqltypes._Binary)) and not getattr(column.type, "length", None):
                raise MappingError(
                    f"key column {column.name!r} is {column.type}, whose index holds only its beginning; use VARCHAR"
                )
        return mapping

    def _with_json(self, connection: sa.Connection, mapping: Mapping) -> Mapping:
        """JSON in MariaDB is text with a constraint, and is reflected as text."""
        clauses = connection.execute(
            sa.text(
                "SELECT check_clause FROM information_schema.check_constraints"
                " WHERE constraint_schema = coalesce(:s, database()) AND table_name = :t"
            ),
            {"s": mapping.schema, "t": mapping.name},
        ).scalars()
        named = {f"json_valid({self.plain(column.bare)})": column.name for column in mapping.rows}
        found = {named[clause] for clause in clauses if clause in named}

        def typed(columns: tuple[Column, ...]) -> tuple[Column, ...]:
            return tuple(replace(c, type=sa.JSON()) if c.name in found and c.bind is None else c for c in columns)

        result = typed((mapping.result,))[0] if mapping.result is not None else None
        return replace(mapping, write=typed(mapping.write), result=result, rows=typed(mapping.rows))

    def reflected(self, name: str) -> str:
        return name.replace("``", "`")

    def unique_keys(self, connection: sa.Connection, schema: str | None, name: str) -> list[tuple[str, ...]]:
        inspector = sa.inspect(connection)
        return [
            tuple(self.reflected(str(column)) for column in index["column_names"])
            for index in inspector.get_indexes(name, schema=schema)
            # An index over the beginnings of values keeps only those unique.
            if index["unique"]
            and None not in index["column_names"]
            and not index.get("dialect_options", {}).get(f"{self.sqlalchemy.name}_length")
        ]

    def converter(self, mapping: Mapping) -> Converter:
        return Converter(mapping, Limits(nan=False, infinity=False, dates_as_text=False))

    def key_types(self, connection: Connection, mapping: Mapping) -> list[str]:
        found = connection.all(
            "SELECT column_name, column_type, character_set_name, collation_name FROM information_schema.columns"
            " WHERE table_schema = coalesce(%s, database()) AND table_name = %s",
            (mapping.schema, mapping.name),
        )
        types = {
            str(name): self.text(
                f"{_text(kind)} CHARACTER SET {characters} COLLATE {collation}" if characters else _text(kind)
            )
            for name, kind, characters, collation in found
        }
        return [types[column.name] for column in mapping.key]

    def create_index(self, name: str, schema: str | None, table: str, columns: str, condition: str) -> str:
        return f"CREATE INDEX {self.quote(name)} ON {table} ({columns})"

    def online_index(self, name: str, schema: str | None, table: str, columns: str, condition: str) -> str:
        # Refused, rather than done under a lock, where it cannot be done beside writers.
        return f"{self.create_index(name, schema, table, columns, condition)} ALGORITHM=INPLACE LOCK=NONE"

    def has_table(self, connection: Connection, schema: str | None, name: str) -> bool:
        sql = (
            "SELECT 1 FROM information_schema.tables WHERE table_schema = coalesce(%s, database()) AND table_name = %s"
        )
        return bool(connection.all(sql, (schema, name)))

    def indexes(self, connection: Connection, mapping: Mapping) -> list[Index]:
        rows = connection.all(
            "SELECT index_name, column_name FROM information_schema.statistics"
            " WHERE table_schema = coalesce(%s, database()) AND table_name = %s ORDER BY index_name, seq_in_index",
            (mapping.schema, mapping.name),
        )
        found: defaultdict[str, list[str]] = defaultdict(list)
        for index, column in rows:
            found[_text(index)].append(_text(column))
        return [Index(name, columns, "") for name, columns in found.items()]

    def insert_once(self, connection: Connection, table: str, columns: str, marks: str, values: Any) -> None:
        connection.run(f"INSERT IGNORE INTO {table} ({columns}) VALUES ({marks})", values)

    def statements(self, mapping: Mapping, job: str) -> Statements:
        return MySQLStatements(mapping, job, self)


def _text(value: Any) -> str:
    """MySQL 8 gives some columns of information_schema as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
