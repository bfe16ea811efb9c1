"""The database fails: at every single call, in every way; connections are cut, rows are locked, servers restart."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import sqlite3
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pooltable import Retry, TaskTable
from pooltable.errors import DatabaseError, DatabaseReadOnly, DatabaseUnavailable, MappingError
from pooltable.outcomes import Stored
from pooltable.table import database
from pooltable.table.states import Again, Done, Finish, GiveUp, Verdict
from tests.table.invariants import one_connection
from tests.table.places import Place, Watched, ends, wait_until

CALLS = ("all", "run", "many", "begin", "commit")


class Saboteur:
    """Counts what is asked of the database, and lets the n-th of it fail."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.count = 0
        self.at: int | None = None
        self.mode = ""
        self.hit: list[str] = []
        for name in CALLS:
            monkeypatch.setattr(database.Connection, name, self._wrapped(name, getattr(database.Connection, name)))

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(connection: database.Connection, *arguments: Any) -> Any:
            self.count += 1
            if self.count != self.at:
                return call(connection, *arguments)
            self.hit.append(f"{name} {str(arguments[0])[:60] if arguments else ''}")
            if self.mode == "busy":
                raise self._busy()
            if self.mode == "cut after":
                call(connection, *arguments)
            self._cut(connection)
            return call(connection, *arguments)

        return wrapper

    def _busy(self) -> Exception:
        if self.place.kind == "sqlite":
            error: Any = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            return error
        if self.place.kind == "postgresql":
            import psycopg

            return psycopg.errors.DeadlockDetected("deadlock detected")
        import pymysql

        return pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock")

    def _cut(self, connection: database.Connection) -> None:
        raw = connection.raw
        if self.place.kind == "sqlite":
            # A file has no connection to lose; its disk may fail.
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            error: Any = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        number = raw.fileno() if self.place.kind == "postgresql" else raw._sock.fileno()
        with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(number)) as copy:
            copy.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def saboteur(place: Place, monkeypatch: pytest.MonkeyPatch) -> Saboteur:
    return Saboteur(place, monkeypatch)


def patiently(call: Callable[..., Any], *arguments: Any) -> Any:
    """The verb until the database is back, as a runner does it."""
    for _ in range(5):
        with contextlib.suppress(DatabaseUnavailable):
            return call(*arguments)
    raise AssertionError("the database never came back")


def work_through(place: Place, lease: Watched) -> Counter[int]:
    """Six rows through every verb; how often each was run."""
    ran: Counter[int] = Counter()
    handed_in: list[Finish] = []
    for _ in range(12):
        answer = patiently(lease._lease.exchange, handed_in, 3)
        place.claims.update(claim.key for claim in answer.claims)
        place.fates += answer.fates
        assert None not in patiently(lease.read, answer.claims)
        handed_in = []
        for claim in answer.claims:
            ran[claim.key[0]] += 1
            bad = claim.key[0] % 3 == 0
            verdict: Verdict = Done(Stored(("caption",), ("text",)))
            if bad:
                verdict = Again(0.0, "E", "e") if claim.fails == 0 else GiveUp("E", "e", "", "fails")
            handed_in.append(Finish(claim, verdict, 0.1, 0))
        patiently(lease.beat)
        patiently(lease.rescue, Retry())
        left = patiently(lease.left)
        if not answer.claims and not left.pending and not left.mine:
            break
    else:
        raise AssertionError("it never ended")
    patiently(lease.close)
    return ran


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction is tried again at once: the one call that fails is over by then."""
    monkeypatch.setattr(database, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("mode", ["busy", "cut before", "cut after"])
def test_whichever_call_fails_every_row_is_run_and_written_exactly_as_often_as_it_must(place, saboteur, mode):
    table = place.video(write=("caption",))
    table.prepare()

    def once(at: int | None) -> int:
        place.reset(table)
        place.add_videos(6)
        lease = place.lease(table)
        saboteur.count, saboteur.at, saboteur.mode, saboteur.hit = 0, at, mode, []
        ran = work_through(place, lease)
        saboteur.at = None
        where = f"{mode} at call {at}: {saboteur.hit}"
        assert ran == {1: 1, 2: 1, 3: 2, 4: 1, 5: 1, 6: 2}, where
        assert place.statuses() == {1: "DONE", 2: "DONE", 3: "FAILED", 4: "DONE", 5: "DONE", 6: "FAILED"}, where
        with one_connection(table):
            counts = table.counts()
            attempts = {key: table.entry(key).attempt for key in (1, 3)}
        assert counts.open == {}, where
        assert attempts == {1: 1, 3: 2}, where
        return saboteur.count

    calls = once(None)
    assert calls > 40
    # Every call on SQLite; on servers some of them, from another start for each mode, as each needs its own tables.
    step = {"sqlite": 1, "postgresql": 3, "mariadb": 6}[place.kind]
    for at in range(1 + len(mode) % step, calls + 1, step):
        once(at)


def test_a_claim_whose_commit_got_through_is_read_back(served, monkeypatch):
    table = served.video(5)
    lease = served.lease(table)
    saboteur = Saboteur(served, monkeypatch)
    saboteur.mode = "cut after"
    original = database.Connection.commit

    def commit(connection):
        original(connection)
        monkeypatch.setattr(database.Connection, "commit", original)
        saboteur._cut(connection)
        connection.all("SELECT 1")

    monkeypatch.setattr(database.Connection, "commit", commit)
    claims = lease.claim(3)
    assert [claim.key[0] for claim in claims] == [1, 2, 3]
    assert [table.entry(i).attempt for i in (1, 2, 3)] == [1, 1, 1]
    lease.done(*claims)


@pytest.fixture
def refused_sockets() -> Iterator[None]:
    """PyMySQL leaves the socket of a connection that was refused to the garbage collector, which warns of it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.usefixtures("refused_sockets")
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
def test_the_database_stays_away_and_comes_back(served):
    table = served.video(4)
    lease = served.lease(table)
    claims = lease.claim(2)
    served.server.stop()
    try:
        for verb in (
            lambda: lease.done(*claims),
            lambda: lease.claim(1),
            lease.beat,
            lease.left,
            lambda: table.counts(),
        ):
            with pytest.raises(DatabaseUnavailable) as caught:
                verb()
            assert "\n" not in str(caught.value)
    finally:
        served.server.start()
    assert ends(lease.done(*claims)) == ["done"] * 2
    assert len(lease.claim(5)) == 2
    lease.close()


@pytest.mark.usefixtures("refused_sockets")
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
def test_the_server_is_killed_in_mid_run_and_restarts(served):
    table = served.video(40)
    lease = served.lease(table)
    seen: Counter[int] = Counter()
    finishes: list[Finish] = []
    for step in range(40):
        if step == 3:
            served.server.restart(signal.SIGKILL if served.kind == "mariadb" else signal.SIGQUIT)
        answer = patiently(lease.exchange, finishes, 2)
        finishes = [Finish(claim, Done()) for claim in answer.claims]
        seen.update(claim.key[0] for claim in answer.claims)
        if not answer.claims:
            break
    # A server that was killed may have forgotten its last commits, as these are told not to wait for the disk.
    assert set(seen) == set(range(1, 41))
    assert set(served.statuses().values()) <= {"DONE", "DOING"}
    served.foreign_doing = None


# ---- locks


def test_a_row_that_the_user_has_locked_is_passed_over_by_claims(served):
    table = served.video(3)
    lease = served.lease(table)
    with served.holding("UPDATE video SET content = 'mine' WHERE id = 2"):
        assert [claim.key[0] for claim in lease.claim(10)] == [1, 3]
        assert lease.left().pending == 1
    wait_until(lambda: [claim.key[0] for claim in lease.claim(10)] == [2])


def test_a_locked_row_does_not_hold_up_its_group_and_is_written_with_the_next(served):
    table = served.video(3, write=("caption",))
    lease = served.lease(table)
    claims = lease.claim(3)
    with served.holding("UPDATE video SET content = 'mine' WHERE id = 2"):
        assert ends(lease.done(*claims, value="text")) == ["done", "locked", "done"]
    assert ends(lease.done(claims[1], value="text")) == ["done"]
    assert set(served.statuses().values()) == {"DONE"}


def test_a_lock_on_the_whole_table_is_waited_for_a_while_and_then_told(served, monkeypatch):
    monkeypatch.setattr("pooltable.table.database.LONGEST", 0.0)
    if served.kind == "postgresql":
        monkeypatch.setattr("pooltable.table.postgres.PostgreSQL.begin", "BEGIN; SET LOCAL lock_timeout = '100ms'")
        lock = "LOCK TABLE video IN ACCESS EXCLUSIVE MODE"
    else:
        monkeypatch.setattr("pooltable.table.mysql.LOCK_SECONDS", 1)
        lock = "UPDATE pooltable_video_claims SET size = size"
    table = served.video(3)
    lease = served.lease(table)
    claims = lease.claim(2)
    with served.holding(lock), pytest.raises(DatabaseUnavailable, match="locked by others"):
        lease.done(*claims)
    assert ends(lease.done(*claims)) == ["done", "done"]


def test_a_locked_row_of_a_dead_runner_is_rescued_later(served):
    table = served.video(2)
    dead, living = served.lease(table), served.lease(table)
    dead.claim(2)
    served.process_gone(dead)
    with served.holding("UPDATE video SET content = 'mine' WHERE id = 1"):
        assert living.rescue(Retry()).pending == 1
    assert living.rescue(Retry()).pending == 1


def test_a_row_for_which_a_child_row_is_being_inserted_can_be_claimed(postgresql):
    table = postgresql.video(2)
    postgresql.script("CREATE TABLE part (id INTEGER PRIMARY KEY, video INTEGER REFERENCES video (id))")
    lease = postgresql.lease(table)
    with postgresql.holding("INSERT INTO part VALUES (1, 2)"):
        claims = lease.claim(5)
        assert [claim.key[0] for claim in claims] == [1, 2]
        assert ends(lease.done(*claims)) == ["done", "done"]


def test_a_deadlock_with_a_transaction_of_the_users_own_is_survived(served):
    table = served.video(50, write=("caption",))
    stop = threading.Event()
    errors: list[BaseException] = []

    def meddle() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with contextlib.suppress(Exception), served.engine.begin() as connection:
                for key in ((number * 7) % 50 + 1, (number * 3) % 50 + 1):
                    connection.exec_driver_sql(f"UPDATE video SET content = 'm{number}' WHERE id = {key}")

    thread = threading.Thread(target=meddle)
    thread.start()
    lease = served.lease(table)
    try:
        pending: list[Finish] = []
        for _ in range(400):
            answer = lease.exchange(pending, 7)
            locked = {fate.claim for fate in answer.fates if fate.why == "locked"}
            pending = [finish for finish in pending if finish.claim in locked]
            pending += [Finish(claim, Done(Stored(("caption",), ("text",)))) for claim in answer.claims]
            if not pending and not answer.claims and not lease.left().pending:
                break
    except BaseException as error:
        errors.append(error)
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert set(served.statuses().values()) == {"DONE"}


# ---- refusals


def test_a_column_that_was_dropped_under_a_runner_gives_one_clear_line_and_burns_no_attempt(place):
    table = place.video(4, write=("caption",))
    lease = place.lease(table)
    claims = lease.claim(1)
    place.script("ALTER TABLE video DROP COLUMN caption")
    with pytest.raises(DatabaseError, match="caption") as caught:
        lease.done(*claims, value="text")
    assert "\n" not in str(caught.value)
    assert ends(lease.release(*claims)) == ["released"]
    assert table.entry(1).fails == 0


def test_a_table_that_was_dropped_under_a_runner_gives_one_clear_line(place):
    table = place.video(4)
    lease = place.lease(table)
    claims = lease.claim(1)
    place.script("DROP TABLE video")
    place.foreign_doing = None
    for verb in (lambda: lease.claim(1), lambda: lease.done(*claims), lambda: lease.read(claims), lease.left):
        with pytest.raises(DatabaseError, match="video"):
            verb()


def test_a_role_that_may_not_create_tables_is_told_what_to_do(postgresql):
    postgresql.video(1)
    postgresql.script(
        "DROP ROLE IF EXISTS small",
        "CREATE ROLE small LOGIN",
        "GRANT USAGE ON SCHEMA public TO small",
        "GRANT SELECT, UPDATE ON video TO small",
    )
    table = postgresql.table("video")
    poor = TaskTable(postgresql.url.replace("test@", "small@"), "video")
    with pytest.raises(DatabaseError, match="init --print"):
        poor.prepare()
    table.prepare()
    postgresql.script("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO small")
    lease = poor.open_lease()
    (claim,) = lease.claim(1)
    assert lease.finish([Finish(claim, Done())])[0].end == "done"
    lease.close()
    postgresql.script("DROP OWNED BY small", "DROP ROLE small")


@pytest.mark.parametrize(
    "url, driver, extra", [("postgresql://h/d", "psycopg", "postgres"), ("mysql://h/d", "pymysql", "mysql")]
)
def test_a_driver_that_is_not_installed_is_named_with_the_remedy(monkeypatch, url, driver, extra):
    def missing(name, *rest):
        raise ImportError(name)

    monkeypatch.setattr("pooltable.table.dialects.import_module", missing)
    with pytest.raises(MappingError, match=rf"pip install 'pooltable\[{extra}\]'"):
        TaskTable(url, "video")


def test_a_server_that_takes_no_writes_is_refused(postgresql):
    table = postgresql.video(1)
    table.prepare()
    url = postgresql.url + "&options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(DatabaseReadOnly, match="takes no writes"):
        TaskTable(url, "video").open_lease()
