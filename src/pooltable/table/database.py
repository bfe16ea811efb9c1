"""Reaches the database: engines from URLs, plain driver connections, whole transactions tried again.

    TaskTable, Lease --work--> Session --statements--> Connection --> the driver
                               (transact, read)        (one driver connection)

SQLAlchemy finds the driver, opens connections and reflects tables. The statements of the hot path go to the driver's
own connection, because there are thousands of them a second and they never change.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from pooltable.errors import DatabaseError, DatabaseReadOnly, DatabaseUnavailable, MappingError
from pooltable.table.dialects import Dialect, Trouble, dialect_of, engine_url

Result = TypeVar("Result")
Values = Sequence[Any]

# How often, and for how many seconds, a transaction is tried that others are in the way of. With waits of 20 ms growing
# to 1 s, give or take a half, the tries are over first, unless each of them waits for a lock.
TRIES = 15
LONGEST = 20.0


class Refused(Exception):
    """The database refuses the values of a statement: a constraint, a type, a trigger. Only inside transactions."""


class Undone(Exception):
    """A refusal undid the whole transaction, savepoints and all (RAISE(ROLLBACK) in a trigger of SQLite)."""


class Database:
    """A database that holds a table of tasks: an engine, and the dialect that goes with it."""

    def __init__(self, database: str | sa.URL | sa.Engine) -> None:
        if isinstance(database, sa.Engine):
            self.engine = database
        else:
            url = engine_url(database)
            try:
                self.engine = sa.create_engine(url, poolclass=NullPool)
            except (ImportError, sa.exc.NoSuchModuleError) as error:
                raise MappingError(f"the database {url.render_as_string()} cannot be used: {error}") from error
        self.dialect: Dialect = dialect_of(self.engine)
        self.name = self.dialect.name_of(self.engine.url)

    def session(self) -> Session:
        """A connection of one's own, opened when it is first used."""
        return Session(self)

    def reflecting(self, look: Callable[[sa.Connection], Result]) -> Result:
        """`look` with a connection of SQLAlchemy's, for what is done once."""
        self.dialect.refuse_missing(self.engine.url)
        try:
            with self.engine.connect() as connection:
                return look(connection)
        except sa.exc.DBAPIError as error:
            raise self._told(error.orig if isinstance(error.orig, BaseException) else error) from error
        except sa.exc.SQLAlchemyError as error:
            raise DatabaseError(f"{self.name}: {error}") from error

    def _told(self, error: BaseException, raw: Any = None) -> DatabaseError:
        text = self.dialect.said(error)
        match self.dialect.trouble(error, raw):
            case Trouble.READ_ONLY:
                return DatabaseReadOnly(f"{self.name} takes no writes: {text}")
            case Trouble.BUSY:
                return DatabaseUnavailable(f"{self.name} is locked by others, and stayed so for long: {text}")
            case Trouble.LOST | Trouble.FULL:
                return DatabaseUnavailable(f"{self.name} cannot be reached: {text}")
            case _:
                return DatabaseError(f"{self.name}: {text}")


class Connection:
    """One driver connection, in the driver's autocommit mode: transactions begin and end where we say so."""

    def __init__(self, raw: Any, dialect: Dialect) -> None:
        self.raw = raw
        self.dialect = dialect
        self._cursor = raw.cursor()
        self._execute = self._cursor.execute
        self._executemany = self._cursor.executemany

    def all(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        self._execute(sql, values)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def first(self, sql: str, values: Values = ()) -> tuple[Any, ...] | None:
        rows = self.all(sql, values)
        return rows[0] if rows else None

    def run(self, sql: str, values: Values = ()) -> int:
        """The number of rows that the statement changed."""
        self._execute(sql, values)
        count: int = self._cursor.rowcount
        return count

    def many(self, sql: str, rows: Iterable[Values]) -> int:
        """The number of rows that the statement changed, over all of `rows`."""
        self._executemany(sql, rows)
        count: int = self._cursor.rowcount
        return count

    def begin(self) -> None:
        self._execute(self.dialect.begin)

    def commit(self) -> None:
        self._execute("COMMIT")

    def rollback(self) -> None:
        self._execute("ROLLBACK")

    def attempt(self, work: Callable[[], Result]) -> Result:
        """`work` under a savepoint: what it did is undone when it raises. Raises Refused where the database refused its
        values."""
        self._execute("SAVEPOINT pooltable")
        try:
            result = work()
        except Exception as error:
            trouble = self.dialect.trouble(error, self.raw)
            if trouble in (Trouble.BUSY, Trouble.LOST, Trouble.FULL, Trouble.READ_ONLY):
                raise
            if not self.dialect.in_transaction(self.raw):
                raise Undone(self.dialect.said(error)) from error
            self._execute("ROLLBACK TO SAVEPOINT pooltable")
            self._execute("RELEASE SAVEPOINT pooltable")
            if trouble is Trouble.REFUSED and not isinstance(error, Refused):
                raise Refused(self.dialect.said(error)) from error
            raise
        self._execute("RELEASE SAVEPOINT pooltable")
        return result

    def close(self) -> None:
        with contextlib.suppress(Exception):  # a connection that is broken already has nothing left to say
            self.raw.close()


class Session:
    """Runs whole transactions over one connection, which it opens anew after it was lost. One thread at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.dialect = database.dialect
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        connection = self._connection
        if connection is not None and self.dialect.still_there(connection.raw):
            return connection
        self.close()
        engine = self.database.engine
        self.dialect.refuse_missing(engine.url)
        raw: Any = None
        try:
            pooled = engine.raw_connection()
            raw = pooled.driver_connection
            pooled.detach()
            self.dialect.opened(raw)
            self._connection = Connection(raw, self.dialect)
        except sa.exc.DBAPIError as error:
            raise self._unreachable(error.orig if isinstance(error.orig, BaseException) else error) from error
        except self.dialect.errors as error:
            raise self._unreachable(error) from error
        finally:
            if self._connection is None and raw is not None:
                raw.close()
        return self._connection

    def _unreachable(self, error: BaseException) -> DatabaseError:
        told = self.database._told(error)
        # What a server refuses while a connection is opened (it starts, it is full, it is restoring) passes as a rule.
        if type(told) is DatabaseError and not self.dialect.hopeless(error):
            return DatabaseUnavailable(str(told))
        return told

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """What `work` returns, once the transaction around it is committed; the whole of it again where others were in
        the way."""
        tries, began = 0, time.monotonic()
        while True:
            connection = self.connection()
            try:
                connection.begin()
                result = work(connection)
                connection.commit()
                return result
            except self.dialect.errors as error:
                trouble = self.dialect.trouble(error, connection.raw)
                self._abandon(connection, trouble)
                tries += 1
                # A connection that was lost may have taken a commit with it: what a verb does again, it first reads.
                again = trouble is Trouble.BUSY or (trouble is Trouble.LOST and tries == 1)
                if not again or tries >= TRIES or time.monotonic() - began > LONGEST:
                    raise self.database._told(error, connection.raw) from error
                time.sleep(min(1.0, 0.02 * 2 ** min(tries, 6)) * random.uniform(0.5, 1.5))
            except BaseException:
                self._abandon(connection, None)
                raise

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """What `work` returns; it only reads, outside any transaction, and is tried once more over a new connection."""
        tries = 0
        while True:
            connection = self.connection()
            try:
                return work(connection)
            except self.dialect.errors as error:
                trouble = self.dialect.trouble(error, connection.raw)
                if trouble is Trouble.LOST:
                    self.close()
                tries += 1
                if trouble not in (Trouble.BUSY, Trouble.LOST) or tries >= (TRIES if trouble is Trouble.BUSY else 2):
                    raise self.database._told(error, connection.raw) from error
                time.sleep(0.02 * tries * random.uniform(0.5, 1.5))

    def _abandon(self, connection: Connection, trouble: Trouble | None) -> None:
        if trouble is Trouble.LOST:
            self.close()
            return
        try:
            if self.dialect.in_transaction(connection.raw):
                connection.rollback()
        except Exception:
            # A connection that cannot even roll back is of no more use; closing it rolls back on the server.
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
