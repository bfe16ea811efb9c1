"""The thread that looks after the workers of one engine, and what is sent to them.

    any thread     accept: ledger -> straight to an idle worker, or the call waits
    I/O thread     one wait over all sockets, pidfds and deadlines:
                     an answer    -> hearing.py: ledger -> the worker's next batch -> the call's sink
                     a death      -> staff.py: the call it ran fails, the others go elsewhere, a new worker
                     a deadline   -> watch.py: time limits, slow batches, idle workers

Nothing is shared between workers, so nothing that one of them does can stop another. The I/O thread never unpickles
what users sent and never runs their code.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from time import monotonic
from typing import Any

from pooltable.events import Event
from pooltable.pool import wire
from pooltable.pool.alarms import Alarms
from pooltable.pool.buffers import Parcel, let_go_of_all
from pooltable.pool.engine import GIVEN, Sink
from pooltable.pool.hearing import Hearing
from pooltable.pool.ledger import LEAVING, Entry, Ledger, Payload
from pooltable.pool.poller import new_poller
from pooltable.pool.process import Birth, WorkerProcess
from pooltable.pool.staff import Staff
from pooltable.pool.watch import Watch
from pooltable.uptime import uptime

_floors: weakref.WeakSet[Floor] = weakref.WeakSet()


class Floor:
    """Keeps the books of one engine and talks to its workers."""

    def __init__(
        self,
        birth: Birth,
        ledger: Ledger,
        *,
        idle_timeout: float | None,
        grace: float,
        hard_memory: int | None,
        listener: Callable[[Event], object] | None,
    ) -> None:
        self.ledger = ledger
        # Reentrant, because a finalizer or signal handler of the user's may run inside it and submit.
        self.lock = threading.RLock()
        self.room = threading.Condition(self.lock)
        self.definitions: list[bytes] = []  # functions that calls name by number
        self.alarms = Alarms(self.wake)
        self.staff = Staff(self, birth, grace, listener)
        self.with_files = False  # whether some call has had arguments in a memory file
        self.closing = self.terminating = False
        self.send_until = math.inf  # by the clock of uptime: what has not been sent by then waits until this is moved
        self.failed = False  # the I/O thread has met a defect, and is no more
        self.foreign = False  # this is a forked copy, in a process that the workers are none of
        self._last_error: BaseException | None = None  # what calls end with that are open when all is terminated
        self._writers: deque[WorkerProcess] = deque()  # whose socket was full
        self._thread: threading.Thread | None = None
        self._begun = False  # the I/O thread runs, or has run
        self._poller = new_poller()
        self.stirred = False  # somebody has asked for attention
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poller.register(self._wake_read, self._woken, None)
        self.hearing = Hearing(self, self._poller)
        self.watch = Watch(self, idle_timeout, hard_memory)
        _floors.add(self)

    # ---- from any thread

    def accept(self, sink: Sink, name: int, payload: Payload, limit: float | None) -> int:
        """A new call: it goes to an idle worker at once, or waits. Never blocks."""
        if self.closing or self.foreign:
            raise self._refusal()
        ledger = self.ledger
        number = ledger.accept(sink, name, payload, limit)
        # While all workers are busy, as usual when many calls come, it only had to be put down, which needs no lock.
        # Whoever changes one of these looks for calls that wait afterwards; here it is the other way round.
        if ledger.idle or len(ledger.seats) < ledger.size or self.closing or self.staff.broken is not None:
            with self.lock:
                self._see_to((number,))
        return number

    def accept_all(self, sink: Sink, name: int, payloads: Sequence[Payload], limit: float | None) -> list[int]:
        """As many new calls of one function, one after the other."""
        if self.closing or self.foreign:
            raise self._refusal()
        numbers = self.ledger.accept_all(sink, name, payloads, limit)
        with self.lock:
            self._see_to(numbers)
        return numbers

    def _refusal(self) -> Exception:
        """Why no call is taken."""
        if self.failed:
            assert self.staff.broken is not None
            return self.staff.broken
        return ValueError("Pool not running" if self.closing else "this pool was made in another process")

    def _see_to(self, numbers: Sequence[int]) -> None:
        """Calls may wait though there is a worker for them, or room for one more, or nobody any more who would send
        them."""
        if self.closing or self.staff.broken is not None:
            self._end_unsent([number for number in numbers if self.ledger.is_waiting(number)])
        self.dispatch()
        self.staff.hire()

    def _end_unsent(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if self.closing:
                del self.ledger.calls[number]
                self.ledger.limits.pop(number, None)
            elif self.staff.broken is not None:
                self.give(number, self.staff.broken)
        if numbers and self.closing:
            raise self._refusal()

    def cancel(self, number: int, kill: bool) -> bool:
        """Drop a call that has not started, or with `kill` end it; False if it cannot be dropped any more."""
        with self.lock:
            if self.ledger.is_waiting(number):
                self.give(number, CancelledError())
                return True
            seat = self.ledger.holder(number)
            if seat is None:
                return False
            worker = self.staff.workers[seat.index]
            if worker.slab.started() != number and seat.tokened:
                self.recall(worker)
                taken_back = not seat.has(number)
                if taken_back:
                    self.give(number, CancelledError())
                self.dispatch()
                if taken_back:
                    return True
            if kill:
                self.staff.doom(worker, number, CancelledError())
                self.wake()
            return kill

    def waiting(self) -> list[int]:
        """The calls that were sent to nobody."""
        with self.lock:
            return [entry[0] for entry in list(self.ledger.waiting) if entry[0] in self.ledger.calls]

    def give(self, number: int, error: BaseException) -> None:
        """The call ends with this error. Its sink is told by the I/O thread."""
        sink = self.ledger.calls.pop(number)
        self.ledger.limits.pop(number, None)
        self.staff.failed += 1
        self.hearing.tell_soon(sink, (number, GIVEN, 0.0, error))
        self.room.notify_all()
        self.wake()

    def close(self) -> None:
        """Accept no more; workers leave when every call has been answered."""
        self.closing = self.ledger.closed = True
        self.wake()

    def terminate(self, error: BaseException | None = None, kill: bool = False) -> None:
        """Accept no more, end what runs. Takes no lock, so that a signal handler may call it."""
        self._last_error = error
        self.staff.merciless = kill
        self.closing = self.ledger.closed = self.terminating = True
        self.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every worker is gone."""
        if self.foreign:
            return True
        while (thread := self._thread) is not None:
            if thread is threading.current_thread():
                return False
            try:
                thread.join(timeout)
            except RuntimeError:  # an interrupt came while it was being started
                self.ensure_thread()
                continue
            if thread is self._thread:
                return not thread.is_alive()
        self._close_unused()
        return True

    def _close_unused(self) -> None:
        """No worker was ever wanted, so there is no thread that closes what was made for it."""
        with self.lock:
            if self._thread is None and self.closing:
                self._poller.close()
                self._close_pipe()
                self.staff.leave()

    def is_io_thread(self) -> bool:
        """Whether the I/O thread asks."""
        return threading.current_thread() is self._thread

    def wake(self) -> None:
        """Make the I/O thread look."""
        with suppress(OSError):  # full: it will look anyway; closed: it has ended
            os.write(self._wake_write, b"\0")

    def forget(self) -> None:
        """In a forked child: close what keeps the parent's workers alive or could disturb them."""
        self.foreign = True
        self.lock = threading.RLock()
        self.room = threading.Condition(self.lock)
        for worker in self.staff.held:
            worker.forget()
        self._poller.close()
        self._close_pipe()

    def _close_pipe(self) -> None:
        # The numbers of closed descriptors are given to others: they must not be closed a second time.
        ends = self._wake_read, self._wake_write
        self._wake_read = self._wake_write = -1
        for fd in ends:
            if fd >= 0:
                os.close(fd)

    def go_on_until(self, moment: float) -> None:
        """Workers are sent calls until then, by the clock of uptime; calls that wait are kept back after it."""
        with self.lock:
            self.send_until = moment
            self.dispatch()

    # ---- sending; the lock is held

    def _send(self, worker: WorkerProcess, batch: dict[int, Entry], tokened: bool) -> None:
        now = worker.seat.since = monotonic()
        fresh = self.definitions[worker.known :]
        worker.known += len(fresh)
        if tokened:
            worker.tokens.give(len(batch))
            self.watch.batch(worker, now)
        elif self.ledger.limits:
            (number,) = batch
            limit = self.ledger.limits.get(number)
            if limit is not None:
                self.watch.limit(worker, number, limit, now)
        entries = list(batch.values())
        if self.with_files and (parcels := [entry[2] for entry in entries if isinstance(entry[2], Parcel)]):
            slim = [(number, name, getattr(payload, "sizes", payload)) for number, name, payload in entries]
            self.post(worker, (fresh, tokened, slim), parcels)
        else:
            self.post(worker, (fresh, tokened, entries))

    def post(self, worker: WorkerProcess, message: Any, parcels: list[Parcel] | None = None) -> None:
        """Send a message; what the socket does not take goes later."""
        data = wire.pack(message)
        worker.sent += len(data)
        if parcels:
            worker.sent += sum(map(len, parcels))
        try:
            channel = worker.channel
            if not (channel.send_with_files(data, parcels) if parcels else channel.send(data)):
                self._writers.append(worker)
                self.wake()
        except OSError:
            pass  # it is dead: that will be told, and what it was sent goes elsewhere

    def dispatch(self) -> None:
        """Send what waits to whoever is idle."""
        ledger = self.ledger
        while ledger.waiting and ledger.idle and uptime() < self.send_until:
            seat = ledger.warmest()
            batch = ledger.next_batch(seat)
            if not batch:
                return
            worker = self.staff.workers[seat.index]
            try:
                self._send(worker, batch, seat.tokened)
            except BaseException:
                # Ctrl-C: nobody knows whether it was sent.
                self.staff.distrust(worker)
                raise

    def recall(self, worker: WorkerProcess) -> None:
        """Take back whatever this worker has not started."""
        while self.ledger.can_recall(worker.seat) and worker.tokens.take():
            self.ledger.recall(worker.seat)

    def next(self, worker: WorkerProcess) -> None:
        """Give a worker that has come to the end of a batch its next ones, or let it be idle, or go."""
        ledger, seat = self.ledger, worker.seat
        while uptime() < self.send_until and (batch := ledger.next_batch(seat)):
            self._send(worker, batch, seat.tokened)
        if seat.batches or seat.state == LEAVING:
            return
        if seat.room == 0:
            self.staff.dismiss(worker, "recycled")
            return
        ledger.became_idle(seat)
        if not ledger.waiting:
            self.watch.idle(seat)
        if ledger.waiting:
            self.dispatch()

    # ---- the I/O thread

    def ensure_thread(self) -> None:
        """Start the I/O thread unless it runs.

        Ctrl-C may interrupt the start at any point, and nobody knows then whether the thread will run. So it is started
        once more, and the first one to run is the I/O thread.
        """
        with self.lock:
            if not self._begun and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="pooltable-io", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        with self.lock:
            if self._begun:
                return
            self._begun = True
            self._thread = threading.current_thread()
        try:
            while not (self.closing and self._finished()):
                for act, worker, mask in self._poller.wait(self.alarms.pause()):
                    act(worker, mask)
                if self.alarms.due():
                    with self.lock:
                        self.alarms.ring(monotonic())
                if self.stirred or self.closing:
                    self._turn()
        except BaseException as error:
            self._collapse(error)
        finally:
            self._poller.close()
            self._close_pipe()
            self.staff.leave()
            let_go_of_all()

    def _finished(self) -> bool:
        with self.lock:
            return not (self.ledger.seats or self.ledger.calls or self.hearing.has_more or self.staff.busy)

    def _woken(self, _: Any, mask: int) -> None:
        self.stirred = True
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _turn(self) -> None:
        """Everything that is not a message, a death or a deadline."""
        self.stirred = False
        self.staff.turn()
        while self._writers:
            self.hearing.listen(self._writers.popleft())
        if self.terminating:
            self._end_all()
        elif self.closing and not self.ledger.calls:
            self.staff.dismiss_all()
        self.hearing.tell_late()

    def _end_all(self) -> None:
        """Answer every call that is open, and end every worker."""
        with self.lock:
            for number in list(self.ledger.calls):
                self.give(number, self._last_error or CancelledError())
            self.ledger.waiting.clear()
            self.staff.kill_all()

    def _collapse(self, error: BaseException) -> None:
        """This thread has failed: nobody may wait for it."""
        with self.lock:
            # In this order, because whoever is refused looks at them without the lock.
            broken = self.staff.io_thread_failed(error)
            self.failed = self.closing = True
            for number in list(self.ledger.calls):
                self.give(number, broken)
        self.staff.abandon()
        self.hearing.tell_late()


def _after_fork() -> None:
    for floor in list(_floors):
        floor.forget()


os.register_at_fork(after_in_child=_after_fork)
