"""The user's side of a table of tasks: what it is, what stands in it, and what may be done to it by hand.

TaskTable --prepare--> Mapping, side tables, job row     (once, by whichever verb needs it first)
          --open_lease--> Lease                          (what a runner works through)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping as MappingOf, Sequence
from typing import Any

import sqlalchemy as sa

from pooltable.errors import DatabaseError, MappingError
from pooltable.events import Key
from pooltable.rows import Row
from pooltable.table import jobs, schema
from pooltable.table.adding import insert_rows
from pooltable.table.checkup import checkup
from pooltable.table.conversion import Store
from pooltable.table.database import Connection, Database, Result, Session
from pooltable.table.finding import Finding
from pooltable.table.indexing import make_index
from pooltable.table.kinds import kinds_of_failures
from pooltable.table.lease import Lease
from pooltable.table.looking import Look, Looker
from pooltable.table.mapping import Mapping, Request, reflect
from pooltable.table.notify import Triggers, may_notify
from pooltable.table.reading import Counts, Entries, Entry, Reader, WholeRow
from pooltable.table.requeue import release_dead, release_foreign, requeue
from pooltable.table.rescue import Holder, Rescuer
from pooltable.table.rights import held, needed
from pooltable.table.statements import Statements
from pooltable.table.states import Status, Words
from pooltable.table.upkeep import Pruned, prune
from pooltable.table.values import Converter

_WORDS = Words()


class TaskTable:
    """A table whose rows are tasks.

    `database` is a SQLAlchemy URL or Engine; `table` a name, a SQLAlchemy Table or a mapped class. `status` names the
    column that holds one of the four `words`; `write` and `result` the columns that take what a task returns. `where`
    and `order_by`, SQL or SQLAlchemy expressions, say which rows are meant and which come first.

        videos = TaskTable("sqlite:///videos.db", "video", write=("caption",))
        videos.counts().pending

    With both `write` and `result`, the parts of a returned mapping that are named in `write` go to their columns, and
    what is left over goes to `result`.
    """

    def __init__(
        self,
        database: str | sa.URL | sa.Engine,
        table: Any,
        *,
        job: str | None = None,
        columns: Sequence[str] | None = None,
        key: str | Sequence[str] | None = None,
        status: str = "status",
        words: Words = _WORDS,
        write: Sequence[str] = (),
        result: str | None = None,
        order_by: Any = None,
        where: Any = None,
    ) -> None:
        self._database = Database(database)
        self._request = Request(table, columns, key, status, words, write, result, order_by, where)
        self._job = job
        self._lock = threading.RLock()
        self._mapping: Mapping | None = None
        self._statements: Statements | None = None
        self._reader: Reader | None = None
        self._entries = False  # whether the side tables are known to be there
        self._entered = False  # whether the job is known there with this mapping

    def __repr__(self) -> str:
        return f"<TaskTable {self.shown_name} in {self._database.name}>"

    # ---- getting ready

    def prepare(self, create: bool = True, again: bool = False) -> list[str]:
        """Checks the table and makes the side tables; every verb does it as needed. `create=False` makes nothing.

        A job that has claimed no row takes this mapping in place of the one it had; with `again` so does one that has,
        unless open rows would be lost. Returns what it means differently from now on, a line for each.

        Raises MappingError where table, key, columns or words do not fit, DatabaseError where the database refuses.
        """
        changes: list[str] = []
        with self._lock:
            if self._mapping is None:
                self._map()
            if not (self._entered if create else self._entries):
                session = self._database.session()
                try:
                    if create:
                        changes = self._make(session, again)
                    self._entries = create or self._there(session)
                    self._entered = create
                finally:
                    session.close()
        return changes

    def _map(self) -> None:
        dialect = self._database.dialect

        def look(connection: sa.Connection) -> Mapping:
            dialect.check_server(connection)
            return dialect.completed(connection, reflect(connection, self._request, dialect, self._database.name))

        mapping = self._database.reflecting(look)
        job = self._job or mapping.name
        statements = dialect.statements(mapping, job)
        session = self._database.session()
        try:
            # The user's own words of SQL are tried before anything is made or claimed.
            for role, asked, sql in (
                ("where", self._request.where, f"SELECT 1 FROM {mapping.sql} WHERE (\n{mapping.where}\n) LIMIT 1"),
                (
                    "order_by",
                    self._request.order_by,
                    f"SELECT 1 FROM {mapping.sql} ORDER BY {mapping.order.sql} LIMIT 1",
                ),
            ):
                if asked is not None:
                    self._try_out(session, role, asked, sql)
        finally:
            session.close()
        self._mapping, self._statements, self._reader = mapping, statements, Reader(statements)

    def _try_out(self, session: Session, role: str, asked: Any, sql: str) -> None:
        try:
            session.read(lambda c: c.all(sql))
        except DatabaseError as error:
            if type(error) is DatabaseError:
                raise MappingError(f"{role}={str(asked)!r} does not work in a query: {error}") from error
            raise

    def _there(self, session: Session) -> bool:
        s = self._known
        return session.read(lambda c: s.dialect.has_table(c, s.mapping.schema, schema.entry_table(s.job)))

    def _make(self, session: Session, again: bool) -> list[str]:
        d = self._database.dialect
        if not self._there(session):
            statements = session.read(lambda c: self._ddl(c))

            def make(c: Connection) -> None:
                d.one_at_a_time(c)
                for statement in statements:
                    c.run(statement)

            try:
                session.transact(make)
            except DatabaseError as error:
                if type(error) is DatabaseError and not self._there(session):
                    said = d.said(error.__cause__ or error)
                    raise DatabaseError(
                        f"{self.database}: {said}; pooltable cannot make its side tables: let somebody who may run what"
                        " `pooltable init --print` shows, and give this role its rights on them"
                    ) from error
                raise
        return session.transact(lambda c: jobs.enter(c, self._known, self._ddl, again))

    def _ddl(self, c: Connection) -> list[str]:
        s, d = self._known, self._database.dialect
        tables = schema.create_tables(s.mapping, s.job, d, d.key_types(c, s.mapping))
        return [*tables, *schema.create_indexes(s.mapping, s.job, d)]

    @property
    def _known(self) -> Statements:
        if self._statements is None:
            self.prepare(create=False)
        assert self._statements is not None
        return self._statements

    @property
    def mapping(self) -> Mapping:
        """Which column plays which role."""
        return self._known.mapping

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of a Row: the key's columns, then the others."""
        return self.mapping.fields

    @property
    def name(self) -> str:
        """The table's name."""
        return self.mapping.name

    @property
    def shown_name(self) -> str:
        """The table's name as it was given: with its schema where that was said."""
        asked = self._request.table
        return asked if isinstance(asked, str) else str(getattr(asked, "__table__", asked))

    @property
    def job(self) -> str:
        """The name of this piece of work; the table's own, where none was given."""
        return self._known.job

    @property
    def key(self) -> tuple[str, ...]:
        """The names of the key's columns."""
        return tuple(column.name for column in self.mapping.key)

    @property
    def status(self) -> str:
        """The name of the status column."""
        return self.mapping.status.name

    @property
    def words(self) -> Words:
        """The status words, as values of the status column."""
        return self.mapping.words

    @property
    def write(self) -> tuple[str, ...]:
        """The names of the columns that take what a task returns by name."""
        return tuple(column.name for column in self.mapping.write)

    @property
    def result(self) -> str | None:
        """The name of the column that takes what a task returns as a whole."""
        return self.mapping.result.name if self.mapping.result is not None else None

    @property
    def kind(self) -> str:
        """The kind of database: "sqlite", "postgresql" or "mysql", which MariaDB is as well."""
        return self._database.dialect.name

    @property
    def database(self) -> str:
        """The database as it may be shown: without its password."""
        return self._database.name

    # ---- looking

    def look(self) -> Look:
        """What stands in the status column, and what would be in a run's way."""
        self.prepare(create=False)
        looker = Looker(self._known, self._database, self._entries)
        return self._reading(looker.look)

    def foreign_doing(self) -> int:
        """How many rows are DOING and held by no runner."""
        self.prepare(create=False)
        return self._reading(Looker(self._known, self._database, self._entries).foreign_doing)

    def keyless(self) -> int:
        """How many rows are PENDING and have NULL in their key, so that no run can take them."""
        self.prepare(create=False)
        return self._reading(Looker(self._known, self._database, self._entries).keyless)

    def counts(self) -> Counts:
        """How many rows are in each state now."""
        self.prepare(create=False)
        return self._reading(lambda c: self._read.counts(c, self._entries))

    def holders(self) -> list[Holder]:
        """The runners that hold rows now, with what is left of their leases."""
        self.prepare(create=False)
        return self._reading(Rescuer(self._known, "", 0.0).look) if self._entries else []

    def failures(self, limit: int = 100, kind: str | None = None, run: str | None = None) -> list[Entry]:
        """Entries of FAILED rows, the newest first; of one kind of error, or of one run (the start of its id).

        The module of a kind may be left out, and upper or lower case does not matter.
        """
        self.prepare(create=False)
        return self._reading(lambda c: self._read.failures(c, limit, kind, run)) if self._entries else Entries()

    def kinds(self) -> dict[str, int]:
        """The kinds of error that rows are FAILED with and how many rows each has, the most frequent first."""
        self.prepare(create=False)
        return self._reading(lambda c: kinds_of_failures(c, self._known)) if self._entries else {}

    def entry(self, key: Any) -> Entry | None:
        """What pooltable remembers of a row; None for one that was never claimed."""
        self.prepare(create=False)
        wanted = self._key(key)
        return self._reading(lambda c: self._read.entry(c, wanted)) if self._entries else None

    def row(self, key: Any) -> Row | None:
        """The row as a task would get it, whatever its state; None when there is none."""
        wanted = self._key(key)
        return self._reading(lambda c: self._read.rows(c, [wanted])[0])

    def whole_row(self, key: Any) -> WholeRow | None:
        """The row with its status and the columns that take what a task returns; None when there is none."""
        wanted = self._key(key)
        return self._reading(lambda c: self._read.whole_row(c, wanted))

    def sample(self, count: int = 200) -> list[Row]:
        """Up to so many rows as a task would get them, which stay as they are: rows that wait, else rows that are done.

        Fewer where they are large. The database is told that nothing is to be written.
        """
        self.prepare(create=False)
        session = self._database.session()
        try:

            def read(c: Connection) -> list[Row]:
                c.run(self._database.dialect.begin_reading)
                return self._read.sample(c, count)

            return session.read(read)
        finally:
            session.close()

    @property
    def _read(self) -> Reader:
        if self._reader is None:
            self.prepare(create=False)
        assert self._reader is not None
        return self._reader

    def _reading(self, work: Callable[[Connection], Result]) -> Result:
        session = self._database.session()
        try:
            return session.read(work)
        finally:
            session.close()

    def _writing(self, work: Callable[[Connection], Result]) -> Result:
        self.prepare()
        session = self._database.session()
        try:
            return session.transact(work)
        finally:
            session.close()

    def _key(self, key: Any) -> Key:
        """A key as the driver takes it: a tuple, or the bare value where the key is one column; text is read as the
        column's type."""
        columns = self.mapping.key
        parts = tuple(key) if isinstance(key, (tuple, list)) else (key,)
        if len(parts) != len(columns):
            raise MappingError(
                f"table {self.name!r}: a key is {', '.join(c.name for c in columns)}, and {key!r} does not match that"
            )
        return tuple(self._converter().key_part(column, part) for column, part in zip(columns, parts, strict=True))

    @property
    def store(self) -> Store | None:
        """What turns a value that a task returned into those of its columns, in its worker; None without columns."""
        return self._converter().store

    def _converter(self) -> Converter:
        return self._database.dialect.converter(self.mapping)

    # ---- changing by hand

    def add(self, rows: Iterable[MappingOf[str, Any]]) -> int:
        """Inserts rows, each a mapping of columns to values, as PENDING where they name no status; their number."""
        statements, converter = self._known, self._converter()
        listed = list(rows)
        return self._writing(lambda c: insert_rows(c, statements, converter, listed))

    def requeue(
        self,
        keys: Iterable[Any] | None = None,
        *,
        failed: bool = False,
        done: bool = False,
        kind: str | None = None,
        run: str | None = None,
    ) -> int:
        """Makes finished rows PENDING again, with a fresh budget; how many.

        Those of `keys` that are DONE, FAILED or stuck (one under back-off becomes due now); or all that are DONE, with
        `done`; or, of the FAILED ones, all with `failed`, those of one `kind` of error (as in `failures`), those that
        the run `run` (the start of its id) finished.
        """
        wanted = None if keys is None else [self._key(key) for key in keys]
        statements = self._known
        self.prepare()
        session = self._database.session()
        try:
            states = [Status.DONE] * done + [Status.FAILED] * failed
            return requeue(session, statements, wanted, states, kind, run)
        finally:
            session.close()

    def pause(self) -> None:
        """Stops claims of this job, everywhere, until `resume`."""
        self._pause("paused_at IS NULL", self._database.dialect.now)

    def resume(self) -> None:
        """Lets claims of this job go on."""
        self._pause("paused_at IS NOT NULL", "NULL")

    def _pause(self, condition: str, value: str) -> None:
        s = self._known
        sql = f"UPDATE {s.names.jobs} SET paused_at = {value} WHERE {s.dialect.quote('job')} = {s.mark} AND {condition}"
        self._writing(lambda c: c.run(sql, (s.job,)))

    def release(self, *, foreign: bool = False) -> int:
        """Gives back, at no cost, rows that dead runners hold; with `foreign` also DOING rows that no runner holds."""
        statements = self._known
        self.prepare()
        session = self._database.session()
        try:
            count = release_dead(session, statements)
            return count + (release_foreign(session, statements) if foreign else 0)
        finally:
            session.close()

    def init_sql(self) -> str:
        """The SQL that makes the side tables, for somebody to run where pooltable may not, and the index that claims
        need."""
        s = self._known
        statements = [*self._reading(self._ddl), schema.claim_index(s.mapping, s.job, s.dialect)]
        return "".join(f"{s.dialect.plain(statement)};\n" for statement in statements)

    def create_index(self) -> str | None:
        """Makes the index that claims need over the user's table; its SQL, or None where one was there already.

        Others go on writing meanwhile, where the database can do that: PostgreSQL, MySQL and MariaDB.
        """
        s = self._known
        looker = Looker(s, self._database, self._entries)
        return self._reading(lambda c: make_index(c, s, looker))

    def notify_sql(self, on: bool = True) -> str:
        """The SQL that makes, or removes, what `set_notify` does. Raises SettingError on other databases than
        PostgreSQL."""
        s = self._known
        triggers = Triggers(s)
        return "".join(f"{s.dialect.plain(one)};\n" for one in (triggers.making() if on else triggers.removing()))

    def set_notify(self, on: bool) -> bool:
        """Makes triggers on the user's table by which PostgreSQL tells runners of new rows, or removes them; whether
        that changed anything. Runners that start later listen. Raises SettingError on other databases."""
        triggers = Triggers(self._known)

        def work(c: Connection) -> bool:
            if not on:
                return triggers.remove(c)
            before = triggers.are_there(c)
            triggers.make(c)
            return not before

        return self._writing(work)

    @property
    def notifies(self) -> bool:
        """Whether the triggers of `set_notify` are there."""
        s = self._known
        return may_notify(s) and self._reading(Triggers(s).are_there)

    def prune(self, older_than: float = 30 * 86400.0, *, dry_run: bool = False) -> Pruned:
        """Removes finished entries older than so many seconds, those of rows that are gone, and runners and claims that
        are long over; how many of each. Rows stay as they are, and with `dry_run` everything does."""
        statements = self._known
        self.prepare(create=False)
        if not self._entries:
            return Pruned(0, 0, 0)
        session = self._database.session()
        try:
            return prune(session, statements, older_than, dry_run)
        finally:
            session.close()

    def findings(self) -> list[Finding]:
        """Whether a run would work, and work fast: everything that was looked at, with its remedy. Changes nothing."""
        self.prepare(create=False)
        return self._reading(lambda c: checkup(c, self._known, self._database, self._entries))

    # ---- running

    def _refuse_without_rights(self, c: Connection) -> None:
        """Raises where this role lacks a right of a run, which would otherwise be found when rows are DOING already."""
        for right in needed(self._known, self._entries):
            if not held(c, right):
                on = self._database.dialect.plain(right.on)
                raise DatabaseError(
                    f"{self.database}: this role lacks {right.what} on {on}; `pooltable doctor` shows the GRANT"
                )

    def open_lease(
        self, *, seconds: float = 30.0, name: str | None = None, processes: int = 1, poll: float = 2.0
    ) -> Lease:
        """A lease of so many seconds, under which rows are claimed. Waiting rows are looked at anew every `poll`."""
        self.prepare()
        if self._database.dialect.is_server:
            self._reading(self._refuse_without_rights)
        return Lease(
            self._database, self._known, self._converter(), seconds=seconds, poll=poll, name=name, processes=processes
        )
