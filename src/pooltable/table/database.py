"""Reaches the database: engines from URLs, plain driver connections, whole transactions tried again.

    TaskTable, Lease --work--> Session --statements--> Connection --> the driver
                               (transact, read)        (one driver connection)
                                  ^ Guard: not for ever

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
from pooltable.table.dialects import Dialect, Trouble, connect_args, dialect_of, engine_url, shown
from pooltable.table.guard import Guard, Line
from pooltable.urls import without_passwords

Result = TypeVar("Result")
Values = Sequence[Any]

# How often, and for how many seconds, a transaction is tried that others are in the way of. With waits of 20 ms growing
# to 1 s, give or take a half, the tries are over first, unless each of them waits for a lock.
TRIES = 15
LONGEST = 20.0


class Refused(Exception):
    """The database refuses the values of a statement: a constraint, a type, a trigger. Only inside transactions."""


class Undone(DatabaseError):
    """A refusal undid the whole transaction, savepoints and all (RAISE(ROLLBACK) in a trigger of SQLite)."""


class Database:
    """A database that holds a table of tasks: an engine, and the dialect that goes with it."""

    def __init__(self, database: str | sa.URL | sa.Engine) -> None:
        self._from_url = not isinstance(database, sa.Engine)
        if isinstance(database, sa.Engine):
            self.engine = database
        else:
            url = engine_url(database)
            try:
                self.engine = sa.create_engine(url, poolclass=NullPool, connect_args=connect_args(url))
            except (ImportError, sa.exc.SQLAlchemyError, *_UNUSABLE) as error:
                raise _unusable(shown(url), error) from error
        self.dialect: Dialect = dialect_of(self.engine)
        self.name = self.dialect.name_of(self.engine.url)

    def session(self) -> Session:
        """A connection of one's own, opened when it is first used."""
        return Session(self)

    def reflecting(self, look: Callable[[sa.Connection], Result]) -> Result:
        """`look` with a connection of SQLAlchemy's, for what is done once."""
        self.dialect.identity()
        try:
            with self._connect() as connection:
                return look(connection)
        except sa.exc.DBAPIError as error:
            raise self._told(error.orig if isinstance(error.orig, BaseException) else error) from error
        except sa.exc.SQLAlchemyError as error:
            raise DatabaseError(f"{self.name}: {without_passwords(str(error))}") from error

    def _connect(self) -> sa.Connection:
        try:
            return self.engine.connect()
        except sa.exc.DBAPIError as error:
            raise self.unreachable(error.orig if isinstance(error.orig, BaseException) else error) from error
        except _UNUSABLE as error:
            # What an engine of the user's raises is the user's.
            if not self._from_url:
                raise
            raise _unusable(self.name, error) from error

    def _told(self, error: BaseException, raw: Any = None) -> DatabaseError:
        text = without_passwords(self.dialect.said(error))
        match self.dialect.trouble(error, raw):
            case Trouble.READ_ONLY:
                return DatabaseReadOnly(f"{self.name} takes no writes: {text}; `pooltable doctor` says why")
            case Trouble.BUSY:
                return DatabaseUnavailable(f"{self.name} is locked by others, and stayed so for long: {text}")
            case Trouble.LOST | Trouble.FULL:
                return DatabaseUnavailable(f"{self.name} cannot be reached: {text}{self.dialect.advice(error)}")
            case _:
                return DatabaseError(f"{self.name}: {text}{self.dialect.advice(error)}")

    def unreachable(self, error: BaseException) -> DatabaseError:
        """What an error tells that came while a connection was opened."""
        told = self._told(error)
        if self.dialect.hopeless(error):
            return DatabaseError(str(told))
        # What a server refuses while a connection is opened (it starts, it is full, it is restoring) passes as a rule.
        if type(told) is DatabaseError:
            return DatabaseUnavailable(str(told))
        return told


# What SQLAlchemy and drivers raise of Python's own for an option or a host in a URL that they cannot use.
_UNUSABLE = (TypeError, ValueError, LookupError, AttributeError, OSError)


def _unusable(name: str, error: BaseException) -> MappingError:
    said = " ".join(without_passwords(str(error)).split())
    return MappingError(f"{name} cannot be used: {said}; see what its URL says")


class Connection:
    """One driver connection, in the driver's autocommit mode: transactions begin and end where we say so."""

    def __init__(self, raw: Any, dialect: Dialect, identity: object = None) -> None:
        self.raw = raw
        self.dialect = dialect
        self.identity = identity  # of the file behind it
        self.line: Line | None = None
        # Without a descriptor to spare it works all the same, and only silence is not noticed.
        with contextlib.suppress(OSError):
            descriptor = dialect.descriptor(raw)
            self.line = None if descriptor is None else Line(descriptor)
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

    @property
    def last_number(self) -> int:
        """The number that the last INSERT has drawn, where it cannot return it."""
        return int(self._cursor.lastrowid)

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

    def sever(self) -> None:
        """Has the driver find the connection lost, where it can be. From any thread."""
        if self.line is not None:
            self.line.sever()

    @property
    def is_severed(self) -> bool:
        return self.line is not None and self.line.severed

    def close(self) -> None:
        with contextlib.suppress(Exception):  # a connection that is broken already has nothing left to say
            self.raw.close()
        if self.line is not None:
            self.line.close()


class Session:
    """Runs whole transactions over one connection, which it opens anew after it was lost. One thread at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.dialect = database.dialect
        self.replaced = False  # whether the file behind it was another one when it was opened again
        self._connection: Connection | None = None
        self._identity: object = None
        self._began: float | None = None  # the verb that is under way
        self._guard: Guard | None = None

    def guard(self, bound: Callable[[], float]) -> None:
        """From now on no verb waits longer for a server than `bound()` seconds, which may change meanwhile."""
        self._guard = Guard(bound, lambda: self._began, self._sever)

    def _sever(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.sever()

    def connection(self) -> Connection:
        connection = self._connection
        if connection is not None and self.dialect.still_there(connection.raw, connection.identity):
            return connection
        self.close_connection()
        identity = self._look_for_file()
        try:
            if self._guard is not None and self.dialect.is_server:
                raw = self._guard.opened(self._open)
            else:
                raw = self._open()
            connection = Connection(raw, self.dialect, identity)
        except sa.exc.DBAPIError as error:
            raise self.database.unreachable(error.orig if isinstance(error.orig, BaseException) else error) from error
        except self.dialect.errors as error:
            raise self.database.unreachable(error) from error
        except TimeoutError as error:
            raise DatabaseUnavailable(f"{self._silence} while a connection was opened") from error
        self.replaced = self.replaced or self._identity not in (None, identity)
        self._identity = identity
        self._connection = connection
        return connection

    def _look_for_file(self) -> object:
        try:
            return self.dialect.identity()
        except MappingError as error:
            if self._identity is None:
                raise
            # It was there, so somebody may put it back.
            raise DatabaseUnavailable(f"{self.database.name} has gone while it was in use: {error}") from error

    def _open(self) -> Any:
        """A connection of the driver's, ready for use and out of its engine's hands."""
        pooled = self.database.engine.raw_connection()
        raw: Any = pooled.driver_connection
        pooled.detach()
        try:
            self.dialect.opened(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """What `work` returns, once the transaction around it is committed; the whole of it again where others were in
        the way."""
        tries, self._began = 0, time.monotonic()
        try:
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
                    # A connection that was lost may have taken a commit with it: what a verb does again, it first
                    # reads.
                    again = trouble is Trouble.BUSY or (trouble is Trouble.LOST and tries == 1)
                    if not again or tries >= TRIES or self._is_late:
                        raise self._failed(error, connection) from error
                    time.sleep(min(1.0, 0.02 * 2 ** min(tries, 6)) * random.uniform(0.5, 1.5))
                except BaseException:
                    self._abandon(connection, None)
                    raise
        finally:
            self._began = None

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """What `work` returns; it only reads, outside any transaction, and is tried once more over a new connection."""
        tries, self._began = 0, time.monotonic()
        try:
            while True:
                connection = self.connection()
                try:
                    return work(connection)
                except self.dialect.errors as error:
                    trouble = self.dialect.trouble(error, connection.raw)
                    if trouble is Trouble.LOST:
                        self.close_connection()
                    tries += 1
                    again = trouble is Trouble.BUSY or (trouble is Trouble.LOST and tries == 1)
                    if not again or tries >= TRIES or self._is_late:
                        raise self._failed(error, connection) from error
                    time.sleep(0.02 * tries * random.uniform(0.5, 1.5))
        finally:
            self._began = None

    @property
    def _is_late(self) -> bool:
        """Whether the verb that is under way has taken as long as it may."""
        if self._guard is not None and self._guard.is_over:
            return True
        return self._began is not None and time.monotonic() - self._began > LONGEST

    def _failed(self, error: Exception, connection: Connection) -> DatabaseError:
        if connection.is_severed:
            return DatabaseUnavailable(self._silence)
        told = self.database._told(error, connection.raw)
        return type(told)(f"{told}; another file took its place while it was in use") if self.replaced else told

    @property
    def _silence(self) -> str:
        seconds = time.monotonic() - (self._began or time.monotonic())
        return f"{self.database.name} did not answer for {seconds:.1f} s"

    def _abandon(self, connection: Connection, trouble: Trouble | None) -> None:
        if trouble is Trouble.LOST:
            self.close_connection()
            return
        try:
            if self.dialect.in_transaction(connection.raw):
                connection.rollback()
        except Exception:
            # A connection that cannot even roll back is of no more use; closing it rolls back on the server.
            self.close_connection()

    def close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        self.close_connection()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.end()
