"""What the I/O thread does when a deadline passes: slow batches, time limits, idle workers, memory.

Nothing here polls while nothing runs: a deadline is set where there is something to be looked at, and only the hard
limit of memory is looked at regularly. The floor's lock is held in all of this.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from pooltable.errors import TimeLimitExceeded
from pooltable.pool.ledger import LEAVING, Seat
from pooltable.pool.memory import over_limit, size_text
from pooltable.pool.process import WorkerProcess

if TYPE_CHECKING:
    from pooltable.pool.floor import Floor

# A batch is looked at after so many seconds of silence, and again after _SETTLED: what did not change meanwhile is
# true.
_SILENT = 0.006
_SETTLED = 0.004
_MEMORY_EVERY = 0.5


class Watch:
    """Keeps an eye on the workers of one floor."""

    def __init__(self, floor: Floor, idle_timeout: float | None, hard_memory: int | None) -> None:
        self._floor = floor
        self._idle_timeout = idle_timeout
        self._slow: set[WorkerProcess] = set()  # in the middle of a long call, with others behind it
        self._idle_alarm = False
        if hard_memory is not None:
            floor.alarms.set(monotonic() + _MEMORY_EVERY, self._weigh, hard_memory)

    # ---- batches with a slow call in them

    def batch(self, worker: WorkerProcess, now: float) -> None:
        """This worker has several calls: see to it that a slow one among them does not hold up the others."""
        if not worker.watched:
            worker.watched = True
            self._floor.alarms.set(now + _SILENT, self._look_at_batch, worker)

    def _look_at_batch(self, now: float, worker: WorkerProcess) -> None:
        seat = worker.seat
        mark = worker.slab.mark() if seat.batches and seat.state != LEAVING else None
        if mark is not None and mark != worker.mark:
            worker.mark = mark
            self._floor.alarms.set(now + _SETTLED, self._look_at_batch, worker)
            return
        worker.watched = False
        worker.mark = None
        if mark is None:
            return
        self._floor.hearing.take_from_slab(worker, mark)
        if self._floor.ledger.ready > 1:
            self._floor.recall(worker)
            self._floor.dispatch()
        else:
            self._slow.add(worker)

    def forget(self, worker: WorkerProcess) -> None:
        """It has come to the end of its batch, or of its life."""
        self._slow.discard(worker)

    # ---- idle workers

    def idle(self, seat: Seat) -> None:
        """There is nothing to do for this worker, unless it can help a slow one; after a while it may leave."""
        floor = self._floor
        for slow in self._slow:
            floor.recall(slow)
        self._slow.clear()
        if not floor.ledger.waiting and self._idle_timeout is not None and not self._idle_alarm:
            self._idle_alarm = True
            floor.alarms.set(seat.since + self._idle_timeout, self._send_home, self._idle_timeout)

    def _send_home(self, now: float, timeout: float) -> None:
        """Workers that have been idle for too long leave."""
        self._idle_alarm = False
        floor = self._floor
        for seat in floor.ledger.over_time(now, timeout):
            floor.staff.dismiss(floor.staff.workers[seat.index], "idle")
        if floor.ledger.idle:
            self._idle_alarm = True
            oldest = min(seat.since for seat in floor.ledger.idle.values())
            floor.alarms.set(max(oldest + timeout, now + timeout / 4), self._send_home, timeout)

    # ---- limits

    def limit(self, worker: WorkerProcess, number: int, seconds: float, now: float) -> None:
        """This worker runs a call that may take so many seconds, and nothing else."""
        # One alarm for all its calls: with one for each, short ones would be remembered for as long as their limit.
        worker.limited = number, seconds, now + seconds
        self._ring_at(worker, now + seconds)

    def _ring_at(self, worker: WorkerProcess, when: float) -> None:
        if when < worker.limit_rings:
            worker.limit_rings = when
            self._floor.alarms.set(when, self._look_at_limit, worker)

    def _look_at_limit(self, now: float, worker: WorkerProcess) -> None:
        worker.limit_rings = inf
        number, seconds, over = worker.limited
        if number not in self._floor.ledger.calls or not worker.seat.has(number):
            return
        if now >= over:
            self._floor.staff.doom(worker, number, TimeLimitExceeded(seconds))
        else:
            self._ring_at(worker, over)

    def _weigh(self, now: float, limit: int) -> None:
        """End workers that are over the hard limit of memory in the middle of a call."""
        for worker in self._floor.staff.workers.values():
            used = over_limit(worker.pid, limit) if worker.seat.batches and worker.cause is None else None
            if used is not None:
                size, most = size_text(used, limit), size_text(limit, limit)
                worker.cause = f"it used {size} of memory, over its limit of {most}"
                worker.kill_group()
        # To look at a large worker takes milliseconds, and the floor's lock is held: one part in twenty of the time.
        ended = monotonic()
        self._floor.alarms.set(ended + max(_MEMORY_EVERY, 20 * (ended - now)), self._weigh, limit)
