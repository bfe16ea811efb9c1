"""What PostgreSQL, MySQL and SQLite do differently, behind one small seam; sqlite.py, postgres.py and mysql.py are the
three.

A dialect is asked for words of SQL and for facts about errors. The statements that differ as a whole are methods of its
`Statements` (statements.py), which the lease calls inside a transaction.
"""

from __future__ import annotations

from enum import Enum
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import sqlalchemy as sa

from pooltable.errors import MappingError
from pooltable.urls import EXAMPLE, hide_password, mistake_in

if TYPE_CHECKING:
    from pooltable.table.database import Connection
    from pooltable.table.mapping import Mapping
    from pooltable.table.statements import Statements
    from pooltable.table.values import Converter


CONNECT_SECONDS = 10


class Trouble(Enum):
    """What an error of the driver means for the transaction it came in."""

    BUSY = "busy"  # others were in the way: the whole transaction again
    LOST = "lost"  # the connection is gone
    READ_ONLY = "read only"  # no writes here
    REFUSED = "refused"  # these values, in this table
    FULL = "full"  # no space, or the disk fails: may pass
    OTHER = "other"  # a table is gone, a permission: will not pass


class Index(NamedTuple):
    """An index of the user's table: its columns, and its condition or ""; not `valid` is one whose build broke off."""

    name: str
    columns: list[str]
    condition: str
    valid: bool = True


class Dialect:
    """One kind of database. The methods here are what most of them share."""

    name = ""
    mark = "%s"  # stands for a bound value in a statement
    begin = "BEGIN"
    begin_reading = "START TRANSACTION READ ONLY"  # the connection is closed afterwards
    now = "now()"
    skip_locked = " FOR UPDATE SKIP LOCKED"
    partial_indexes = True
    key_in_every_index = False  # every index ends with the table's key
    is_server = True
    row_comparison = True  # (a, b) > (?, ?) is served by an index over (a, b)
    # Types of our own columns, by what they hold.
    types: ClassVar[dict[str, str]]
    table_options = ""
    counted: str  # a column that the database counts, as the primary key
    claims_options = ""  # what follows the columns of the table of claims
    keys_at_once = 1_000_000  # keys in one statement

    def __init__(self, engine: sa.Engine) -> None:
        self.sqlalchemy = engine.dialect
        self.preparer = engine.dialect.identifier_preparer
        dbapi: Any = engine.dialect.loaded_dbapi
        # With what drivers raise of Python's own for values that they cannot send.
        self.errors: tuple[type[Exception], ...] = (dbapi.Error, OverflowError, UnicodeError)

    # ---- words of SQL

    def quote(self, name: str) -> str:
        """The name as an identifier, always quoted, with percent signs as the driver wants them."""
        return self.preparer.quote_identifier(name)

    def literal(self, value: Any) -> str:
        """A status word as a literal: a plan made for a parameter would not know that a partial index fits."""
        if value is None:
            return "NULL"
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise MappingError(f"the status word {value!r} is neither text nor a whole number nor None")
        if isinstance(value, int):
            return str(value)
        return self.compiled(sa.literal(value))

    def plain(self, sql: str) -> str:
        """A statement as a person would type it, not as the driver wants it."""
        return sql.replace("%%", "%") if self.mark == "%s" else sql

    def compiled(self, expression: Any) -> str:
        """An expression of SQLAlchemy's as text, with its values in it."""
        return str(expression.compile(dialect=self.sqlalchemy, compile_kwargs={"literal_binds": True}))

    def text(self, sql: str) -> str:
        """SQL that the user wrote, as the driver wants it."""
        return sql.replace("%", "%%") if self.mark == "%s" else sql

    def later(self, seconds: str) -> str:
        """The database's clock and so many seconds more; NULL for NULL."""
        raise NotImplementedError

    def epoch(self, column: str) -> str:
        """A time column as seconds since 1970."""
        raise NotImplementedError

    # ---- facts

    def name_of(self, url: sa.URL) -> str:
        return shown(url)

    def identity(self) -> object:
        """Which file the database is, None where it is a server. Raises where connecting would make what it does not
        find."""
        return None

    def descriptor(self, raw: Any) -> int | None:
        """The connection's socket, None where it has none."""
        return None

    def opened(self, raw: Any) -> None:
        """Sets a new connection up."""

    def push_counter(self, c: Connection, table: str) -> None:
        """See to it that the table's next number is greater than all that are there."""

    def still_there(self, raw: Any, identity: object) -> bool:
        """Whether the connection to what had this identity may be used; False makes a new one."""
        return True

    def in_transaction(self, raw: Any) -> bool:
        raise NotImplementedError

    def trouble(self, error: BaseException, raw: Any) -> Trouble:
        raise NotImplementedError

    def said(self, error: BaseException) -> str:
        """What the database said, in one line."""
        return " ".join(str(error).split())

    def advice(self, error: BaseException) -> str:
        """What to do about an error that will not pass by waiting, to be put behind it; "" where nobody knows."""
        return ""

    def hopeless(self, error: BaseException) -> bool:
        """Whether an error while connecting will not pass by waiting."""
        return False

    def version(self, connection: Connection) -> int | None:
        """A number that grows when others commit; None where there is no such thing."""
        return None

    def key_types(self, connection: Connection, mapping: Mapping) -> list[str]:
        """The types and collations of the key's columns, as DDL."""
        raise NotImplementedError

    def entry_options(self, mapping: Mapping) -> str:
        """What follows the columns of the table of entries."""
        return self.table_options

    def create_index(self, name: str, schema: str | None, table: str, columns: str, condition: str) -> str:
        where = f" WHERE {condition}" if condition else ""
        return f"CREATE INDEX {self.quote(name)} ON {table} ({columns}){where}"

    def online_index(self, name: str, schema: str | None, table: str, columns: str, condition: str) -> str:
        """The statement that makes an index while others write to the table, where the database can do that."""
        return self.create_index(name, schema, table, columns, condition)

    def drop_index(self, mapping: Mapping, name: str) -> str:
        """The statement, as a person would type it, that removes an index of the user's table."""
        schema = mapping.schema
        shown = f"{self.quote(schema)}.{self.quote(name)}" if schema else self.quote(name)
        return self.plain(f"DROP INDEX {shown}")

    def hidden(self, connection: Connection, mapping: Mapping) -> str | None:
        """What keeps every row of the table from this role, and the remedy; None where nothing does."""
        return None

    def check_server(self, connection: sa.Connection) -> None:
        """Raises where the server is too old, or takes no writes."""

    def home(self, connection: sa.Connection, schema: str | None, name: str) -> str | None:
        """The schema that holds the table, so that its name means the same over every later connection."""
        return schema

    def reflected(self, name: str) -> str:
        """A column's name as it is, from what SQLAlchemy's reflection makes of it."""
        return name

    def unique_keys(self, connection: sa.Connection, schema: str | None, name: str) -> list[tuple[str, ...]]:
        """The columns of the table's unique constraints and whole unique indexes."""
        inspector = sa.inspect(connection)
        found = [tuple(map(str, one["column_names"])) for one in inspector.get_unique_constraints(name, schema=schema)]
        for index in inspector.get_indexes(name, schema=schema):
            partial = any(k.endswith("_where") and v is not None for k, v in index.get("dialect_options", {}).items())
            if index["unique"] and not partial and None not in index["column_names"]:
                found.append(tuple(map(str, index["column_names"])))
        return found

    def completed(self, connection: sa.Connection, mapping: Mapping) -> Mapping:
        """The mapping with what only this database knows of it."""
        return mapping

    def converter(self, mapping: Mapping) -> Converter:
        """Turns what tasks return into values for this database."""
        raise NotImplementedError

    def has_table(self, connection: Connection, schema: str | None, name: str) -> bool:
        raise NotImplementedError

    def indexes(self, connection: Connection, mapping: Mapping) -> list[Index]:
        """The indexes of the user's table."""
        raise NotImplementedError

    def one_at_a_time(self, connection: Connection) -> None:
        """Inside a transaction: waits until nobody else makes side tables."""

    def insert_once(self, connection: Connection, table: str, columns: str, marks: str, values: Any) -> None:
        """Inserts a row, unless one with its key is there."""
        connection.run(f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING", values)

    def statements(self, mapping: Mapping, job: str) -> Statements:
        raise NotImplementedError

    def files(self) -> tuple[str, ...]:
        """The files that every commit writes to one of; none where the database is a server."""
        return ()

    def unsafe_file_system(self, url: sa.URL) -> str | None:
        """The file system under the database, where it cannot be trusted with locks."""
        return None


_DRIVERS = {
    "sqlite": ("sqlite+pysqlite", "", ""),
    "postgresql": ("postgresql+psycopg", "psycopg", "postgres"),
    "postgres": ("postgresql+psycopg", "psycopg", "postgres"),
    "mysql": ("mysql+pymysql", "pymysql", "mysql"),
    "mariadb": ("mariadb+pymysql", "pymysql", "mysql"),
}


def shown(url: sa.URL) -> str:
    """The URL as people write it, without its password."""
    # What SQLAlchemy hides is the password before the host, not one among the options.
    return hide_password(url.set(drivername=url.get_backend_name()).render_as_string())


def engine_url(database: str | sa.URL) -> sa.URL:
    """The URL with the driver that pooltable uses."""
    if isinstance(database, str):
        mistake = mistake_in(database)
        if mistake:
            raise MappingError(mistake)
        if "://" not in database:
            raise MappingError(
                f"{database!r} is not a database URL; a SQLite file is written sqlite:///{database or 'tasks.db'}"
            )
    try:
        url = sa.make_url(database)
    except (sa.exc.ArgumentError, ValueError):
        # Its own words may quote a part of the URL.
        raise MappingError(f"the database URL cannot be read; {EXAMPLE}") from None
    backend = url.get_backend_name()
    if backend not in _DRIVERS:
        raise MappingError(
            f"{backend!r} is not a database that pooltable knows; it works with sqlite, postgresql, mysql and mariadb"
        )
    name, module, extra = _DRIVERS[backend]
    if "+" in url.drivername and url.drivername != name:
        raise MappingError(
            f"pooltable reaches {backend} through {name}, not {url.drivername}; write the URL as {backend}://..."
        )
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise MappingError(
                f"{backend} needs its driver; install it with: pip install 'pooltable[{extra}]'"
            ) from error
    return url.set(drivername=name)


def connect_args(url: sa.URL) -> dict[str, Any]:
    """What an engine of ours gives its driver, unless the URL says otherwise."""
    # By itself the driver waits for more than two minutes; PyMySQL has this limit of its own.
    wants = url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query
    return {"connect_timeout": CONNECT_SECONDS} if wants else {}


def dialect_of(engine: sa.Engine) -> Dialect:
    """The dialect for an engine, the user's own or ours."""
    backend, driver = engine.dialect.name, engine.dialect.driver
    kinds = {
        ("sqlite", "pysqlite"): ("sqlite", "SQLite"),
        ("postgresql", "psycopg"): ("postgres", "PostgreSQL"),
        ("mysql", "pymysql"): ("mysql", "MySQL"),
        ("mariadb", "pymysql"): ("mysql", "MySQL"),
    }
    if (backend, driver) not in kinds:
        wanted = _DRIVERS.get(backend, ("sqlite, postgresql or mysql",))[0]
        raise MappingError(f"this engine is {backend}+{driver}; pooltable works with an engine of {wanted}")
    module, name = kinds[backend, driver]
    dialect: Dialect = getattr(import_module(f"pooltable.table.{module}"), name)(engine)
    return dialect
