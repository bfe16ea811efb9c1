"""Takes back the rows of dead runners.

Dead is a runner whose row is gone or stopped, whose lease ran out by the database's clock, or whose process is gone
from this very host. Age and names are no evidence. Two cautions keep the living safe after an outage, a suspended
machine or a clock that was set: a runner that itself missed beats waits a full lease before it believes that others'
leases ran out, and on the same host a living process must have missed its beats under our eyes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from pooltable.table import identity
from pooltable.table.database import Connection, Session
from pooltable.table.finishing import OpenClaims, write_ends
from pooltable.table.neighbours import Process
from pooltable.table.statements import Opening, Statements, Write
from pooltable.table.states import Claim, Fate, Retry, Status

AT_ONCE = 500  # rows in one transaction
LOCKED_SECONDS = 1.0  # before a runner is looked at again whose row another transaction holds


class Rescue(NamedTuple):
    """Rows that were taken back, of which dead runners, and in how many seconds the next lease may run out."""

    pending: int
    failed: int
    runners: tuple[str, ...]
    next_expiry: float | None


NOTHING_RESCUED = Rescue(0, 0, (), None)


class RunnerRow(NamedTuple):
    """A runner that has not stopped, as its row tells; `left` are seconds of its lease."""

    id: str
    host: str | None
    boot_id: str | None
    pid_namespace: str | None
    pid: int | None
    pid_started: str | None
    left: float
    expires_at: float


class Holder(NamedTuple):
    """A runner that holds rows. `left` are seconds of its lease, negative once it has run out, None where it has no row
    any more. `gone`: its process has ended, as far as that is seen from here."""

    runner: str
    rows: int
    left: float | None
    gone: bool


class Deaths(NamedTuple):
    """Who lives, who is gone for certain, who is dead by its lease alone, and when to look again."""

    living: frozenset[str]
    gone: frozenset[str]
    lapsed: frozenset[str]
    next_expiry: float | None

    @property
    def dead(self) -> frozenset[str]:
        return self.gone | self.lapsed


class Rescuer:
    """Judges the other runners of a job, on behalf of one that holds `own` lease of `seconds`."""

    def __init__(self, statements: Statements, own: str, seconds: float) -> None:
        self._s = statements
        self._own = own
        self._seconds = seconds
        self._quiet_until = 0.0
        self.neighbours: frozenset[Process] = frozenset()  # the processes of the living on this host
        self.locked: set[str] = set()  # the dead whose rows were left alone, because others held them
        self._seen: dict[str, tuple[float, float]] = {}  # runner -> its expires_at, and since when we see that value
        s = statements
        epoch, now = s.dialect.epoch, s.dialect.now
        self._sql_runners = (
            f"SELECT id, host, boot_id, pid_namespace, pid, pid_started, {epoch('expires_at')} - {epoch(now)},"
            f" {epoch('expires_at')}"
            f" FROM {s.names.runners} WHERE job = {s.mark} AND stopped_at IS NULL"
        )
        self._sql_stopped = (
            f"UPDATE {s.names.runners} SET stopped_at = {now} WHERE id = {s.mark} AND stopped_at IS NULL"
        )

    def beaten(self, opening: Opening, gap: float) -> None:
        """Our own lease was renewed, `gap` seconds after the last time."""
        if opening.left is None or opening.left < self._seconds / 2 or gap > self._seconds / 2:
            self._quiet_until = time.monotonic() + self._seconds

    def deaths(self, c: Connection, holders: dict[str, int]) -> Deaths:
        """Judges every runner of the job that has not stopped, and whoever holds rows."""
        moment = time.monotonic()
        here = identity.boot_id(), identity.pid_namespace()
        living, gone, lapsed, waits = {self._own}, set(), set(), []
        neighbours = set()
        for row in map(RunnerRow._make, c.all(self._sql_runners, (self._s.job,))):
            if row.id == self._own:
                continue
            expires_at, since = self._seen.get(row.id, (None, moment))
            if expires_at != row.expires_at:
                self._seen[row.id] = row.expires_at, moment
                since = moment
            same_host = (row.boot_id, row.pid_namespace) == here
            if same_host and not identity.lives(row.pid, row.pid_started):
                gone.add(row.id)
                continue
            if same_host and row.pid is not None and row.pid_started:
                neighbours.add((row.pid, row.pid_started))
            wait = max(row.left, since + self._seconds - moment if same_host else 0.0, self._quiet_until - moment)
            if wait > 0:
                living.add(row.id)
                waits.append(wait)
            else:
                lapsed.add(row.id)
        self.neighbours = frozenset(neighbours)
        unknown = holders.keys() - living - gone - lapsed
        if moment < self._quiet_until:
            living |= unknown
            waits += [self._quiet_until - moment] * bool(unknown)
        else:
            gone |= unknown
        return Deaths(frozenset(living), frozenset(gone), frozenset(lapsed), min(waits, default=None))

    def look(self, c: Connection) -> list[Holder]:
        """Who holds rows, and whether it lives."""
        held = self._s.holders(c)
        gone = self.deaths(c, held).gone
        rows = map(RunnerRow._make, c.all(self._sql_runners, (self._s.job,)))
        left = {row.id: float(row.left) for row in rows}
        return [Holder(runner, count, left.get(runner), runner in gone) for runner, count in held.items()]

    def rescue(self, session: Session, retry: Retry) -> Rescue:
        """Gives the dead runners' rows back: PENDING at once, or FAILED at the limit of rescues."""

        def verdict(claim: Claim, runner: str) -> Write:
            return rescued(claim, f"its runner {runner} was lost", retry)

        deaths = session.read(lambda c: self.deaths(c, self._s.holders(c)))
        fates, taken = self.take_back(session, deaths, verdict)
        next_expiry = deaths.next_expiry
        if deaths.dead & self.locked:
            next_expiry = min(LOCKED_SECONDS, LOCKED_SECONDS if next_expiry is None else next_expiry)
        return summed(fates, taken, next_expiry)

    def rescue_own(self, session: Session, numbers: Collection[int], retry: Retry) -> Rescue:
        """Gives back rows that are open under our own lease, by the numbers of their claims."""
        s = self._s
        reason = "the database lost how its last attempt ended"

        def work(c: Connection) -> list[Fate]:
            opening = s.opening(c, self._own)
            claims = OpenClaims(self._own)
            writes = []
            for record, ended, _ in s.open_records(c, self._own):
                claims.records[record.no] = record
                writes += [rescued(claim, reason, retry) for claim in record.claims(ended) if claim.claim_no in numbers]
            return write_ends(c, s, claims, writes, opening)

        return summed(session.transact(work), [self._own], None)

    def take_back(
        self, session: Session, deaths: Deaths, verdict: Callable[[Claim, str], Write]
    ) -> tuple[list[Fate], list[str]]:
        """Ends the open claims of the dead by `verdict`; the fates, and the runners that had any."""
        fates: list[Fate] = []
        taken = []
        self.locked = set()
        for runner in sorted(deaths.dead):
            found = self._take_back_of(session, runner, runner in deaths.lapsed, verdict)
            if found is None:
                continue
            fates += found
            self._seen.pop(runner, None)
            if found:
                taken.append(runner)
        return fates, taken

    def _take_back_of(
        self, session: Session, runner: str, by_lease: bool, verdict: Callable[[Claim, str], Write]
    ) -> list[Fate] | None:
        """None when the runner turned out to live, or another transaction holds its row."""
        s = self._s

        def work(c: Connection) -> tuple[list[Fate], bool] | None:
            # Under the lock on its row, where there are locks: a beat that came first is seen, one that comes now
            # waits. We do not: who holds it beats, is rescued by somebody else, or fell silent in the middle of a
            # transaction, and then the server keeps its locks for a while.
            opening = s.opening_unlocked(c, runner)
            if opening is None:
                self.locked.add(runner)
                return None
            if by_lease and opening.left is not None and opening.left > 0:
                return None
            claims = OpenClaims(runner)
            writes: list[Write] = []
            for record, ended, _ in s.open_records(c, runner, skip_locked=True):
                if len(writes) >= AT_ONCE:
                    break
                claims.records[record.no] = record
                writes += [verdict(claim, runner) for claim in record.claims(ended)]
            fates = write_ends(c, s, claims, writes, opening)
            over = [fate for fate in fates if fate.why != "locked"]
            left = bool(s.mine(c, runner, 0))
            if not left:
                c.run(self._sql_stopped, (runner,))
            return over, left and bool(over)

        fates: list[Fate] = []
        while True:
            done = session.transact(work)
            if done is None:
                return None
            fates += done[0]
            if not done[1]:
                return fates


def summed(fates: Sequence[Fate], runners: Sequence[str], next_expiry: float | None) -> Rescue:
    pending = sum(fate.end == "released" for fate in fates)
    failed = sum(fate.end == "failed" for fate in fates)
    return Rescue(pending, failed, tuple(runners), next_expiry)


def rescued(claim: Claim, reason: str, retry: Retry) -> Write:
    """The end of a claim that was lost: PENDING again, or FAILED where that happened too often."""
    count = claim.rescued + 1
    if count >= retry.rescued:
        return taken_back(claim, Status.FAILED, count, f"lost {count} times, which is the limit: {reason}")
    return taken_back(claim, Status.PENDING, count, reason)


def taken_back(claim: Claim, status: Status, rescued: int, reason: str) -> Write:
    """The end that a claim gets from somebody else than its runner."""
    failed = status is Status.FAILED
    return Write(
        claim=claim._replace(rescued=rescued),
        end="failed" if failed else "lost",
        status=status,
        columns=(),
        values=(),
        fails=claim.fails,
        lost=claim.lost,
        pause=None,
        seconds=None,
        worker=None,
        kind="RunnerLost",
        reason=reason,
        detail=reason,
        log="",
        remembered=True,
    )
