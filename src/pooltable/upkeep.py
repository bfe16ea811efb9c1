"""The upkeep of a run's lease: it is beaten in time, and the rows of runners that let theirs run out are taken back."""

from __future__ import annotations

import time
from collections.abc import Callable

from pooltable.events import EndsForgotten, LeaseLapsed, RowsRescued
from pooltable.hands import Hands
from pooltable.patience import Patience
from pooltable.reporter import Reporter
from pooltable.table.lease import Lease
from pooltable.table.neighbours import Neighbours
from pooltable.table.rescue import Rescue
from pooltable.table.states import Retry
from pooltable.uptime import uptime

RESCUE_SECONDS = 0.2  # between two rescues, however many runners die


class Upkeep:
    """Knows when a lease of `seconds` is due for a beat, and when somebody else's may have run out."""

    def __init__(
        self,
        lease: Lease,
        patience: Patience,
        seconds: float,
        retry: Retry,
        reporter: Reporter,
        wake: Callable[[], None],
        send_until: Callable[[float], None],
    ) -> None:
        self._lease = lease
        self._patience = patience
        self._seconds = seconds
        self._retry = retry
        self._reporter = reporter
        self._beat_at = time.monotonic() + seconds / 3
        self._send_until = send_until
        self._hold_until(uptime() + seconds)
        self._rescued_at = self._rescue_at = 0.0
        self._neighbours = Neighbours(wake)

    @property
    def next(self) -> float:
        """When something is due next, by the monotonic clock."""
        return min(self._beat_at, self._rescue_at) if self.holds else 0.0

    @property
    def holds(self) -> bool:
        """Whether what was claimed is still ours for certain; if not, nothing of it may begin before the next beat."""
        return uptime() < self._held_until

    def _hold_until(self, moment: float) -> None:
        self._held_until = moment
        self._send_until(moment)

    def close(self) -> None:
        self._neighbours.close()

    def beat_if_due(self, hands: Hands) -> bool:
        """Renew the lease. After a lapse the rows that others took meanwhile are let go; rows whose end the database
        forgot are given back: True when they wait now."""
        # A database that was away is asked for this first: whether the lease outlived that matters most.
        if time.monotonic() < self._beat_at and self._patience.retry_at is None and self.holds:
            return False
        began = uptime()
        beat = self._patience.ask(self._lease.beat)
        if beat is None:
            return False
        self._beat_at = time.monotonic() + self._seconds / 3
        if beat.replaced:
            self._reporter.notice("file replaced")
        if beat.lapsed is not None:
            lost = hands.keep(beat.open)
            self._reporter.tally.saw_astray(lost)
            self._reporter.tell(LeaseLapsed(beat.lapsed, len(beat.open), lost))
        # Only now, when what was lost is known: until then nothing is begun that a stopped process held too long.
        self._hold_until(began + self._seconds)
        forgotten = self._patience.ask(self._lease.reopened, hands.claims, beat.open, self._retry)
        if forgotten is not None and (forgotten.pending or forgotten.failed):
            self._reporter.tell(EndsForgotten(forgotten.pending, forgotten.failed))
        return forgotten is not None and forgotten.pending > 0

    def rescue_soon(self, pause: float) -> None:
        """Somebody may have died: look so many seconds after the last time."""
        self._rescue_at = min(self._rescue_at, self._rescued_at + max(pause, RESCUE_SECONDS))

    def rescue_if_due(self) -> Rescue | None:
        """Take back the rows of dead runners; None when that was not due, or the database is away."""
        now = time.monotonic()
        if self._neighbours.ended:
            self._neighbours.ended = False
            self.rescue_soon(0.0)
        if now < self._rescue_at:
            return None
        rescue = self._patience.ask(self._lease.rescue, self._retry)
        if rescue is None:
            return None
        self._neighbours.show(self._lease.neighbours)
        expiry = self._seconds if rescue.next_expiry is None else rescue.next_expiry
        self._rescued_at, self._rescue_at = now, now + min(max(expiry, RESCUE_SECONDS), self._seconds)
        if rescue.pending or rescue.failed:
            self._reporter.tally.rescued += rescue.pending + rescue.failed
            self._reporter.tell(RowsRescued(rescue.pending, rescue.failed, rescue.runners))
        return rescue
