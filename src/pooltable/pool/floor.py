"""The thread that looks after the workers of one engine: what is sent to them, and what they say.

    any thread     accept: ledger -> straight to an idle worker, or the call waits
    I/O thread     one wait over all sockets, pidfds and deadlines:
                     an answer    -> ledger -> the worker's next batch -> the call's sink
                     a death      -> staff.py: the call it ran fails, the others go elsewhere, a new worker
                     a deadline   -> watch.py: time limits, slow batches, idle workers

Nothing is shared between workers, so nothing that one of them does can stop another. The I/O thread never unpickles
what users sent and never runs their code.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from operator import itemgetter
from time import monotonic
from typing import Any

from pooltable.errors import WorkerStartError
from pooltable.events import Event
from pooltable.pool import wire
from pooltable.pool.alarms import Alarms
from pooltable.pool.buffers import Parcel, Received, let_go_of_all
from pooltable.pool.engine import GIVEN, LARGE, RAISED, RETURNED, InnerSink, Record
from pooltable.pool.ledger import LEAVING, READY, Entry, Ledger, Payload
from pooltable.pool.poller import READ, WRITE, new_poller
from pooltable.pool.process import Birth, WorkerProcess
from pooltable.pool.staff import Staff
from pooltable.pool.watch import Watch

_kind = itemgetter(1)
_floors: weakref.WeakSet[Floor] = weakref.WeakSet()
# Whom to tell, of what; the lock is free by then. None where somebody was told before.
Told = tuple[list[InnerSink | None], list[Record]]


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
        self.foreign = False  # this is a forked copy, in a process that the workers are none of
        self._last_error: BaseException | None = None  # what calls end with that are open when all is terminated
        self._late: deque[tuple[InnerSink, Record, int | None, int | None]] = deque()  # to be told by the I/O thread
        self._writers: deque[WorkerProcess] = deque()  # whose socket was full
        self._thread: threading.Thread | None = None
        self._poller = new_poller()
        self._stirred = False  # somebody has asked for attention
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poller.register(self._wake_read, self._woken, None)
        self._watch = Watch(self, idle_timeout, hard_memory)
        _floors.add(self)

    # ---- from any thread

    def accept(self, sink: InnerSink, name: int, payload: Payload, limit: float | None) -> int:
        """A new call: it goes to an idle worker at once, or waits. Never blocks."""
        if self.closing or self.foreign:
            raise ValueError("Pool not running" if self.closing else "this pool was made in another process")
        ledger = self.ledger
        number = ledger.accept(sink, name, payload, limit)
        # While all workers are busy, as usual when many calls come, it only had to be put down, which needs no lock.
        # Whoever changes one of these looks for calls that wait afterwards; here it is the other way round.
        if ledger.idle or len(ledger.seats) < ledger.size or self.closing or self.staff.broken is not None:
            with self.lock:
                self._see_to(number)
        return number

    def _see_to(self, number: int) -> None:
        """A call waits though there is a worker for it, or room for one more, or nobody any more who would send it."""
        ledger = self.ledger
        if ledger.is_waiting(number):
            if self.closing:
                del ledger.calls[number]
                ledger.limits.pop(number, None)
                raise ValueError("Pool not running")
            if self.staff.broken is not None:
                self.give(number, self.staff.broken)
        self.dispatch()
        self.staff.hire()

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

    def attend(self, number: int, timeout: float | None) -> None:
        """Wait in this thread for the answer to a call that a worker runs alone, and take it: one thread less is woken.

        Comes back at once where it cannot be done, and then the I/O thread takes it.
        """
        with self.lock:
            seat = self.ledger.holder(number)
            if seat is None or len(seat.batches) != 1 or seat.tokened or seat.state != READY:
                return
            worker = self.staff.workers[seat.index]
            if worker.deaf or worker.channel.waiting or not worker.reading.acquire(blocking=False):
                return
            worker.attended = True
            self._poller.want(worker.channel.fileno(), 0)
        reading = False
        try:
            if worker.channel.wait(timeout):
                reading = True
                self._read(worker)
        except BaseException:
            # Ctrl-C. Between the kernel and the books a message may have been lost; a new worker has no such doubts.
            if reading:
                with self.lock:
                    self.staff.distrust(worker)
            raise
        finally:
            with self.lock:
                worker.attended = False
                worker.reading.release()
                self._listen(worker)

    def waiting(self) -> list[int]:
        """The calls that were sent to nobody."""
        with self.lock:
            return [entry[0] for entry in list(self.ledger.waiting) if entry[0] in self.ledger.calls]

    def give(self, number: int, error: BaseException) -> None:
        """The call ends with this error. Its sink is told by the I/O thread."""
        sink = self.ledger.calls.pop(number)
        self.ledger.limits.pop(number, None)
        self.staff.failed += 1
        self._late.append((sink, (number, GIVEN, 0.0, error), None, None))
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
        thread = self._thread
        if self.foreign:
            return True
        if thread is None:
            self._close_unused()
            return True
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

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

    # ---- sending; the lock is held

    def _send(self, worker: WorkerProcess, batch: dict[int, Entry], tokened: bool) -> None:
        now = worker.seat.since = monotonic()
        fresh = self.definitions[worker.known :]
        worker.known += len(fresh)
        if tokened:
            worker.tokens.give(len(batch))
            self._watch.batch(worker, now)
        elif self.ledger.limits:
            (number,) = batch
            limit = self.ledger.limits.get(number)
            if limit is not None:
                self._watch.limit(worker, number, limit, now)
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
        while ledger.waiting and ledger.idle:
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
        while batch := ledger.next_batch(seat):
            self._send(worker, batch, seat.tokened)
        if seat.batches or seat.state == LEAVING:
            return
        if seat.room == 0:
            self.staff.dismiss(worker, "recycled")
            return
        ledger.became_idle(seat)
        if not ledger.waiting:
            self._watch.idle(seat)
        if ledger.waiting:
            self.dispatch()

    # ---- the I/O thread

    def ensure_thread(self) -> None:
        """Start the I/O thread unless it runs."""
        with self.lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pooltable-io", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            while not (self.closing and self._finished()):
                for act, worker, mask in self._poller.wait(self.alarms.pause()):
                    act(worker, mask)
                if self.alarms.due():
                    with self.lock:
                        self.alarms.ring(monotonic())
                if self._stirred or self.closing:
                    self._turn()
        except BaseException:
            self._collapse()
            raise
        finally:
            self._poller.close()
            self._close_pipe()
            self.staff.leave()
            let_go_of_all()

    def _finished(self) -> bool:
        with self.lock:
            return not (self.ledger.seats or self.ledger.calls or self._late or self.staff.busy)

    def _woken(self, _: Any, mask: int) -> None:
        self._stirred = True
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _turn(self) -> None:
        """Everything that is not a message, a death or a deadline."""
        self._stirred = False
        self.staff.turn()
        while self._writers:
            self._listen(self._writers.popleft())
        if self.terminating:
            self._end_all()
        elif self.closing and not self.ledger.calls:
            self.staff.dismiss_all()
        self._tell_late()

    def _end_all(self) -> None:
        """Answer every call that is open, and end every worker."""
        with self.lock:
            for number in list(self.ledger.calls):
                self.give(number, self._last_error or CancelledError())
            self.ledger.waiting.clear()
            self.staff.kill_all()

    def _collapse(self) -> None:
        """This thread has failed: nobody may wait for it."""
        with self.lock:
            self.closing = True
            for number in list(self.ledger.calls):
                self.give(number, WorkerStartError("the pool's I/O thread failed"))
            self.staff.abandon()
        self._tell_late()

    # ---- what workers say

    def listen_to(self, worker: WorkerProcess, bury: Callable[[WorkerProcess, int], None]) -> None:
        """From now on hear what this worker says, and when it dies."""
        self._poller.register(worker.channel.fileno(), self._hear, worker)
        self._poller.register(worker.sentinel, bury, worker)

    def hear_the_last_of(self, worker: WorkerProcess) -> Told:
        """Take what a dead worker had still sent, and noted; whom to tell of the latter."""
        self._poller.unregister(worker.sentinel)
        if worker.attended:
            worker.channel.shutdown()  # what it had sent can still be read
        with worker.reading:
            while not worker.deaf and self._read(worker):
                pass
        self._go_deaf(worker)
        self._watch.forget(worker)
        with self.lock:
            return self._settle(worker, worker.slab.read(worker.slab.mark()))

    def _listen(self, worker: WorkerProcess) -> None:
        """Wait for messages, and for room while something is to be sent."""
        with self.lock:  # it may be found dead, by another thread, at this very moment
            if not worker.deaf:
                self._poller.want(worker.channel.fileno(), READ | WRITE if worker.channel.waiting else READ)

    def _hear(self, worker: WorkerProcess, mask: int) -> None:
        """A worker's socket has something to read, or room to write."""
        if worker.deaf:
            return
        if mask & WRITE:
            with self.lock, suppress(OSError):
                worker.channel.flush()
            self._listen(worker)
        if mask & READ and worker.reading.acquire(blocking=False):
            try:
                self._read(worker)
            finally:
                worker.reading.release()

    def _read(self, worker: WorkerProcess) -> bool:
        """Take one message of a worker, whose lock `reading` is held; False when there is none."""
        try:
            message = worker.channel.receive()
        except BlockingIOError:
            return False
        except ConnectionResetError:
            # It died with calls unread. What it had sent before can be read all the same, from the next time on.
            if not worker.reset:
                worker.reset = True
                return True
            self._go_deaf(worker)
            return False
        except (EOFError, OSError):
            self._go_deaf(worker)
            return False
        if type(message[0]) is str:
            self.staff.greet(worker, message)
        else:
            self._take(worker, message)
        return True

    def _go_deaf(self, worker: WorkerProcess) -> None:
        # Its end has closed: it is dying, or the function has closed all descriptors; what matters is when it is dead.
        with self.lock:
            if not worker.deaf:
                worker.deaf = True
                self._poller.unregister(worker.channel.fileno())

    def _take(self, worker: WorkerProcess, message: tuple[list[Record], float, bool, int, bool]) -> None:
        """Answers have come."""
        answers, seconds, ended, dropped, leaving = message
        if worker.channel.files:
            answers = _with_files(answers, worker.channel.files)
            worker.channel.received += sum(len(record[3]) for record in answers if record[1] == LARGE)
        with self.lock:
            seat = worker.seat
            ledger = self.ledger
            told = self._settle(worker, answers)
            worker.busy_seconds += seconds
            seat.since = monotonic()
            if answers:
                ledger.note_pace(seat.batches[0][answers[-1][0]][1], seconds / len(answers))
            if ended:
                ledger.batch_ended(seat, dropped)
                self._watch.forget(worker)
            else:
                self._watch.batch(worker, seat.since)
            if leaving and seat.state != LEAVING:
                self.staff.dismiss(worker, "recycled")
            elif ended:
                self.next(worker)
            self.room.notify_all()
        self.tell(told, worker)

    def _settle(self, worker: WorkerProcess, answers: list[Record]) -> Told:
        """Book answers. A sink is missing where it was told before: of what was in the slab, or of an error."""
        calls = self.ledger.calls
        pop = calls.pop
        unended = len(calls)
        if worker.doomed:
            answers = [
                (number, GIVEN, seconds, worker.doom) if number == worker.doomed else (number, kind, seconds, payload)
                for number, kind, seconds, payload in answers
            ]
        sinks = [pop(record[0], None) for record in answers]
        worker.done += unended - len(calls)
        if any(map(_kind, answers)):
            # Large values are among them, or errors. What was booked before has no sink any more.
            self.staff.failed += sum(
                record[1] in (RAISED, GIVEN) for sink, record in zip(sinks, answers, strict=True) if sink is not None
            )
        self.ledger.note_answers(worker.seat, len(answers))
        if self.ledger.limits:
            for record in answers:
                self.ledger.limits.pop(record[0], None)
        return sinks, answers

    def take_from_slab(self, worker: WorkerProcess, mark: tuple[int, int, int]) -> None:
        """Book what a worker has noted and not yet sent; the sinks are told when the lock is free."""
        for sink, record in zip(*self._settle(worker, worker.slab.read(mark)), strict=True):
            if sink is not None:
                self._late.append((sink, record, worker.index, worker.pid))
        self._stirred = True

    def tell(self, told: Told, worker: WorkerProcess) -> None:
        """Tell sinks of the calls that a worker answered; the lock is not held."""
        index, pid = worker.index, worker.pid
        for sink, record in zip(*told, strict=True):
            if sink is not None:
                try:
                    sink.heard(record, index, pid)
                except Exception:
                    sys.excepthook(*sys.exc_info())

    def _tell_late(self) -> None:
        while self._late:
            sink, record, worker, pid = self._late.popleft()
            try:
                sink.heard(record, worker, pid)
            except Exception:
                sys.excepthook(*sys.exc_info())


def _with_files(answers: list[Record], files: deque[int]) -> list[Record]:
    """Records that came with memory files: values that only have sizes have one each."""
    return [
        (number, LARGE, seconds, Received(files.popleft(), payload))
        if kind == RETURNED and type(payload) is tuple
        else (number, kind, seconds, payload)
        for number, kind, seconds, payload in answers
    ]


def _after_fork() -> None:
    for floor in list(_floors):
        floor.forget()


os.register_at_fork(after_in_child=_after_fork)
