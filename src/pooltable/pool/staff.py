"""Workers come and go: started, greeted, dismissed, killed, buried, replaced.

    start thread    there while workers are to be started, because that takes milliseconds
    I/O thread      everything else

A worker that dies fails only the call it was running. When workers cannot be started, that is tried again, later and
later, and given up after a few times in a row: then every call that waits gets the error.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from pooltable.errors import UnguardedMain, WorkerLost, WorkerStartError
from pooltable.events import (
    Event,
    ThreadsLeft,
    TooManyThreads,
    WorkerEnded,
    WorkerReady,
    WorkersBroken,
    WorkersCapped,
    WorkerStarting,
)
from pooltable.pool import preload
from pooltable.pool.causes import OutOfMemoryCounter, detail_of, likely_cause, start_error, used_up_cpu_time
from pooltable.pool.engine import GIVEN
from pooltable.pool.ledger import LEAVING, STARTING, TRIES, Seat
from pooltable.pool.memory import available_memory, private_memory
from pooltable.pool.process import Birth, WorkerProcess
from pooltable.pool.wire import NoMessage
from pooltable.pool.worker import dump_signal

if TYPE_CHECKING:
    from pooltable.pool.floor import Floor

# A worker whose call is ended gets so many seconds to write down its stacks before it gets SIGTERM.
_DUMP = 0.05
# A worker that was told to leave may take so many seconds over it. It does not wait as long for threads: worker.py.
_LEAVE = 30.0
# One that died within so many seconds and never answered a call counts as one that could not be started.
_SHORT_LIFE = 10.0
# So many times in a row all of them died young, though some became ready: there is no hope for them either.
_GENERATIONS = 2 * TRIES
# Why a worker is ended to which the program's own thread was talking.
_INTERRUPTED = "it was ended because the program was interrupted while it talked to it"
# One that runs nothing that anybody waits for gets so many between SIGTERM and SIGKILL.
_SHORT_GRACE = 1.0


class Staff:
    """The workers of one floor."""

    def __init__(self, floor: Floor, birth: Birth, grace: float, listener: Callable[[Event], object] | None) -> None:
        self.workers: dict[int, WorkerProcess] = {}  # by index
        self.held: set[WorkerProcess] = set()  # those whose descriptors are open
        self.broken: WorkerStartError | UnguardedMain | None = None
        self.merciless = False  # whether to kill without SIGTERM first
        self.started = self.lost = 0  # so far
        self.failed = self.calls_lost = 0  # calls that ended with an error so far; that died with their worker
        self.done_before = 0  # calls that workers did which are gone
        self.busy_before = 0.0  # and the seconds that took
        self.killed_by_memory = OutOfMemoryCounter()
        self.grace = grace
        self._floor = floor
        self._birth = birth
        self._listener = listener
        self._orders: deque[Seat] = deque()
        self._starter: threading.Thread | None = None
        self._arrived: deque[WorkerProcess] = deque()
        self._failed: deque[tuple[Seat, BaseException]] = deque()
        self._hiring_at = 0.0
        self._failed_at = 0.0  # when it was last seen that a worker could not be started
        self._weighed = self._crowded = self._outlasted = False  # whether the user was told, or need not be
        self._give_back = weakref.finalize(self, preload.give_back, birth.server) if birth.server else None
        if self._give_back is not None:
            self._give_back.atexit = False  # a fork server ends by itself with its program

    def leave(self) -> None:
        """No worker is wanted any more."""
        if self._give_back is not None:
            self._give_back()

    @property
    def busy(self) -> bool:
        """Whether somebody is being started."""
        return bool(self._orders or self._starter or self._arrived or self._failed)

    # ---- starting; the lock is held

    def hire(self) -> None:
        """Start as many workers as are missing."""
        if self._may_hire():
            self._order(self._floor.ledger.missing())

    def _may_hire(self) -> bool:
        return self.broken is None and not self._floor.terminating and monotonic() >= self._hiring_at

    def want(self, count: int) -> None:
        """See to it that at least so many workers run or are starting, as far as there may be so many."""
        with self._floor.lock:
            ledger = self._floor.ledger
            if self._may_hire():
                self._order(min(count, ledger.size) - len(ledger.seats))

    def _order(self, count: int) -> None:
        if count <= 0:
            return
        self._floor.ensure_thread()  # first, so that nothing has been ordered if Ctrl-C comes meanwhile
        for _ in range(count):
            self._orders.append(self._floor.ledger.seat_new())
        self._floor.wake()

    # ---- starting; any thread

    def _start_ordered(self) -> None:
        while True:
            with self._floor.lock:
                if not self._orders:
                    self._starter = None
                    break
                seat = self._orders.popleft()
            try:
                self._arrived.append(self._start(seat))
            except BaseException as error:
                self._failed.append((seat, error))
            self._floor.wake()
        self._floor.wake()

    def start_here(self, count: int) -> None:
        """Start so many workers in this thread. OSError when not one of them can be started."""
        floor = self._floor
        for started in range(count):
            with floor.lock:
                if len(floor.ledger.seats) >= floor.ledger.size:
                    break  # there is no memory for more
                seat = floor.ledger.seat_new()
            try:
                self._arrived.append(self._start(seat))
            except BaseException as error:
                with floor.lock:
                    floor.ledger.remove(seat)
                if started and isinstance(error, OSError):
                    self._try_again_later(monotonic() + 1.0)
                    break
                self._undo_start()
                raise
        try:
            floor.ensure_thread()
        except BaseException:
            self._undo_start()
            raise
        floor.wake()

    def _undo_start(self) -> None:
        """Not even the first workers could be started in this thread: nobody will have this pool to end it."""
        self._floor.terminate()
        self._floor.ensure_thread()
        self._floor.join(self.grace)

    def _start(self, seat: Seat) -> WorkerProcess:
        worker = WorkerProcess(self._birth, seat)
        self.held.add(worker)  # before the fork, so that the child closes what is the parent's alone
        try:
            worker.start()
        except BaseException:
            self.held.discard(worker)
            worker.close()
            raise
        with self._floor.lock:
            self.workers[worker.index] = worker
        return worker

    # ---- the I/O thread

    def turn(self) -> None:
        """Have those started that were ordered, welcome who was started meanwhile."""
        with self._floor.lock:
            if self._orders and self._starter is None:
                # Here, because Ctrl-C in the middle of it, which the main thread may get, would leave them unstarted.
                self._starter = threading.Thread(target=self._start_ordered, name="pooltable-start", daemon=True)
                self._starter.start()
        while self._arrived:
            self._welcome(self._arrived.popleft())
        while self._failed:
            seat, error = self._failed.popleft()
            with self._floor.lock:
                self._floor.ledger.remove(seat)
            if isinstance(error, OSError):
                self._tell(WorkerEnded(seat.index, 0, None, "start failed", str(error)))
            self._start_failed(error, None)

    def _welcome(self, worker: WorkerProcess) -> None:
        """A process was started: from now on it is listened to."""
        self.started += 1
        worker.born = worker.seat.since = monotonic()
        self._floor.hearing.listen_to(worker, self._bury)
        self._tell(WorkerStarting(worker.index, worker.pid))
        if self._floor.terminating or self.broken is not None:
            with self._floor.lock:
                self._kill(worker)

    def greet(self, worker: WorkerProcess, message: tuple[Any, ...]) -> None:
        """It says that it is ready, or that its start has failed and it will be gone in a moment."""
        match message:
            case ("failed", (_, _, _, _, _), bool()) if not worker.greeted:
                worker.failure = message[1:]
                return
            case ("crowded", int() as count, [*names]) if all(map(_is_pair, names)):
                if not self._crowded:
                    self._crowded = True
                    self._tell(TooManyThreads(worker.index, worker.pid, count, self._birth.threads, tuple(names)))
                return
            case ("outlasted", [*names]):
                if not self._outlasted:
                    self._outlasted = True
                    self._tell(ThreadsLeft(worker.index, worker.pid, tuple(map(str, names))))
                worker.kill_group()
                return
        if message != ("ready",):
            raise NoMessage("a word that is none of its words")
        now = monotonic()
        worker.greeted = True
        self._tell(WorkerReady(worker.index, worker.pid, now - worker.born))
        with self._floor.lock:
            if worker.seat.state == STARTING:
                if not self._floor.ledger.failures:
                    self._hiring_at = 0.0
                worker.seat.since = now
                self._floor.ledger.became_ready(worker.seat)
                self._floor.next(worker)
        if not self._weighed:
            self._weighed = True
            self._weigh(worker)

    def _weigh(self, first: WorkerProcess) -> None:
        """See for how many like the first one there is memory; those that are too many and still starting end."""
        ledger = self._floor.ledger
        size, left = private_memory(first.pid), available_memory()
        if ledger.size == 1 or not size or left is None:
            return
        with self._floor.lock:
            workers = list(self.workers.values())
        taken = sum(private_memory(worker.pid) or 0 for worker in workers)
        count = max(1, (left + taken) // size)
        if count >= ledger.size:
            return
        self._tell(WorkersCapped(count, ledger.size, size, left))
        with self._floor.lock:
            ledger.size, ledger.minimum = count, min(ledger.minimum, count)
            while self._orders and len(ledger.seats) > count:
                ledger.remove(self._orders.pop())
            starting = [worker for worker in self.workers.values() if worker.seat.state == STARTING]
            for worker in starting[: max(0, len(ledger.seats) - count)]:
                worker.cause = "there is no memory for it"
                self._kill(worker)

    def _bury(self, worker: WorkerProcess, _: int) -> None:
        """A process has ended: answer for the call it ran, see to the other calls and to a new worker."""
        floor, seat = self._floor, worker.seat
        out_of_time = used_up_cpu_time(worker.pid, monotonic() - worker.born)
        told = floor.hearing.hear_the_last_of(worker)
        worker.kill_group()
        worker.reap(2.0)
        if worker.exitcode == -signal.SIGKILL and not worker.why:
            worker.cause = worker.cause or out_of_time
        with floor.lock:
            was_starting = seat.state == STARTING
            death = floor.ledger.gone(seat, worker.slab.started())
            if death.lost is not None:
                sink = floor.ledger.calls.pop(death.lost)
                floor.ledger.limits.pop(death.lost, None)
                told[0].append(sink)
                seconds = monotonic() - seat.since
                told[1].append((death.lost, GIVEN, seconds, self._loss(worker)))
                self.failed += 1
                self.calls_lost += worker.doom is None
                worker.done += 1
                worker.busy_seconds += seconds
            self.done_before += worker.done
            self.busy_before += worker.busy_seconds
            self.workers.pop(worker.index, None)
            self.held.discard(worker)
            worker.close()
            floor.room.notify_all()
        # Who failed to start is still there for a moment, in which it may be killed.
        failed = worker.failure is not None or (was_starting and not worker.why)
        why: Any = "start failed" if failed else worker.why or "lost"
        self.lost += why == "lost"
        running = death.lost is not None
        self._tell(WorkerEnded(worker.index, worker.pid, worker.exitcode, why, detail_of(worker), running))
        floor.hearing.tell(told, worker)
        # Who was ready and is killed from outside is no evidence that workers cannot be started.
        killed = worker.greeted and worker.exitcode in (-signal.SIGKILL, -signal.SIGTERM)
        if death.useless and not killed and not worker.why and monotonic() - worker.born < _SHORT_LIFE:
            self._start_failed(None, worker)
        with floor.lock:
            floor.dispatch()
            self.hire()

    def _loss(self, worker: WorkerProcess) -> BaseException:
        if worker.doom is not None:
            return worker.doom
        code = worker.exitcode
        cause = worker.cause or likely_cause(code, code == -signal.SIGKILL and self.killed_by_memory.rose())
        return WorkerLost(worker.pid, code, cause)

    def _start_failed(self, error: BaseException | None, worker: WorkerProcess | None) -> None:
        """A worker could not be started, or ended before it was of any use: try again later, or give up."""
        with self._floor.lock:
            if worker is not None and worker.born < self._failed_at and not worker.is_unguarded:
                return  # it was started before the last failure was known: that is one try and not two
            self._failed_at = monotonic()
            delay = self._floor.ledger.start_failed()
            generations = self._floor.ledger.failures if worker is not None and worker.greeted else 0
            if generations >= _GENERATIONS and not self._somebody_is_of_use():
                delay = None
            # What is raised while a process is made, other than by the system, is raised by pickling the initializer.
            hopeless = not isinstance(error, OSError) if worker is None else worker.is_unguarded
            if delay is None or hopeless:
                self._give_up(start_error(error, worker))
            else:
                self._try_again_later(monotonic() + delay)

    def _somebody_is_of_use(self) -> bool:
        now = monotonic()
        return any(
            worker.seat.batches or (worker.greeted and (worker.seat.answered or now - worker.born > _SHORT_LIFE))
            for worker in self.workers.values()
        )

    def _try_again_later(self, when: float) -> None:
        self._hiring_at = when
        self._floor.alarms.set(when, self._hire_again)

    def _hire_again(self, now: float) -> None:
        self.hire()

    def _give_up(self, error: WorkerStartError | UnguardedMain) -> None:
        """No worker can be started: every call that waits, and every later one, fails with `error`."""
        if self.broken is not None:
            return
        self.broken = error
        ledger = self._floor.ledger
        sent = {number for seat in ledger.seats.values() for batch in seat.batches for number in batch}
        for number in [number for number in list(ledger.calls) if number not in sent]:
            self._floor.give(number, error)
        ledger.waiting.clear()
        self._cancel_orders()
        for worker in self.workers.values():
            if worker.seat.state == STARTING:
                self._kill(worker)
        self._tell(WorkersBroken(error))

    def _cancel_orders(self) -> None:
        while self._orders:
            self._floor.ledger.remove(self._orders.popleft())

    # ---- ending; the lock is held

    def dismiss(self, worker: WorkerProcess, why: str) -> None:
        """Tell a worker to leave when it has done what it is at."""
        worker.why = why
        self._floor.ledger.leaves(worker.seat)
        self._floor.post(worker, None)
        self._floor.alarms.set(monotonic() + _LEAVE, self._put_to_death, worker)

    def dismiss_all(self) -> None:
        """Tell all workers to leave. Those that are starting are told when they are ready."""
        with self._floor.lock:
            for worker in self.workers.values():
                if worker.seat.state not in (STARTING, LEAVING):
                    self.dismiss(worker, "stopped")

    def kill_all(self) -> None:
        """End every worker, whatever it does."""
        self._cancel_orders()
        for worker in self.workers.values():
            self._kill(worker)

    def io_thread_failed(self, error: BaseException) -> WorkerStartError:
        """Nothing can run any more, for a defect of ours."""
        text = "".join(traceback.format_exception(error))
        broken = WorkerStartError(f"the pool's I/O thread failed: {type(error).__name__}: {error}", text)
        self.broken = broken
        self._cancel_orders()
        self._tell(WorkersBroken(broken))
        return broken

    def abandon(self) -> None:
        """Kill and bury without ceremony: nobody is there to look after anything. The lock is free."""
        starter = self._starter
        if starter is not None:
            starter.join(5.0)
        for worker in list(self.held):
            worker.kill_group()
            worker.channel.shutdown()  # a thread that waits for an answer lets go of it
            with worker.reading:
                worker.reap(1.0)
                worker.close()
        self.held.clear()

    def _kill(self, worker: WorkerProcess) -> None:
        """End a worker that runs nothing that anybody waits for."""
        if self.merciless:
            worker.kill_group()
        if worker.why == "killed":
            return
        worker.why = "killed"
        self._floor.ledger.leaves(worker.seat)
        if not self.merciless:
            worker.signal(signal.SIGTERM)
            self._floor.alarms.set(monotonic() + min(self.grace, _SHORT_GRACE), self._put_to_death, worker)

    def doom(self, worker: WorkerProcess, number: int, error: BaseException) -> None:
        """End the call that a worker runs: its stacks to its stderr, SIGTERM, and after the grace SIGKILL."""
        if worker.doom is not None:
            return
        worker.doom, worker.doomed, worker.why = error, number, "killed"
        self._floor.ledger.leaves(worker.seat)
        if self.merciless:
            worker.kill_group()
            return
        worker.signal(dump_signal())
        # Of two signals that wait for a process the one with the lower number is delivered first.
        term_at = monotonic() + _DUMP
        self._floor.alarms.set(term_at, self._terminate, worker)
        self._floor.alarms.set(term_at + self.grace, self._put_to_death, worker)

    def distrust(self, worker: WorkerProcess, cause: str = _INTERRUPTED) -> None:
        """End a worker of which nobody knows what it has said; its death puts the books right."""
        if worker in self.held:
            worker.cause = cause
            worker.why = "killed"
            self._floor.ledger.leaves(worker.seat)
            worker.kill_group()

    def _terminate(self, now: float, worker: WorkerProcess) -> None:
        if worker in self.held:
            worker.signal(signal.SIGTERM)

    def _put_to_death(self, now: float, worker: WorkerProcess) -> None:
        if worker in self.held:
            worker.kill_group()

    def _tell(self, event: Event) -> None:
        if self._listener is not None:
            try:
                self._listener(event)
            except Exception:
                sys.excepthook(*sys.exc_info())


def _is_pair(value: object) -> bool:
    match value:
        case (str(), int()):
            return True
    return False
