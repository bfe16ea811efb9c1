"""A runner's side of the table: claims, finishes and rescues rows under a lease. One row in pooltable_runner, one
thread.

    exchange ----> finish: rows and entries written together, each naming its claim      -> Fate for every end
              \\--> claim: rows locked, entries opened, the DOING word set                -> Claims
    beat           renews the lease by the database's clock
    rescue         takes back the rows of runners that are dead

A claim or finish whose COMMIT was cut off is read back by its claim numbers, so that calling again is safe and exact.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from pooltable import __version__
from pooltable.errors import CannotStore, DatabaseError, DatabaseReadOnly, DatabaseUnavailable, describe
from pooltable.rows import Row
from pooltable.table import identity, jobs
from pooltable.table.cursor import Cursor
from pooltable.table.database import Connection, Database, Undone
from pooltable.table.dialects import Trouble
from pooltable.table.finishing import as_failed, stuck, write_ends
from pooltable.table.neighbours import Process
from pooltable.table.reading import Reader
from pooltable.table.rescue import NOTHING_RESCUED, Rescue, Rescuer
from pooltable.table.statements import Opening, Statements, Write
from pooltable.table.states import (
    ENDS,
    STATUS_AFTER,
    Again,
    Claim,
    Done,
    Fate,
    Finish,
    GiveUp,
    PutOff,
    Released,
    Retry,
    Status,
    word_in_quotes,
)
from pooltable.table.values import Converter, cleaned

LONGEST_KIND = 200


class Exchange(NamedTuple):
    """What one exchange with the table did: the fates of the ends given, in their order, and the rows claimed. Where
    these are fewer than there was room for, in how many seconds the first row under back-off is due."""

    fates: list[Fate]
    claims: list[Claim]
    paused: bool
    due_in: float | None


class Beat(NamedTuple):
    """After a lapse, how long ago the lease had run out; the numbers of the open claims that are ours by the database;
    and whether its file is another one than before."""

    lapsed: float | None
    open: frozenset[int]
    replaced: bool


class Left(NamedTuple):
    """What is left to do: `pending` rows (counted up to a bound), seconds until the earliest back-off is over, and the
    open entries of this lease, of dead runners, and of others that live."""

    pending: int
    due_in: float | None
    mine: int
    dead: int
    elsewhere: int


class Lease:
    """One runner's hold on a job. Made by `TaskTable.open_lease`."""

    def __init__(
        self,
        database: Database,
        statements: Statements,
        converter: Converter,
        *,
        seconds: float,
        poll: float,
        name: str | None,
        processes: int,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.seconds = seconds
        self._statements = statements
        self._converter = converter
        self._session = database.session()
        process = (identity.pid_namespace(), identity.own_pid(), identity.started())
        self._facts = (name, identity.host(), identity.boot_id(), *process, __version__, processes)
        self._number = 0  # the last claim number that was used
        self._unsure: int | None = None  # the first number of a claim that may or may not have got through
        self._fates: dict[int, Fate] = {}  # what that transaction made of its ends
        self._lapsed: float | None = None
        self._beaten_at = time.monotonic()
        self._cursor = Cursor(poll)
        self._reader = Reader(statements)
        self._rescuer = Rescuer(statements, self.id, seconds)
        self._version: int | None = None
        try:
            self._session.transact(self._open)
        except BaseException:
            self._session.close()
            raise

    # ---- the lease itself

    def _open(self, c: Connection) -> None:
        self._insert(c)
        jobs.hold(c, self._statements)

    def _insert(self, c: Connection) -> None:
        s, d = self._statements, self._statements.dialect
        # Once, also where this is done again because the answer to the commit was lost.
        d.insert_once(
            c,
            s.names.runners,
            "id, job, name, host, boot_id, pid_namespace, pid, pid_started, version, processes, started_at, expires_at",
            f"{', '.join([s.mark] * 10)}, {d.now}, {d.later(s.mark)}",
            (self.id, s.job, *self._facts, self.seconds),
        )

    def bound(self, seconds: Callable[[], float]) -> None:
        """From now on no verb waits longer for the database than `seconds()`, which may change meanwhile and is asked
        on another thread; it raises DatabaseUnavailable then."""
        self._session.guard(seconds)

    def beat(self) -> Beat:
        """Renews the lease, and tells which claims are open under it."""

        def work(c: Connection) -> frozenset[int]:
            self._renew(c, self._statements.opening(c, self.id))
            return frozenset(self._statements.mine(c, self.id))

        found = self._session.transact(work)
        lapsed, self._lapsed = self._lapsed, None
        replaced, self._session.replaced = self._session.replaced, False
        return Beat(lapsed, found, replaced)

    def _opening(self, c: Connection) -> Opening:
        """What every transaction of a lease begins with; it renews the lease on the way where a third of it is over."""
        opening = self._statements.opening(c, self.id)
        if opening.left is None or opening.left < self.seconds * 2 / 3:
            self._renew(c, opening)
        return opening

    def _renew(self, c: Connection, opening: Opening) -> None:
        if opening.left is None or opening.left <= 0:
            # Remembered until the next beat tells it, whichever transaction noticed.
            self._lapsed = max(self._lapsed or 0.0, -(opening.left or 0.0))
        if not self._statements.beat(c, self.id, self.seconds):
            self._insert(c)
        now = time.monotonic()
        self._rescuer.beaten(opening, now - self._beaten_at)
        self._beaten_at = now

    @property
    def files(self) -> tuple[str, ...]:
        """The files that every commit writes to one of; none where the database is a server."""
        return self._statements.dialect.files()

    def changed(self) -> bool | None:
        """Whether somebody else has committed since this was last asked; None where that cannot be told cheaply."""
        version = self._session.read(self._statements.dialect.version)
        if version is None:
            return None
        before, self._version = self._version, version
        return before is not None and before != version

    def waits(self) -> bool:
        """Whether a row waits to be claimed, asked by one short statement outside any transaction."""
        return self._session.read(lambda c: self._cursor.waits(c, self._statements))

    def abandon(self) -> None:
        """Lets go of the connection, and leaves the rest to the rescue; after `close` it does nothing."""
        self._session.close()

    def close(self) -> None:
        """Releases what is still open and ends the lease."""
        s = self._statements

        def work(c: Connection) -> None:
            opening = s.opening(c, self.id)
            still = [self._prepared(Finish(claim, Released())) for claim in s.claimed(c, self.id, 0)]
            write_ends(c, s, self.id, still, opening.now)
            c.run(f"UPDATE {s.names.runners} SET stopped_at = {s.dialect.now} WHERE id = {s.mark}", (self.id,))

        try:
            self._session.transact(work)
        finally:
            self._session.close()

    # ---- finishes and claims

    def exchange(self, ends: Sequence[Finish], room: int) -> Exchange:
        """Writes the ends, then claims up to `room` rows, all in one transaction: a commit is what costs most."""
        writes = [self._prepared(end) for end in ends]

        def work(c: Connection) -> Exchange:
            opening = self._opening(c)
            fates = self._written(c, writes, opening)
            if self._unsure is not None:
                # A commit whose answer was lost may have released a row and claimed it again.
                again = {claim.key for claim in self._statements.claimed(c, self.id, self._unsure)}
                fates = [
                    self._fates.get(f.claim.claim_no, f) if f.why == "fenced" and f.claim.key in again else f
                    for f in fates
                ]
            self._fates = {fate.claim.claim_no: fate for fate in fates}
            return Exchange(fates, *self._claim_in(c, room, opening))

        try:
            done = self._session.transact(work)
        except Undone:
            fates = self._one_by_one(writes)
            return Exchange(fates, *self._claim(room))
        self._unsure = None
        return done

    def finish(self, ends: Sequence[Finish]) -> list[Fate]:
        """Writes the ends, grouped, and returns what became of each, in their order."""
        writes = [self._prepared(end) for end in ends]
        try:
            return self._finish(writes)
        except Undone:
            return self._one_by_one(writes)

    def _finish(self, writes: Sequence[Write]) -> list[Fate]:
        return self._session.transact(lambda c: self._written(c, writes, self._opening(c)))

    def _written(self, c: Connection, writes: Sequence[Write], opening: Opening) -> list[Fate]:
        if any(write.status is Status.PENDING and not write.pause for write in writes):
            self._cursor.rewind()
        return write_ends(c, self._statements, self.id, writes, opening.now)

    def _one_by_one(self, writes: Sequence[Write]) -> list[Fate]:
        """A transaction for each end, because one of them undoes the whole transaction that it is in."""
        fates = []
        for write in writes:
            for tried in (write, as_failed(write, "the database refuses it and undoes the whole transaction")):
                try:
                    fates += self._finish([tried])
                    break
                except Undone as error:
                    refusal = str(error)
            else:
                fates.append(self._end_as_stuck(write, refusal))
        return fates

    def _end_as_stuck(self, write: Write, refusal: str) -> Fate:
        return self._session.transact(lambda c: stuck(c, self._statements, self.id, write, refusal))

    def claim(self, room: int) -> list[Claim]:
        """Claims up to `room` rows, fewer where fewer are due; none while the job is paused."""
        return self._claim(room)[0]

    def _claim(self, room: int) -> tuple[list[Claim], bool, float | None]:
        found = self._session.transact(lambda c: self._claim_in(c, room, self._opening(c)))
        self._unsure = None
        return found

    def _claim_in(self, c: Connection, room: int, opening: Opening) -> tuple[list[Claim], bool, float | None]:
        """The claims, whether the job is paused, and if there are fewer than `room`, when the next row is due."""
        claims = self._claims_in(c, room, opening)
        # With the time of the same transaction: a row was due, and looked at, or it is seen here.
        due_in = self._statements.next_due(c, opening.now) if len(claims) < room else None
        return claims, opening.paused, due_in

    def _claims_in(self, c: Connection, room: int, opening: Opening) -> list[Claim]:
        s = self._statements
        claims: list[Claim] = []
        if self._unsure is not None:
            claims = s.claimed(c, self.id, self._unsure)
            room -= len(claims)
        if opening.paused or room <= 0:
            return claims
        picked = s.due(c, room, opening.now) if opening.due else []
        if len(picked) < room:
            picked += self._cursor.next(c, s, room - len(picked))
        if not picked:
            return claims
        first = self._number + 1
        self._number += len(picked)
        if self._unsure is None:
            self._unsure = first
        try:
            new, changed = s.take(c, self.id, picked, first, opening.now)
        except s.dialect.errors as error:
            if s.dialect.trouble(error, c.raw) is Trouble.REFUSED:
                raise DatabaseError(self._refusal(f"refuses it: {s.dialect.said(error)}")) from error
            raise
        if changed != len(picked):
            raise DatabaseError(
                self._refusal(f"changed {changed} of {len(picked)} rows: a trigger or rule is in the way")
            )
        return claims + new

    def _refusal(self, what: str) -> str:
        m = self._statements.mapping
        return (
            f"table {m.name!r}: to claim rows, {m.status.name!r} is set to {word_in_quotes(m.words.doing)}, and the"
            f" database {what}; nothing was claimed"
        )

    def _prepared(self, end: Finish) -> Write:
        claim, verdict, seconds, worker, log = end
        if type(verdict) is Done:
            try:
                columns = verdict.stored.columns
                values = self._converter.bound(columns, verdict.stored.values)
            except CannotStore as error:
                verdict = GiveUp(*describe(error))
            else:
                facts = (claim.fails, claim.lost, None, seconds, worker)
                return Write(claim, "done", Status.DONE, columns, values, *facts, "", "", "", "")
        ended = ENDS[type(verdict)]
        fails, lost, pause, kind, reason, detail = claim.fails, claim.lost, None, "", "", ""
        if isinstance(verdict, (GiveUp, Again)):
            fails += verdict.counts == "fails"
            lost += verdict.counts == "lost"
            kind, reason, detail = (
                cleaned(verdict.kind)[:LONGEST_KIND],
                cleaned(verdict.reason),
                cleaned(verdict.detail),
            )
            # The first line of an entry's error is its reason.
            detail = detail if detail.startswith(reason) else f"{reason}\n{detail}"
        elif isinstance(verdict, PutOff) and verdict.reason:
            kind, reason, detail = "Later", cleaned(verdict.reason), cleaned(verdict.reason)
        if isinstance(verdict, (Again, PutOff)):
            pause = verdict.pause
        log = cleaned(log) if kind and kind != "Later" else ""
        return Write(
            claim, ended, STATUS_AFTER[ended], (), (), fails, lost, pause, seconds, worker, kind, reason, detail, log
        )

    # ---- rescue and reading

    def rescue(self, retry: Retry) -> Rescue:
        """Takes back the rows of dead runners: PENDING again at once, or FAILED at their limit of rescues."""
        rescue = self._rescuer.rescue(self._session, retry)
        if rescue.pending:
            self._cursor.rewind()
        return rescue

    @property
    def neighbours(self) -> frozenset[Process]:
        """The processes of other runners on this host, as of the last look for dead ones."""
        return self._rescuer.neighbours

    def reopened(self, held: Collection[int], open_: Collection[int], retry: Retry) -> Rescue:
        """Takes back, of the claims that a beat found `open_`, those that the runner of this lease has not `held`, as a
        rescue does.

        The server forgot how they ended: it came back without its last commits, or another one took its place.
        """
        # What a claim did whose answer was lost is found by the next one.
        unsure = float("inf") if self._unsure is None else self._unsure
        lost = {number for number in open_ if number < unsure and number not in held}
        if not lost:
            return NOTHING_RESCUED
        rescue = self._rescuer.rescue_own(self._session, lost, retry)
        if rescue.pending:
            self._cursor.rewind()
        return rescue

    def read(self, claims: Sequence[Claim]) -> list[Row | Exception | None]:
        """The rows of the claims, in their order, outside any transaction.

        None stands for a row that is gone, an error for one with a value that the driver cannot give.
        """
        try:
            return list(self._rows(claims))
        except (DatabaseUnavailable, DatabaseReadOnly):
            raise
        except Exception:
            # If the statement is at fault, a column that was dropped, this raises; else it is a value of some row.
            self._session.read(self._reader.try_out)
        return [self._row_or_error(claim) for claim in claims]

    def _rows(self, claims: Sequence[Claim]) -> list[Row | None]:
        keys = [claim.key for claim in claims]
        return self._session.read(lambda c: self._reader.rows(c, keys))

    def _row_or_error(self, claim: Claim) -> Row | Exception | None:
        try:
            return self._rows([claim])[0]
        except (DatabaseUnavailable, DatabaseReadOnly):
            raise
        except Exception as error:
            return error

    def left(self) -> Left:
        """What is left to do, here and elsewhere."""

        def work(c: Connection) -> Left:
            holders = self._rescuer.holders(c)
            deaths = self._rescuer.deaths(c, holders)
            mine = holders.pop(self.id, 0)
            dead = sum(count for runner, count in holders.items() if runner in deaths.dead)
            elsewhere = sum(holders.values()) - dead
            return Left(self._reader.pending(c), self._reader.next_due(c), mine, dead, elsewhere)

        return self._session.read(work)
