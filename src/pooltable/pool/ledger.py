"""The book-keeping of an engine: which call waits, which was sent to whom, who may start, what comes next.

    accept -> waiting -> next_batch -> sent -> answered
                 ^                       |
                 +---- recalled, died ---+

Pure: it is told what happened and answers what to do, knows no process, clock or socket, and takes no lock (the engine
holds one, but for `accept`). Calls are numbers and plain tuples, because this runs for every call.

A worker gets calls in batches of about two milliseconds' worth, by the measured pace of the function, and one batch
ahead, so that short calls cost few messages. Calls that were sent and not started can be taken back from the tail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count, islice, repeat
from typing import Any, NamedTuple

from pooltable.pool.buffers import Parcel

STARTING = "starting"
READY = "ready"
LEAVING = "leaving"

# One batch: so many seconds of work, calls, bytes. Calls that take longer than _AHEAD are not sent ahead of time: the
# gap between two of them is not worth it.
_WINDOW = 0.002
_AHEAD = 0.01
_CALLS = 512
_BYTES = 49152
# So many failures to start in a row, and nobody who works: no worker can be started.
TRIES = 3

# What is sent of a call: its number, the number of its function or -1, its pickled arguments.
Payload = bytes | Parcel
Entry = tuple[int, int, Payload]


class Seat:
    """One worker, as the ledger sees it."""

    __slots__ = ("answered", "batches", "index", "recalled", "room", "since", "state", "tokened")

    def __init__(self, index: int, room: int | None) -> None:
        self.index = index
        self.state = STARTING
        # The batches that it has not come to the end of, oldest first. What is answered stays until its batch ends.
        self.batches: list[dict[int, Entry]] = []
        self.tokened = False  # whether the batch sent last can be recalled
        self.recalled = 0  # calls taken back that it has not yet told us it dropped
        self.room = room  # calls it may still be sent before it is replaced
        self.answered = 0
        self.since = 0.0  # when it became what it is: for people, and for who has been idle for long

    def has(self, number: int) -> bool:
        """Whether it was sent this call, in a batch that has not ended."""
        return any(number in batch for batch in self.batches)


class Death(NamedTuple):
    """What a worker's death means: the call it was running, if any, and whether it had never done anything."""

    lost: int | None
    useless: bool


class Ledger:
    """The books of one engine with up to `size` workers; `batching` where calls that were sent can be taken back."""

    def __init__(self, size: int, minimum: int = 0, lifetime: int | None = None, batching: bool = True) -> None:
        self.size = size
        self.minimum = minimum
        self.lifetime = lifetime
        self.batching = batching
        self.calls: dict[int, Any] = {}  # every open call's sink
        self.limits: dict[int, float] = {}  # of those calls that have one
        self.waiting: deque[Entry] = deque()
        self.seats: dict[int, Seat] = {}
        self.idle: dict[int, Seat] = {}  # in the order they became idle; the last one is the warmest
        self.pace: dict[int, float] = {}
        self.ready = 0
        self.starting = 0
        self.failures = 0
        self.closed = False
        self.number = 0
        self._numbers = count(1)
        self.recalls = 0
        self._largest = 0  # of the pickled arguments that wait

    # ---- calls

    def accept(self, sink: Any, name: int, payload: Payload, limit: float | None = None) -> int:
        """A new call, which waits; gives its number. The one thing that is done without the engine's lock: each step is
        complete in itself, and the call is there with the last one."""
        self.number = number = next(self._numbers)
        if limit is not None:
            self.limits[number] = limit
        if len(payload) > self._largest:
            self._largest = len(payload)
        self.calls[number] = sink
        self.waiting.append((number, name, payload))
        return number

    def accept_all(self, sink: Any, name: int, payloads: Sequence[Payload], limit: float | None = None) -> list[int]:
        """As many calls of one function for one sink, one after the other."""
        numbers = list(islice(self._numbers, len(payloads)))
        self.number = numbers[-1]
        if limit is not None:
            self.limits.update(dict.fromkeys(numbers, limit))
        self._largest = max(self._largest, *map(len, payloads))
        self.calls.update(dict.fromkeys(numbers, sink))
        self.waiting.extend(zip(numbers, repeat(name), payloads))
        return numbers

    def warmest(self) -> Seat:
        """The worker that became idle last."""
        return next(reversed(self.idle.values()))

    def is_waiting(self, number: int) -> bool:
        """Whether this call is open and nobody was sent it. Who ends it may leave its entry in `waiting`: there it is
        skipped, and to look for it would take as long as the queue is."""
        return number in self.calls and self.holder(number) is None

    def holder(self, number: int) -> Seat | None:
        """The worker that was sent this call and has not answered it."""
        if number not in self.calls:
            return None
        return next((seat for seat in self.seats.values() if seat.has(number)), None)

    def next_batch(self, seat: Seat) -> dict[int, Entry]:
        """The calls that this worker should be sent now, oldest first; from now on they count as sent."""
        if not self.waiting or seat.state != READY or seat.recalled or len(seat.batches) > 1 or seat.room == 0:
            return {}
        ahead = len(seat.batches) == 1
        if ahead and (self.idle or not self.batching):
            return {}
        batch = self._choose(seat, ahead)
        if not self.waiting:
            self._largest = 0
        if batch:
            self._count(seat, batch, ahead or len(batch) > 1)
        return batch

    def _choose(self, seat: Seat, ahead: bool) -> dict[int, Entry]:
        waiting, calls, paces, limits = self.waiting, self.calls, self.pace, self.limits
        most = min(_CALLS, len(waiting) // (2 * self.ready) + 1, _BYTES // (self._largest + 1) + 1)
        if not self.batching:
            most = 1
        if seat.room is not None:
            most = min(most, seat.room)
        batch: dict[int, Entry] = {}
        seconds = 0.0
        known: int | None = None
        pace: float | None = None
        while waiting and len(batch) < most:
            entry = waiting[0]
            number, name, _ = entry
            if number not in calls:  # it was ended while it waited
                waiting.popleft()
                continue
            if name != known:
                known, pace = name, paces.get(name)
            if pace is None or (limits and number in limits):
                # Of unknown length, or with a limit that is counted from its start: alone, to a worker that is idle.
                if not batch and not ahead:
                    batch[number] = waiting.popleft()
                break
            seconds += pace
            if (batch and seconds > _WINDOW) or (ahead and (pace > _AHEAD or self._largest > _BYTES)):
                break
            batch[number] = waiting.popleft()
        return batch

    def _count(self, seat: Seat, batch: dict[int, Entry], tokened: bool) -> None:
        seat.batches.append(batch)
        seat.tokened = tokened
        if seat.room is not None:
            seat.room -= len(batch)
        self.idle.pop(seat.index, None)

    def batch_ended(self, seat: Seat, dropped: int) -> None:
        """The worker has come to the end of a batch, of whose calls it found so many recalled."""
        del seat.batches[0]
        if dropped:
            seat.recalled -= min(dropped, seat.recalled)

    def note_pace(self, name: int, seconds: float) -> None:
        """A function took so long per call. One slow call among many fast ones does not make the function slow."""
        known = self.pace.get(name)
        self.pace[name] = seconds if known is None else known + 0.25 * (min(seconds, 8 * known + 1e-5) - known)

    def note_answers(self, seat: Seat, count: int) -> None:
        """The worker has answered so many calls: it is of use, and whatever failed before it could be started."""
        if count:
            if not seat.answered:
                # Of a worker that came after the failures; one that works all along says nothing about them.
                self.failures = 0
            seat.answered += count

    def can_recall(self, seat: Seat) -> bool:
        """Whether anything is left of the batch that was sent to this worker last."""
        return bool(seat.tokened and any(seat.batches))

    def recall(self, seat: Seat) -> int:
        """The last call sent to this worker is taken back: the caller holds its token. It waits again, before all."""
        batch = next(batch for batch in reversed(seat.batches) if batch)
        number, entry = batch.popitem()
        seat.recalled += 1
        self.recalls += 1
        self.waiting.appendleft(entry)
        self._largest = max(self._largest, len(entry[2]))
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
        useless = not seat.answered and not seat.has(started)
        lost = started if started in self.calls and seat.has(started) else None
        self.remove(seat)
        self.take_back(seat, lost)
        return Death(lost, useless)

    def take_back(self, seat: Seat, lost: int | None = None) -> None:
        """It begins nothing more: what it was sent and has not answered waits again, in order, but for the call that is
        `lost`."""
        entries = [
            entry
            for batch in seat.batches
            for number, entry in batch.items()
            if number in self.calls and number != lost
        ]
        seat.batches.clear()  # its worker is remembered for a while, and what it was sent may be large
        self.waiting.extendleft(reversed(entries))
        self._largest = max([self._largest, *(len(entry[2]) for entry in entries)])

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
