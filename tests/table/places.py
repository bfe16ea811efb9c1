"""A database for a test, whichever it is: where it stands, what is in it, ways to meddle with it as a user would."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from pooltable import Retry, TaskTable
from pooltable.errors import CannotStore, DatabaseUnavailable
from pooltable.outcomes import NOTHING, Stored, failure_of
from pooltable.table.database import Session
from pooltable.table.lease import Exchange, Lease
from pooltable.table.states import Again, Claim, Done, Fate, Finish, GiveUp, PutOff, Released, Verdict, judge
from pooltable.tasks import Spec, kept
from tests.servers import Server

VIDEO = sa.Table(
    "video",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("content", sa.String(200)),
    sa.Column("caption", sa.String(100)),
    sa.Column("score", sa.Double),
    sa.Column("number", sa.Integer),
    sa.Column("status", sa.String(20)),
)
RETRY = Retry(fails=3, pause=60.0, jitter=0.0)


class Place:
    """One empty database. `kind` is "sqlite", "postgresql" or "mariadb"."""

    def __init__(self, kind: str, url: str, engine: sa.Engine | None = None) -> None:
        self.kind = kind
        self.url = url
        self.engine = engine or sa.create_engine(url, poolclass=NullPool)
        self.server: Server | None = None
        self.claims: Counter[tuple[Any, ...]] = Counter()
        self.fates: list[Fate] = []
        self.leases: list[Lease] = []
        self.tables: list[TaskTable] = []
        # DOING rows without a runner that the test leaves on purpose; None where the table itself is gone at the end.
        self.foreign_doing: int | None = 0
        # Whether every claim was made under our eyes, so that attempts can be compared.
        self.counts_claims = True

    # ---- the user's hand

    def sql(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        """Runs a statement and commits; `[name]` is a quoted identifier."""
        with self.engine.begin() as connection:
            result = connection.execute(sa.text(self.quoted(text)), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def quoted(self, text: str) -> str:
        mark = "`" if self.kind == "mariadb" else '"'
        return text.replace("[", mark).replace("]", mark)

    def script(self, *statements: str) -> None:
        for statement in statements:
            # Past the parameters, because a trigger's body may hold colons.
            with self.engine.begin() as connection:
                connection.exec_driver_sql(self.quoted(statement))

    def value(self, text: str, **values: Any) -> Any:
        return self.sql(text, **values)[0][0]

    @contextmanager
    def holding(self, text: str) -> Iterator[None]:
        """Runs a statement, and commits it only at the end of the block."""
        with self.engine.connect() as connection, connection.begin():
            connection.execute(sa.text(self.quoted(text)))
            yield

    # ---- tables

    def video(self, count: int = 0, **options: Any) -> TaskTable:
        """The common table: video(id, content, caption, score, number, status), with so many rows waiting."""
        VIDEO.create(self.engine, checkfirst=True)
        self.add_videos(count)
        return self.table("video", **options)

    def add_videos(self, count: int) -> None:
        rows = [{"id": i, "content": f"video {i}", "status": "PENDING"} for i in range(1, count + 1)]
        if rows:
            with self.engine.begin() as connection:
                connection.execute(VIDEO.insert(), rows)

    def table(self, name: Any, **options: Any) -> TaskTable:
        table = TaskTable(self.url, name, **options)
        self.tables.append(table)
        return table

    def statuses(self, table: str = "video", key: str = "id") -> dict[Any, Any]:
        return dict(self.sql(f"SELECT [{key}], status FROM [{table}] ORDER BY 1"))  # type: ignore[arg-type]

    # ---- leases

    def lease(self, table: TaskTable, **options: Any) -> Watched:
        lease = table.open_lease(**options)
        self.leases.append(lease)
        return Watched(lease, self)

    def shift(self, seconds: float, *columns: str, table: str = "pooltable_runner", where: str = "1 = 1") -> None:
        """Moves times in a side table into the past, as if so many seconds had gone by."""
        for column in columns:
            moved = {
                "sqlite": f"{column} - {seconds}",
                "postgresql": f"{column} - interval '{seconds} seconds'",
                "mariadb": f"{column} - INTERVAL {seconds} SECOND",
            }[self.kind]
            self.sql(f"UPDATE [{table}] SET {column} = {moved} WHERE {where}")

    def lapse(self, lease: Watched | Lease, seconds: float = 100.0) -> None:
        """The lease ran out, as if its runner had not beaten for long."""
        self.shift(seconds, "expires_at", where=f"id = '{lease.id}'")

    def due_now(self, table: str = "pooltable_video_entry") -> None:
        """Every back-off is over."""
        self.shift(10_000, "not_before", table=table, where="not_before IS NOT NULL")

    def move_to_another_host(self, lease: Watched | Lease) -> None:
        self.sql("UPDATE pooltable_runner SET boot_id = 'another', host = 'another' WHERE id = :id", id=lease.id)

    def process_gone(self, lease: Watched | Lease) -> None:
        """As if the runner's process had been killed: no process of this host has that pid and start."""
        self.sql("UPDATE pooltable_runner SET pid_started = '1' WHERE id = :id", id=lease.id)

    def reset(self, prepared: TaskTable | None = None) -> None:
        """Forgets everything and deletes every row; the tables stay, since making them takes longest.

        So does the row of a job that was prepared already.
        """
        for lease in self.leases:
            lease._session.close()
        with self.engine.begin() as connection:
            for name in sa.inspect(connection).get_table_names():
                if prepared is not None and name == "pooltable_job":
                    continue
                connection.exec_driver_sql(self.quoted(f"DELETE FROM [{name}]"))
        self.claims.clear()
        self.fates.clear()
        self.leases.clear()
        self.tables[:] = [] if prepared is None else [prepared]

    def close(self) -> None:
        for lease in self.leases:
            lease._session.close()
        if isinstance(self.engine.pool, NullPool):
            self.engine.dispose()


class Watched:
    """A lease whose claims and fates are counted, for the invariants."""

    def __init__(self, lease: Lease, place: Place) -> None:
        self._lease = lease
        self._place = place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)

    def claim(self, room: int = 1000) -> list[Claim]:
        return self._note_claims(self._lease.claim(room))

    def one(self) -> Claim:
        (claim,) = self.claim(1)
        return claim

    def finish(self, ends: Iterable[Finish]) -> list[Fate]:
        return self._note_fates(self._lease.finish([self._converted(end) for end in ends]))

    def _converted(self, end: Finish) -> Finish:
        """As a worker and the runner do it: tests write what a task returned as `Done(value)`."""
        if not isinstance(end.verdict, Done) or isinstance(end.verdict.stored, Stored):
            return end
        store = self._lease._converter.store
        spec = Spec(print, ("id",), 1, store=store or (lambda value: ((), ())))
        try:
            ended = kept(spec, end.verdict.stored) or NOTHING
        except CannotStore as error:
            ended = failure_of(error)
        return end._replace(verdict=judge(ended, end.claim, RETRY))

    def end(self, verdict: Verdict, *claims: Claim) -> list[Fate]:
        """Ends claims alike."""
        return self.finish(Finish(claim, verdict, 0.5, 0, "printed") for claim in claims)

    def done(self, *claims: Claim, value: object = None) -> list[Fate]:
        return self.end(Done(value), *claims)  # type: ignore[arg-type]  # see _converted

    def fail(self, *claims: Claim) -> list[Fate]:
        return self.end(GiveUp("ValueError", "ValueError: bad", "Traceback ...\nValueError: bad", "fails"), *claims)

    def again(self, *claims: Claim, pause: float = 60.0) -> list[Fate]:
        return self.end(Again(pause, "ValueError", "ValueError: bad"), *claims)

    def later(self, *claims: Claim, pause: float = 60.0) -> list[Fate]:
        return self.end(PutOff(pause), *claims)

    def release(self, *claims: Claim) -> list[Fate]:
        return self.end(Released(), *claims)

    def exchange(self, ends: Iterable[Finish], room: int) -> Exchange:
        answer = self._lease.exchange([self._converted(end) for end in ends], room)
        self._note_claims(answer.claims)
        self._note_fates(answer.fates)
        return answer

    def _note_claims(self, claims: list[Claim]) -> list[Claim]:
        self._place.claims.update(claim.key for claim in claims)
        return claims

    def _note_fates(self, fates: list[Fate]) -> list[Fate]:
        self._place.fates += fates
        return fates


def ends(fates: Iterable[Fate]) -> list[str | None]:
    """How each ended, or why not."""
    return [fate.end or fate.why for fate in fates]


def lost_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the next commit is lost."""
    transact = Session.transact

    def lost(session: Session, work: Any) -> Any:
        transact(session, work)
        monkeypatch.setattr(Session, "transact", transact)
        raise DatabaseUnavailable("cut off during the commit")

    monkeypatch.setattr(Session, "transact", lost)


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def sqlite_place(folder: Path) -> Place:
    file = folder / "tasks.db"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return Place("sqlite", f"sqlite:///{file}")
