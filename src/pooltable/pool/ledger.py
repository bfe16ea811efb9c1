"""The book-keeping of an engine: which call waits, which was sent to whom, who may start, what comes next.

    accept -> waiting -> next_batch -> sent -> answered
                 ^                       |
                 +---- recalled, died ---+

Pure: it is told what happened and answers what to do, knows no process, clock or socket, and takes no lock (the engine
holds one). Calls are numbers and plain tuples, because this runs for every call.

A worker gets calls in batches of about a millisecond's worth, by the measured pace of the function, and one batch
ahead, so that short calls cost few messages. Calls that were sent and not started can be taken back from the tail.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

STARTING = "starting"
READY = "ready"
LEAVING = "leaving"

# One batch: so many seconds of work, calls, bytes. Calls that take longer than _AHEAD are not sent ahead of time: the
# gap between two of them is not worth it.
_WINDOW = 0.001
_AHEAD = 0.01
_CALLS = 512
_BYTES = 49152
# So many failures to start in a row, and nobody who works: no worker can be started.
TRIES = 3

# A call: its sink, the number of its function or -1, its pickled arguments, its time limit.
Call = tuple[Any, int, bytes, float | None]


class Seat:
    """One worker, as the ledger sees it."""

    __slots__ = ("answered", "batches", "index", "recalled", "room", "sent", "since", "state", "tokened")

    def __init__(self, index: int, room: int | None) -> None:
        self.index = index
        self.state = STARTING
        self.sent: dict[int, None] = {}  # calls sent and not answered, in order
        self.batches = 0  # whose end it has not told yet
        self.tokened = False  # whether the batch sent last can be recalled
        self.recalled = 0  # calls taken back that it has not yet told us it dropped
        self.room = room  # calls it may still be sent before it is replaced
        self.answered = 0
        self.since = 0.0  # when it became what it is: for people, and for who has been idle for long

    @property
    def idle(self) -> bool:
        return self.state == READY and not self.batches


class Death(NamedTuple):
    """What a worker's death means: the call it was running, if any, and whether it had never done anything."""

    lost: int | None
    useless: bool


class Ledger:
    """The books of one engine with up to `size` workers."""

    def __init__(self, size: int, minimum: int = 0, lifetime: int | None = None) -> None:
        self.size = size
        self.minimum = minimum
        self.lifetime = lifetime
        self.calls: dict[int, Call] = {}
        self.waiting: deque[int] = deque()
        self.seats: dict[int, Seat] = {}
        self.idle: dict[int, Seat] = {}  # in the order they became idle; the last one is the warmest
        self.pace: dict[int, float] = {}
        self.ready = 0
        self.starting = 0
        self.failures = 0
        self.closed = False
        self.number = 0

    # ---- calls

    def accept(self, sink: Any, name: int, payload: bytes, limit: float | None) -> int:
        """A new call, known from now on; it is the caller's to hand it to an idle worker or to let it wait."""
        self.number = number = self.number + 1
        self.calls[number] = (sink, name, payload, limit)
        return number

    def is_waiting(self, number: int) -> bool:
        """Whether this call is open and nobody was sent it. Who ends it may leave its number in `waiting`: there it is
        skipped, and to look for it would take as long as the queue is."""
        return number in self.calls and self.holder(number) is None

    def holder(self, number: int) -> Seat | None:
        """The worker that was sent this call."""
        return next((seat for seat in self.seats.values() if number in seat.sent), None)

    def next_batch(self, seat: Seat) -> list[int]:
        """The calls that this worker should be sent now, oldest first; from now on they count as sent."""
        waiting = self.waiting
        if not waiting or seat.state != READY or seat.recalled or seat.batches > 1 or seat.room == 0:
            return []
        ahead = seat.batches == 1
        if ahead and self.idle:
            return []
        batch = self._choose(seat, ahead)
        if batch:
            self._count(seat, batch, ahead or len(batch) > 1)
        return batch

    def _choose(self, seat: Seat, ahead: bool) -> list[int]:
        waiting, calls, paces = self.waiting, self.calls, self.pace
        most = min(_CALLS, len(waiting) // (2 * self.ready) + 1)
        if seat.room is not None:
            most = min(most, seat.room)
        batch: list[int] = []
        seconds = 0.0
        size = 0
        while waiting and len(batch) < most:
            number = waiting[0]
            call = calls.get(number)
            if call is None:  # it was cancelled
                waiting.popleft()
                continue
            pace = paces.get(call[1])
            if pace is None or call[3] is not None:
                # Of unknown length, or with a limit that is counted from its start: alone, to a worker that is idle.
                if not batch and not ahead:
                    batch.append(waiting.popleft())
                break
            seconds += pace
            size += len(call[2])
            if batch and (seconds > _WINDOW or size > _BYTES):
                break
            if ahead and (pace > _AHEAD or size > _BYTES):
                break
            batch.append(waiting.popleft())
        return batch

    def _count(self, seat: Seat, batch: list[int], tokened: bool) -> None:
        seat.sent.update(dict.fromkeys(batch))
        seat.batches += 1
        seat.tokened = tokened
        if seat.room is not None:
            seat.room -= len(batch)
        self.idle.pop(seat.index, None)

    def send_one(self, number: int) -> Seat | None:
        """An idle worker for this new call, which counts as sent to it; None if it must wait, and then it does."""
        if self.idle and not self.waiting:
            _, seat = self.idle.popitem()
            seat.sent[number] = None
            seat.batches = 1
            seat.tokened = False
            if seat.room is not None:
                seat.room -= 1
            return seat
        self.waiting.append(number)
        return None

    def batch_ended(self, seat: Seat, dropped: int) -> None:
        """The worker has come to the end of a batch, of whose calls it found so many recalled."""
        seat.batches -= 1
        if dropped:
            seat.recalled -= min(dropped, seat.recalled)

    def note_pace(self, name: int, seconds: float) -> None:
        """A function took so long per call. One slow call among many fast ones does not make the function slow."""
        known = self.pace.get(name)
        self.pace[name] = seconds if known is None else known + 0.25 * (min(seconds, 8 * known + 1e-5) - known)

    def recall(self, seat: Seat) -> int:
        """The last call sent to this worker is taken back: the caller holds its token. It waits again, before all
        others."""
        number, _ = seat.sent.popitem()
        seat.recalled += 1
        self.waiting.appendleft(number)
        if seat.room is not None:
            seat.room += 1
        return number

    # ---- workers

    def missing(self) -> int:
        """How many more workers should be started now."""
        wanted = 0 if self.idle else len(self.waiting) - self.starting
        if not self.closed:
            wanted = max(wanted, self.minimum - len(self.seats))
        return max(0, min(self.size - len(self.seats), wanted))

    def seat_new(self) -> Seat:
        """A seat for a worker that is about to be started."""
        index = next(index for index in range(self.size) if index not in self.seats)
        seat = self.seats[index] = Seat(index, self.lifetime)
        self.starting += 1
        return seat

    def became_ready(self, seat: Seat) -> None:
        """Its initializer has returned. The caller looks for work for it."""
        seat.state = READY
        self.starting -= 1
        self.ready += 1
        self.failures = 0

    def became_idle(self, seat: Seat) -> None:
        """It has no call any more, and there is none for it."""
        self.idle[seat.index] = seat

    def leaves(self, seat: Seat) -> None:
        """It is to be sent nothing any more. What it has not started goes elsewhere when it is gone."""
        self.idle.pop(seat.index, None)
        if seat.state == STARTING:
            self.starting -= 1
        elif seat.state == READY:
            self.ready -= 1
        seat.state = LEAVING

    def remove(self, seat: Seat) -> None:
        """There is no such worker any more, or there was never one."""
        self.leaves(seat)
        del self.seats[seat.index]

    def gone(self, seat: Seat, started: int) -> Death:
        """Its process has ended; `started` is the call it began last. What it had not begun waits again, in order."""
        useless = not seat.answered and started not in seat.sent
        self.remove(seat)
        lost = started if started in seat.sent and started in self.calls else None
        again = [number for number in seat.sent if number != started and number in self.calls]
        self.waiting.extendleft(reversed(again))
        seat.sent.clear()
        return Death(lost, useless)

    def start_failed(self) -> float | None:
        """A worker could not start. Seconds to wait before the next try, or None: give up."""
        self.failures += 1
        if self.failures >= TRIES and not self.ready:
            return None
        return float(min(30.0, 0.05 * 2**self.failures))

    def over_time(self, now: float, timeout: float) -> list[Seat]:
        """Workers that have been idle for longer than `timeout` and are more than the minimum."""
        spare = self.ready + self.starting - self.minimum
        late = [seat for seat in self.idle.values() if now - seat.since >= timeout]
        return late[: max(spare, 0)]
