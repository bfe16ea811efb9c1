"""A runner's side of the table: claims, finishes and rescues rows under a lease. One row in pooltable_runner, one
thread.

    exchange ----> finish: rows, entries and records written together (finishing.py)     -> Fate for every end
              \\--> claim: rows locked, the DOING word set, one record for all of them    -> Claims
    beat           renews the lease by the database's clock
    rescue         takes back the rows of runners that are dead

A claim or finish whose COMMIT was cut off is read back by its turn and count, so that calling again is safe and exact.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from pooltable import __version__
from pooltable.errors import CannotStore, DatabaseError, DatabaseReadOnly, DatabaseUnavailable, describe
from pooltable.events import Key
from pooltable.rows import Row
from pooltable.table import identity, jobs, schema
from pooltable.table.cursor import Cursor
from pooltable.table.database import Connection, Database, Result, Undone
from pooltable.table.dialects import Trouble
from pooltable.table.finishing import OpenClaims, as_failed, end_as_stuck, overtaken, write_ends
from pooltable.table.neighbours import Process
from pooltable.table.notify import Notifications, Triggers, channel, may_notify
from pooltable.table.reading import Reader
from pooltable.table.records import HELD, MOST_ROWS, PLACES, TAKEN, Record, held, place_of
from pooltable.table.rescue import NOTHING_RESCUED, Rescue, Rescuer
from pooltable.table.statements import Opening, Statements, Write, portions
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
    """What is left to do: `pending` rows (counted up to a bound), seconds until the earliest back-off is over, and how
    many rows the claims of this lease hold, those of dead runners, and those of others that live."""

    pending: int
    due_in: float | None
    mine: int
    dead: int
    elsewhere: int


class Unsure(NamedTuple):
    """Transactions of which nobody knows whether they got through: the first count of a claim that one of them may have
    made, and the turn of each with what became of the ends that it wrote."""

    first: int
    turns: list[tuple[int, list[Fate]]]


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
        self._no = 0  # the last count of a claim that was used
        self._turn = 0  # the last exchange
        self._claims = OpenClaims(self.id, turn=0)
        self._unsure: Unsure | None = None
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
        s = self._statements
        self._insert(c)
        jobs.hold(c, s)
        # Under the job's lock: of two starts at once the second would else set it back, behind what was drawn since.
        s.dialect.push_counter(c, s.r)

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
            self._renew(c, self._looked(c))
            mine = self._statements.mine(c, self.id, 0)
            self._forget_closed({no for no, _ in mine})
            records = self._claims.records
            listed = [(no, place) for no, ended in mine if no in records for place in held(ended)]
            keys = [records[no].keys[place] for no, place in listed]
            taken = overtaken(c, self._statements, self._claims, keys, [no * PLACES + place for no, place in listed])
            return frozenset(no * PLACES + place for no, ended in mine for place in held(ended)) - taken

        found = self._session.transact(work)
        lapsed, self._lapsed = self._lapsed, None
        replaced, self._session.replaced = self._session.replaced, False
        return Beat(lapsed, found, replaced)

    def _opening(self, c: Connection) -> Opening:
        """What every transaction of a lease begins with; it renews the lease on the way where a third of it is over."""
        opening = self._looked(c)
        if opening.left is None or opening.left < self.seconds * 2 / 3:
            self._renew(c, opening)
        return opening

    def _looked(self, c: Connection) -> Opening:
        opening = self._statements.opening(c, self.id)
        if opening.version not in (schema.VERSION, None):
            raise DatabaseError(
                f"the side tables of the job {self._statements.job!r} are of form {opening.version} by now, and this"
                f" runner works with form {schema.VERSION}: start it again with the version of pooltable that the other"
                " runners have; its rows are given back"
            )
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

    def notifications(self, heard: Callable[[], None], lacks: Callable[[], None]) -> Notifications | None:
        """What hears of new rows by NOTIFY; None where no triggers tell of them."""
        s = self._statements
        if not may_notify(s) or not self._session.read(Triggers(s).are_there):
            return None
        return Notifications(self._session.database, channel(s), heard, lacks)

    def abandon(self) -> None:
        """Lets go of the connection, and leaves the rest to the rescue; after `close` it does nothing."""
        self._session.close()

    def close(self) -> None:
        """Releases what is still open and ends the lease."""
        s = self._statements

        def work(c: Connection) -> None:
            opening = s.opening(c, self.id)
            still = []
            for record, ended, _ in s.open_records(c, self.id):
                self._claims.records[record.no] = record
                # Whether they were started is not known here, so that they are remembered.
                still += [self._prepared(Finish(claim, Released()), True) for claim in record.claims(ended)]
            self._begin_turn()
            write_ends(c, s, self._claims, still, opening)
            c.run(f"UPDATE {s.names.runners} SET stopped_at = {s.dialect.now} WHERE id = {s.mark}", (self.id,))

        try:
            self._session.transact(work)
        finally:
            self._session.close()

    # ---- finishes and claims

    def exchange(self, ends: Sequence[Finish], room: int) -> Exchange:
        """Writes the ends, then claims up to `room` rows, all in one transaction: a commit is what costs most.

        After DatabaseUnavailable call it again with these ends, and more if there are any: what was written before its
        answer was lost is told then.
        """
        writes = [self._prepared(end) for end in ends]

        def work(c: Connection) -> Exchange:
            opening = self._opening(c)
            recovered = self._read_back(c)
            fates = self._written(c, writes, opening)
            return Exchange(fates, *self._claim_in(c, room, opening, recovered))

        try:
            return self._transact(work)
        except Undone:
            fates = self._one_by_one(writes)
            return Exchange(fates, *self._claim(room))

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        """One exchange: after it, what it did is certain."""
        done = self._session.transact(work)
        self._unsure = None
        for no in self._claims.closed:
            self._forget(no)
        self._claims.closed.clear()
        return done

    def _begin_turn(self) -> None:
        self._turn += 1
        self._claims.turn = self._turn
        self._claims.closed.clear()

    def _forget(self, no: int) -> None:
        self._claims.records.pop(no, None)
        self._claims.times.pop(no, None)

    def _forget_closed(self, open_: Collection[int]) -> None:
        """Forgets the records that somebody else has closed."""
        if self._unsure is None:
            for no in [no for no in self._claims.records if no not in open_]:
                self._forget(no)

    def _read_back(self, c: Connection) -> list[Claim]:
        """What was claimed by transactions whose answer was lost. The lock on the runner's row is held, so they are
        over."""
        self._begin_turn()
        if self._unsure is None:
            self._unsure = Unsure(self._no + 1, [])
            return []
        found = []
        for record, ended, _ in self._statements.open_records(c, self.id, self._unsure.first):
            self._claims.records[record.no] = record
            found += record.claims(ended)
        return found

    def finish(self, ends: Sequence[Finish]) -> list[Fate]:
        """Writes the ends, grouped, and returns what became of each, in their order."""
        writes = [self._prepared(end) for end in ends]
        try:
            return self._finish(writes)
        except Undone:
            return self._one_by_one(writes)

    def _finish(self, writes: Sequence[Write]) -> list[Fate]:
        def work(c: Connection) -> list[Fate]:
            opening = self._opening(c)
            self._begin_turn()
            return self._written(c, writes, opening)

        unsure = self._unsure
        done = self._session.transact(work)
        self._unsure = unsure
        return done

    def _written(self, c: Connection, writes: Sequence[Write], opening: Opening) -> list[Fate]:
        if any(write.status is Status.PENDING and not write.pause for write in writes):
            self._cursor.rewind()
        known = self._written_before(c, writes)
        fresh = [write for write in writes if write.claim.claim_no not in known] if known else writes
        fates = write_ends(c, self._statements, self._claims, fresh, opening)
        if self._unsure is None:
            self._unsure = Unsure(self._no + 1, [])
        self._unsure.turns.append((self._turn, fates))
        if not known:
            return fates
        of = {fate.claim.claim_no: fate for fate in fates} | known
        return [of[write.claim.claim_no] for write in writes]

    def _written_before(self, c: Connection, writes: Sequence[Write]) -> dict[int, Fate]:
        """The fates of ends that a transaction wrote whose answer was lost, if it got through: its turn and the
        letters tell."""
        if self._unsure is None or not self._unsure.turns:
            return {}
        given = {write.claim.claim_no for write in writes}
        asked = {
            fate.claim.claim_no: (turn, fate)
            for turn, fates in self._unsure.turns
            for fate in fates
            if fate.claim.claim_no in given
        }
        records = {place_of(claim_no)[0] for claim_no in asked} & self._claims.records.keys()
        if not records:
            return {}
        numbers = sorted(self._claims.records[no].number for no in records)
        opened = {one.no: one for one in self._statements.lock_records(c, numbers).values() if one.runner == self.id}

        def is_written(claim_no: int, turn: int) -> bool:
            no, place = place_of(claim_no)
            # A later turn may have written other places alone, and somebody else may have taken this one back.
            return no in opened and opened[no].turn >= turn and opened[no].ended[place] not in (HELD, TAKEN)

        return {claim_no: fate for claim_no, (turn, fate) in asked.items() if is_written(claim_no, turn)}

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
        def work(c: Connection) -> Fate:
            opening = self._opening(c)
            self._begin_turn()
            return end_as_stuck(c, self._statements, self._claims, write, refusal, opening)

        return self._session.transact(work)

    def claim(self, room: int) -> list[Claim]:
        """Claims up to `room` rows, fewer where fewer are due; none while the job is paused."""
        return self._claim(room)[0]

    def _claim(self, room: int) -> tuple[list[Claim], bool, float | None]:
        def work(c: Connection) -> tuple[list[Claim], bool, float | None]:
            opening = self._opening(c)
            return self._claim_in(c, room, opening, self._read_back(c))

        return self._transact(work)

    def _claim_in(
        self, c: Connection, room: int, opening: Opening, recovered: list[Claim]
    ) -> tuple[list[Claim], bool, float | None]:
        """The claims, whether the job is paused, and if there are fewer than `room`, when the next row is due."""
        claims = recovered + self._claims_in(c, room - len(recovered), opening)
        # With the time of the same transaction: a row was due, and looked at, or it is seen here.
        due_in = self._statements.next_due(c, opening.now) if len(claims) < room else None
        return claims, opening.paused, due_in

    def _claims_in(self, c: Connection, room: int, opening: Opening) -> list[Claim]:
        s = self._statements
        if opening.paused or room <= 0:
            return []
        keys = s.due(c, room, opening.now) if opening.due else []
        if len(keys) < room:
            again = set(keys)
            keys += [key for key in self._cursor.next(c, s, room - len(keys)) if key not in again]
        if not keys:
            return []
        try:
            changed = s.set_doing(c, keys)
        except s.dialect.errors as error:
            if s.dialect.trouble(error, c.raw) is Trouble.REFUSED:
                raise DatabaseError(self._refusal(f"refuses it: {s.dialect.said(error)}")) from error
            raise
        if changed != len(keys):
            raise DatabaseError(
                self._refusal(f"changed {changed} of {len(keys)} rows: a trigger or rule is in the way")
            )
        return [claim for some in portions(keys, MOST_ROWS) for claim in self._recorded(c, some)]

    def _recorded(self, c: Connection, keys: Sequence[Key]) -> list[Claim]:
        """The claims of these rows, which are locked and DOING: their record is written, and the entries that they have
        are opened."""
        s = self._statements
        self._no = no = self._no + 1
        entries, spelt = s.known(c, keys)
        known = {}
        if entries:
            for place, key in enumerate(keys):
                if key in entries:
                    found = entries[key]
                    known[place] = found if found.round else found._replace(round=f"{self.id}-{no}-{place}")
        number = s.insert_record(c, self.id, no, self._turn, keys, known)
        record = Record(number, self.id, no, keys, known)
        self._claims.records[no] = record
        self._claims.rivals.learn(record.name, keys)  # else the next end of an older claim would have it read
        if known:
            s.open_entries(c, self.id, [record.claim(place) for place in known], spelt)
        return record.claims()

    def _refusal(self, what: str) -> str:
        m = self._statements.mapping
        return (
            f"table {m.name!r}: to claim rows, {m.status.name!r} is set to {word_in_quotes(m.words.doing)}, and the"
            f" database {what}; nothing was claimed"
        )

    def _prepared(self, end: Finish, remembered: bool = False) -> Write:
        claim, verdict, seconds, worker, log = end
        if type(verdict) is Done:
            columns, values, *_ = verdict.stored
            try:
                if columns:
                    values = self._converter.bound(columns, values)
            except CannotStore as error:
                verdict = GiveUp(*describe(error))
            else:
                return Write(
                    claim, "done", Status.DONE, columns, values, claim.fails, claim.lost, None, seconds, worker
                )
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
        # A row that was given back before a worker had it is as if it had never been claimed.
        remembered = remembered or ended != "released" or worker is not None
        facts_of_error = (kind, reason, detail, log, remembered)
        return Write(claim, ended, STATUS_AFTER[ended], (), (), fails, lost, pause, seconds, worker, *facts_of_error)

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

    def reopened(self, held_: Collection[int], open_: Collection[int], retry: Retry) -> Rescue:
        """Takes back, of the claims that a beat found `open_`, those that the runner of this lease has not `held`, as a
        rescue does.

        The server forgot how they ended: it came back without its last commits, or another one took its place.
        """
        # What a claim did whose answer was lost is found by the next one.
        unsure = self._no + 1 if self._unsure is None else self._unsure.first
        lost = {number for number in open_ if place_of(number)[0] < unsure and number not in held_}
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
            holders = self._statements.holders(c)
            deaths = self._rescuer.deaths(c, holders)
            mine = holders.pop(self.id, 0)
            dead = sum(count for runner, count in holders.items() if runner in deaths.dead)
            elsewhere = sum(holders.values()) - dead
            return Left(self._reader.pending(c), self._reader.next_due(c), mine, dead, elsewhere)

        return self._session.read(work)
