"""Has PostgreSQL tell runners of new rows: triggers on the user's table that NOTIFY, and a connection that LISTENs.

    INSERT INTO video        --trigger, once a statement-->  NOTIFY  --at the commit-->  Notifications --> heard()
    UPDATE .. = 'PENDING'    --trigger, for such rows---->

The server sends what is equal in one transaction once. The UPDATEs of claims and ends fire nothing: the condition of
the trigger is looked at before any function is called.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from pooltable.errors import DatabaseError, SettingError
from pooltable.signals import leave_to_main_thread
from pooltable.table.database import Connection, Database
from pooltable.table.guard import Line
from pooltable.table.schema import shortened
from pooltable.table.statements import Statements

REMOVED = "removed"  # what is told when the triggers go
FIRST_PAUSE = 0.1  # seconds, between two tries to connect; it doubles from the first to the last
LONGEST_PAUSE = 10.0
PASSES_SECONDS = 2.0  # within these a notification of our own must have come
END_SECONDS = 2.0


def channel(s: Statements) -> str:
    """The name under which the job's rows are told of; channels belong to a database, so it names the schema, too."""
    return shortened(f"pooltable_{s.mapping.schema}_{s.job}")


def may_notify(s: Statements) -> bool:
    """Whether the database has NOTIFY."""
    return s.dialect.name == "postgresql"


class Triggers:
    """The two triggers of a job and their function, which stand in the schema of the user's table."""

    def __init__(self, s: Statements) -> None:
        """Raises SettingError where the database has nothing of the kind."""
        if not may_notify(s):
            otherwise = (
                "SQLite's runners are woken by each commit anyway"
                if not s.dialect.is_server
                else "runners ask the server whether a row waits"
            )
            raise SettingError(f"only PostgreSQL has NOTIFY; {otherwise}: leave out --notify and --no-notify")
        self._s = s
        self.inserted = shortened(f"pooltable_{s.job}_inserted")
        self.pending = shortened(f"pooltable_{s.job}_pending")
        quote, mapping = s.dialect.quote, s.mapping
        self._function = f"{quote(mapping.schema or '')}.{quote(shortened(f'pooltable_{s.job}_notify'))}"

    def there(self, c: Connection) -> set[str]:
        """Those of the two that are there and not switched off."""
        s = self._s
        rows = c.all(
            "SELECT tgname::text FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname IN (%s, %s)"
            " AND tgenabled IN ('O', 'A')",
            (s.dialect.plain(s.mapping.sql), self.inserted, self.pending),
        )
        return {str(name) for (name,) in rows}

    def are_there(self, c: Connection) -> bool:
        return self.there(c) == {self.inserted, self.pending}

    def making(self) -> list[str]:
        """The statements that make them anew."""
        s, quote = self._s, self._s.dialect.quote
        body = f"BEGIN PERFORM pg_catalog.pg_notify({s.dialect.literal(channel(s))}, ''); RETURN NULL; END"
        status, word = s.mapping.status.bare, s.dialect.literal(s.mapping.words.pending)
        table = s.mapping.sql
        function = f"EXECUTE FUNCTION {self._function}()"
        becomes = f"NEW.{status} IS NOT DISTINCT FROM {word} AND OLD.{status} IS DISTINCT FROM {word}"
        head = f"CREATE OR REPLACE FUNCTION {self._function}() RETURNS trigger LANGUAGE plpgsql"
        once = f"AFTER INSERT ON {table} FOR EACH STATEMENT {function}"
        each = f"AFTER UPDATE OF {status} ON {table} FOR EACH ROW WHEN ({becomes}) {function}"
        return [
            f"{head} AS {s.dialect.literal(body)}",
            *self._dropping(),
            f"CREATE TRIGGER {quote(self.inserted)} {once}",
            f"CREATE TRIGGER {quote(self.pending)} {each}",
        ]

    def removing(self) -> list[str]:
        return [*self._dropping(), f"DROP FUNCTION IF EXISTS {self._function}()"]

    def _dropping(self) -> list[str]:
        quote, table = self._s.dialect.quote, self._s.mapping.sql
        return [f"DROP TRIGGER IF EXISTS {quote(name)} ON {table}" for name in (self.inserted, self.pending)]

    def make(self, c: Connection) -> None:
        self._run(c, self.making())

    def remove(self, c: Connection) -> bool:
        """False where none was there. Runners that listen are told, and ask for rows again."""
        if not self.there(c):
            return False
        self._run(c, self.removing())
        c.all("SELECT pg_notify(%s, %s)", (channel(self._s), REMOVED))
        return True

    def _run(self, c: Connection, statements: list[str]) -> None:
        d = self._s.dialect
        try:
            for statement in statements:
                c.run(statement)
        except d.errors as error:
            if getattr(error, "sqlstate", None) != "42501":  # insufficient privilege
                raise
            sql = "; ".join(map(d.plain, statements))
            raise DatabaseError(f"{d.said(error)}; the table's owner may run this: {sql};") from error


class Notifications:
    """Hears, on a connection and a thread of its own, what the triggers tell; `heard` is called when there may be a row
    to claim, and when `listens` changes.

    `lacks` is called once where notifications do not come through: a pooler that hands out connections by transaction
    is in between.
    """

    def __init__(self, database: Database, channel: str, heard: Callable[[], None], lacks: Callable[[], None]) -> None:
        self.listens = False  # whether every row is told of now
        self._database = database
        self._channel = channel
        self._heard = heard
        self._lacks = lacks
        self._news = False
        self._end_read, self._end_write = os.pipe()
        self._thread = threading.Thread(target=self._work, name="pooltable-listen", daemon=True)
        self._thread.start()

    def taken(self) -> bool:
        """Whether something was told since this was last asked."""
        news, self._news = self._news, False
        return news

    def close(self) -> None:
        os.close(self._end_write)
        # It may be waiting for a server that does not answer; then it ends by itself.
        self._thread.join(END_SECONDS)

    def _tell(self) -> None:
        # One call for many notifications: whoever is called has not come to take the first.
        if not self._news:
            self._news = True
            self._heard()

    def _work(self) -> None:
        leave_to_main_thread()
        pause = FIRST_PAUSE
        try:
            while True:
                began = time.monotonic()
                # Whatever the driver or the network raises, rows are asked for meanwhile.
                with contextlib.suppress(Exception):
                    if self._listen():
                        return
                if self.listens:
                    self._turn(False)
                if time.monotonic() - began > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                if self._ends_within(pause):
                    return
                pause = min(LONGEST_PAUSE, 2 * pause)
        finally:
            os.close(self._end_read)

    def _turn(self, listens: bool) -> None:
        self.listens = listens
        self._tell()

    def _ends_within(self, seconds: float) -> bool:
        return self._readable(None, seconds) is None

    def _readable(self, descriptor: int | None, seconds: float | None) -> bool | None:
        """Whether there is something to read; None at the end."""
        poll = select.poll()
        poll.register(self._end_read)
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        ready = [number for number, _ in poll.poll(None if seconds is None else 1000 * seconds)]
        return None if self._end_read in ready else bool(ready)

    def _listen(self) -> bool:
        """Listens until the connection is lost; True when there is no more to hear."""
        dialect = self._database.dialect
        quoted = dialect.plain(dialect.quote(self._channel))
        raw = self._connected()
        line = Line(raw.fileno())  # by which the kernel finds out that a server has gone without a word
        try:
            raw.execute(f"LISTEN {quoted}".encode())
            if not self._comes_through(raw):
                # Else the pooler's connection listens on, for nobody.
                raw.execute(f"UNLISTEN {quoted}".encode())
                self._lacks()
                return True
            self._turn(True)
            while True:
                for told in self._told(raw):
                    if told == REMOVED:
                        self._turn(False)
                        return True
                    if not told:
                        self._tell()
                if self._readable(raw.fileno(), None) is None:
                    return True
        finally:
            raw.close()
            line.close()

    def _comes_through(self, raw: Any) -> bool:
        """Whether what another connection tells comes through, while this one only waits."""
        token = secrets.token_hex(8)
        other = self._connected()
        try:
            other.execute(b"SELECT pg_notify(%s, %s)", (self._channel, token))
        finally:
            other.close()
        until = time.monotonic() + PASSES_SECONDS
        while (left := until - time.monotonic()) > 0:
            if token in self._told(raw):
                return True
            if self._readable(raw.fileno(), left) is None:
                return True
        return False

    def _told(self, raw: Any) -> list[str]:
        """What has come since. Raises where the connection is lost."""
        raw.pgconn.consume_input()
        told = []
        while (notification := raw.pgconn.notifies()) is not None:
            told.append(notification.extra.decode())
        return told

    def _connected(self) -> Any:
        """A connection of the driver's, in autocommit mode and out of its engine's hands."""
        pooled = self._database.engine.raw_connection()
        raw: Any = pooled.driver_connection
        pooled.detach()
        try:
            self._database.dialect.opened(raw)
        except BaseException:
            raw.close()
            raise
        return raw
