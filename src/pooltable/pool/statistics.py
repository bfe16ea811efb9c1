"""What a pool has done so far and what it is at, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from pooltable.pool.ledger import READY
from pooltable.pool.memory import own_memory

if TYPE_CHECKING:
    from pooltable.pool.floor import Floor


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What one worker has done so far and what it is at.

    `calls` it has ended, in `busy_seconds`, the call that it runs now included; `memory`: the bytes of memory it
    has for itself, None where that is unknown; `sent` and `received`: bytes to it and from it.
    """

    index: int
    pid: int
    state: Literal["starting", "idle", "busy", "leaving"]
    calls: int
    busy_seconds: float
    memory: int | None
    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool has done so far, and what it is at; `Pool.stats()` and `PoolExecutor.stats()` give it.

    Calls: of those `submitted`, so many have `ended`, so many are `running`, and so many are `waiting`. Of those that
    have ended, so many `failed`: they ended with an error; and of these, so many were `lost` with their worker. A chunk
    of `map` is one call, which fails only as a whole. `recalled`: calls sent ahead to a worker and taken back for
    another one. `callbacks_failed`: callbacks that raised.

    Times: `busy_seconds` is the run time of all calls in all workers so far, `mean_seconds` that of one call.

    Workers: those there are now in `workers`, by their index; `started` so far; `died`: so many of them on their own.
    """

    submitted: int
    ended: int
    failed: int
    lost: int
    waiting: int
    running: int
    recalled: int
    callbacks_failed: int
    busy_seconds: float
    mean_seconds: float
    started: int
    died: int
    workers: tuple[WorkerStats, ...]


def stats_of(floor: Floor, callbacks_failed: int) -> PoolStats:
    """The numbers of one floor, all of the same moment but for the sizes of its workers."""
    with floor.lock:
        ledger, staff = floor.ledger, floor.staff
        now = monotonic()
        workers = []
        busy = staff.busy_before
        done = staff.done_before
        running = 0
        for worker in staff.workers.values():
            seat = worker.seat
            call = worker.slab.started()
            at_it = call in ledger.calls and seat.has(call)
            running += at_it
            begun = now - seat.since if at_it else 0.0
            state: Any = ("busy" if seat.batches else "idle") if seat.state == READY else seat.state
            seconds = worker.busy_seconds + begun
            busy += seconds
            done += worker.done
            workers.append(
                (worker.index, worker.pid, state, worker.done, seconds, worker.sent, worker.channel.received)
            )
        unended = len(ledger.calls)
        numbers = {
            "submitted": ledger.number,
            "ended": ledger.number - unended,
            "failed": staff.failed,
            "lost": staff.calls_lost,
            "waiting": unended - running,
            "running": running,
            "recalled": ledger.recalls,
            "started": staff.started,
            "died": staff.lost,
        }
        run = done + running
    return PoolStats(
        **numbers,
        callbacks_failed=callbacks_failed,
        busy_seconds=busy,
        mean_seconds=busy / run if run else 0.0,
        workers=tuple(
            WorkerStats(index, pid, state, calls, seconds, own_memory(pid), sent, received)
            for index, pid, state, calls, seconds, sent, received in sorted(workers)
        ),
    )
