"""Takes back the rows of dead runners.

Dead is a runner whose row is gone or stopped, whose lease ran out by the database's clock, or whose process is gone
from this very host. Age and names are no evidence. Two cautions keep the living safe after an outage, a suspended
machine or a clock that was set: a runner that itself missed beats waits a full lease before it believes that others'
leases ran out, and on the same host a living process must have missed its beats under our eyes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from pooltable.table import identity
from pooltable.table.database import Connection, Session
from pooltable.table.finishing import write_ends
from pooltable.table.statements import Opening, Statements, Write
from pooltable.table.states import Claim, Fate, Retry, Status

AT_ONCE = 500  # rows in one transaction


class Rescue(NamedTuple):
    """Rows that were taken back, of which dead runners, and in how many seconds the next lease may run out."""

    pending: int
    failed: int
    runners: tuple[str, ...]
    next_expiry: float | None


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
        self._seen: dict[str, tuple[float, float]] = {}  # runner -> its expires_at, and since when we see that value
        s = statements
        epoch, now = s.dialect.epoch, s.dialect.now
        self._sql_runners = (
            f"SELECT id, host, boot_id, pid_namespace, pid, pid_started, {epoch('expires_at')} - {epoch(now)},"
            f" {epoch('expires_at')}"
            f" FROM {s.names.runners} WHERE job = {s.mark} AND stopped_at IS NULL"
        )
        self._sql_holders = f"SELECT runner_id, count(*) FROM {s.e} WHERE ended IS NULL GROUP BY runner_id"
        self._sql_stopped = (
            f"UPDATE {s.names.runners} SET stopped_at = {now} WHERE id = {s.mark} AND stopped_at IS NULL"
        )

    def beaten(self, opening: Opening, gap: float) -> None:
        """Our own lease was renewed, `gap` seconds after the last time."""
        if opening.left is None or opening.left < self._seconds / 2 or gap > self._seconds / 2:
            self._quiet_until = time.monotonic() + self._seconds

    def holders(self, c: Connection) -> dict[str, int]:
        """How many open entries each runner holds."""
        return {str(runner): int(count) for runner, count in c.all(self._sql_holders)}

    def deaths(self, c: Connection, holders: dict[str, int]) -> Deaths:
        """Judges every runner of the job that has not stopped, and whoever holds open entries."""
        moment = time.monotonic()
        here = identity.boot_id(), identity.pid_namespace()
        living, gone, lapsed, waits = {self._own}, set(), set(), []
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
            wait = max(row.left, since + self._seconds - moment if same_host else 0.0, self._quiet_until - moment)
            if wait > 0:
                living.add(row.id)
                waits.append(wait)
            else:
                lapsed.add(row.id)
        unknown = holders.keys() - living - gone - lapsed
        if moment < self._quiet_until:
            living |= unknown
            waits += [self._quiet_until - moment] * bool(unknown)
        else:
            gone |= unknown
        return Deaths(frozenset(living), frozenset(gone), frozenset(lapsed), min(waits, default=None))

    def rescue(self, session: Session, retry: Retry) -> Rescue:
        """Gives the dead runners' rows back: PENDING at once, or FAILED at the limit of rescues."""

        def verdict(claim: Claim, runner: str) -> Write:
            rescued = claim.rescued + 1
            if rescued >= retry.rescued:
                reason = f"its runner was lost {rescued} times, which is the limit; the last was {runner}"
                return taken_back(claim, Status.FAILED, rescued, reason)
            return taken_back(claim, Status.PENDING, rescued, f"its runner {runner} was lost")

        deaths = session.read(lambda c: self.deaths(c, self.holders(c)))
        fates, taken = self.take_back(session, deaths, verdict)
        failed = sum(fate.end == "failed" for fate in fates)
        pending = sum(fate.end == "released" for fate in fates)
        return Rescue(pending, failed, tuple(taken), deaths.next_expiry)

    def take_back(
        self, session: Session, deaths: Deaths, verdict: Callable[[Claim, str], Write]
    ) -> tuple[list[Fate], list[str]]:
        """Ends the open claims of the dead by `verdict`; the fates, and the runners that had any."""
        fates: list[Fate] = []
        taken = []
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
        """None when the runner turned out to live."""
        s = self._s

        def work(c: Connection) -> tuple[list[Fate], bool] | None:
            # Under the lock on its row, where there are locks: a beat that came first is seen, one that comes now
            # waits.
            opening = s.opening(c, runner)
            if by_lease and opening.left is not None and opening.left > 0:
                return None
            claims = s.claimed(c, runner, 0)[:AT_ONCE]
            fates = write_ends(c, s, runner, [verdict(claim, runner) for claim in claims], opening.now)
            over = [fate for fate in fates if fate.why != "locked"]
            if len(claims) < AT_ONCE and len(over) == len(claims):
                c.run(self._sql_stopped, (runner,))
            return over, len(claims) == AT_ONCE and bool(over)

        fates: list[Fate] = []
        while True:
            done = session.transact(work)
            if done is None:
                return None
            fates += done[0]
            if not done[1]:
                return fates


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
    )
