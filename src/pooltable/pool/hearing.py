"""What the workers of one floor say: messages are read, answers are booked, and sinks are told.

    socket  --_hear, attend-->  _read  --news-->     staff.py
                                       --answers-->  _settle: ledger  -->  tell: the calls' sinks
    slab    --take_from_slab, hear_the_last_of-->  _settle

Who holds a worker's lock `reading` reads its socket: the I/O thread, or a thread that waits for the answer to a call
that the worker runs alone. Sinks are told when the floor's lock is free.

A worker runs code that nobody here knows, and that code may write to any descriptor. So what comes is checked before
anything is booked, and a worker that says what no worker says is ended: that costs the call that it runs, and no other.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any

from pooltable.pool.buffers import Missing, Received
from pooltable.pool.engine import GIVEN, LARGE, RAISED, RETURNED, Record, Sink
from pooltable.pool.ledger import LEAVING, READY, Entry
from pooltable.pool.poller import READ, WRITE, Poller
from pooltable.pool.process import WorkerProcess
from pooltable.pool.wire import Channel, NoMessage

if TYPE_CHECKING:
    from pooltable.pool.floor import Floor

_kind = itemgetter(1)
# Whom to tell, of what. None where somebody was told before.
Told = tuple[list[Sink | None], list[Record]]


class Hearing:
    """Takes what the workers of a floor say."""

    def __init__(self, floor: Floor, poller: Poller) -> None:
        self._floor = floor
        self._poller = poller
        self._late: deque[tuple[Sink, Record, int | None, int | None]] = deque()  # to be told by the I/O thread

    # ---- from any thread

    def attend(self, number: int, timeout: float | None) -> None:
        """Wait in this thread for the answer to a call that a worker runs alone, and take it: one thread less is woken.

        Comes back at once where it cannot be done, and then the I/O thread takes it.
        """
        with self._floor.lock:
            seat = self._floor.ledger.holder(number)
            if seat is None or len(seat.batches) != 1 or seat.tokened or seat.state != READY:
                return
            worker = self._floor.staff.workers[seat.index]
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
                with self._floor.lock:
                    self._floor.staff.distrust(worker)
            raise
        finally:
            with self._floor.lock:
                worker.attended = False
                worker.reading.release()
                self.listen(worker)

    # ---- the I/O thread

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
        self._floor.watch.forget(worker)
        with self._floor.lock:
            return self._settle(worker, self._noted(worker, worker.slab.mark()))

    def listen(self, worker: WorkerProcess) -> None:
        """Wait for messages, and for room while something is to be sent."""
        with self._floor.lock:  # it may be found dead, by another thread, at this very moment
            if not worker.deaf:
                self._poller.want(worker.channel.fileno(), READ | WRITE if worker.channel.waiting else READ)

    def _hear(self, worker: WorkerProcess, mask: int) -> None:
        """A worker's socket has something to read, or room to write."""
        if worker.deaf:
            return
        if mask & WRITE:
            with self._floor.lock, suppress(OSError):
                worker.channel.flush()
            self.listen(worker)
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
        except NoMessage as error:
            self._refuse(worker, error)
            return False
        try:
            if type(message) is tuple and message and type(message[0]) is str:
                self._floor.staff.greet(worker, message)
            else:
                self._take(worker, message)
        except NoMessage as error:
            self._refuse(worker, error)
            return False
        return True

    def _refuse(self, worker: WorkerProcess, error: NoMessage) -> None:
        with self._floor.lock:
            self._go_deaf(worker)
            self._floor.staff.distrust(worker, f"it sent something that no worker sends: {error}")

    def _go_deaf(self, worker: WorkerProcess) -> None:
        # Its end has closed: it is dying, or the function has closed all descriptors; what matters is when it is dead.
        with self._floor.lock:
            if not worker.deaf:
                worker.deaf = True
                self._poller.unregister(worker.channel.fileno())
                worker.channel.shutdown()  # if it lives, it must not wait for what nobody will send

    def _take(self, worker: WorkerProcess, message: Any) -> None:
        """Answers have come."""
        try:
            answers, seconds, ended, dropped, leaving = message
            seconds, dropped = float(seconds), int(dropped)
        except (TypeError, ValueError):
            raise NoMessage("not what a message has in it") from None
        if worker.channel.files or worker.channel.cut:
            answers = _with_files(answers, worker.channel)
            worker.channel.received += sum(len(record[3]) for record in answers if record[1] == LARGE)
        with self._floor.lock:
            seat = worker.seat
            ledger = self._floor.ledger
            if not (
                seat.batches and _belong_to(seat.batches[0], answers, ledger.calls if ended and not leaving else {})
            ):
                raise NoMessage("an answer to a call that it does not run")
            told = self._settle(worker, answers)
            worker.busy_seconds += seconds
            seat.since = monotonic()
            if answers:
                ledger.note_pace(seat.batches[0][answers[-1][0]][1], seconds / len(answers))
            if ended:
                if not leaving:
                    ledger.batch_ended(seat, dropped)
                self._floor.watch.forget(worker)
            else:
                self._floor.watch.batch(worker, seat.since)
            if leaving:
                if seat.state != LEAVING:
                    self._floor.staff.dismiss(worker, "recycled")
                # It may not have done all of its batch, and it may take a while until it is gone.
                ledger.take_back(seat)
                self._floor.dispatch()
            elif ended:
                self._floor.next(worker)
            self._floor.room.notify_all()
        self.tell(told, worker)

    def _settle(self, worker: WorkerProcess, answers: list[Record]) -> Told:
        """Book answers. A sink is missing where it was told before: of what was in the slab, or of an error."""
        calls = self._floor.ledger.calls
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
            self._floor.staff.failed += sum(
                record[1] in (RAISED, GIVEN) for sink, record in zip(sinks, answers, strict=True) if sink is not None
            )
        self._floor.ledger.note_answers(worker.seat, len(answers))
        if self._floor.ledger.limits:
            for record in answers:
                self._floor.ledger.limits.pop(record[0], None)
        return sinks, answers

    def take_from_slab(self, worker: WorkerProcess, mark: tuple[int, int, int]) -> None:
        """Book what a worker has noted and not yet sent; the floor's lock is held."""
        for sink, record in zip(*self._settle(worker, self._noted(worker, mark)), strict=True):
            if sink is not None:
                self._late.append((sink, record, worker.index, worker.pid))
        self._floor.stirred = True

    def _noted(self, worker: WorkerProcess, mark: tuple[int, int, int]) -> list[Record]:
        """The answers in a worker's slab; the floor's lock is held."""
        try:
            noted = worker.slab.read(mark)
        except (ValueError, TypeError, EOFError):
            return []  # somebody has written over it
        batches = worker.seat.batches
        return noted if batches and _belong_to(batches[0], noted, {}) else []

    # ---- telling; the lock is free

    def tell(self, told: Told, worker: WorkerProcess) -> None:
        """Tell sinks of the calls that a worker answered."""
        index, pid = worker.index, worker.pid
        for sink, record in zip(*told, strict=True):
            if sink is not None:
                try:
                    sink.heard(record, index, pid)
                except Exception:
                    sys.excepthook(*sys.exc_info())

    def tell_soon(self, sink: Sink, record: Record) -> None:
        """Have the I/O thread tell this; the lock may be held."""
        self._late.append((sink, record, None, None))

    @property
    def has_more(self) -> bool:
        """Whether something is still to be told."""
        return bool(self._late)

    def tell_late(self) -> None:
        """Tell what could not be told when it happened."""
        while self._late:
            sink, record, worker, pid = self._late.popleft()
            try:
                sink.heard(record, worker, pid)
            except Exception:
                sys.excepthook(*sys.exc_info())


def _belong_to(batch: dict[int, Entry], answers: list[Record], left: dict[int, Any]) -> bool:
    """Whether these answer calls of this batch, and all of its calls that are in `left`."""
    try:
        if len(answers) == len(batch) == 1:  # as usual
            number, kind, seconds, payload = answers[0]
            return number in batch and _is_answer(kind, seconds, payload)
        numbers = {number for number, kind, seconds, payload in answers if _is_answer(kind, seconds, payload)}
    except (TypeError, ValueError):
        return False
    return len(numbers) == len(answers) and numbers <= batch.keys() and left.keys() & batch.keys() <= numbers


def _is_answer(kind: Any, seconds: Any, payload: Any) -> bool:
    if type(seconds) is not float:
        return False
    if kind == RETURNED:
        return type(payload) is bytes
    return type(payload) is tuple and len(payload) == 5 if kind == RAISED else kind == LARGE


def _with_files(answers: list[Record], channel: Channel) -> list[Record]:
    """Records that came with memory files: values that only have sizes have one each."""
    files = channel.files
    try:
        return [
            (number, LARGE, seconds, Received(files.popleft(), payload) if files or not channel.cut else Missing())
            if kind == RETURNED and type(payload) is tuple
            else (number, kind, seconds, payload)
            for number, kind, seconds, payload in answers
        ]
    except (TypeError, ValueError, IndexError):
        raise NoMessage("other memory files than it speaks of") from None
