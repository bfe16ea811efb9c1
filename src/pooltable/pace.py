"""How much, how fast, and when to stop: the runner's decisions, as pure book-keeping without clock or I/O."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from pooltable.errors import SettingError


@dataclass(frozen=True)
class Pace:
    """The runner's rhythm, in seconds where not said otherwise.

    `lease`: how long rows stay ours without a sign of life. `grace`: how long running rows may go on after a stop
    request. `halt`: so many rows in a row that failed alike end the run (0: never). `wait`: wait for rows that are
    under back-off. `db_wait`: patience with a database that is away, None without end; at the start of a run None is no
    patience.
    """

    lease: float = 30.0
    grace: float = 8.0
    halt: int = 20
    wait: bool = True
    db_wait: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("lease", 0.1), ("grace", 0), ("halt", 0), ("db_wait", 0)):
            number = getattr(self, name)
            if number is None and name == "db_wait":
                continue
            if isinstance(number, bool) or not isinstance(number, int | float) or not number >= least:
                raise SettingError(f"Pace({name}={number!r}): give a number from {least} up")


class Room:
    """How many rows to hold: enough that no worker idles, few enough that a claimed row is soon run.

    One row runs in each worker; ahead of it wait as many as fill one claim's round trip, or 50 ms if that is more. With
    `batch` it is whole batches, and at least one of them waits. Rows are bounded, and so are the bytes of their
    columns.
    """

    AHEAD_SECONDS = 0.05
    MOST_ROWS = 1000  # per worker: past this a claim costs no less per row
    MOST_BYTES = 64 * 2**20
    READ_AT_ONCE = 200  # rows: how large they are is known only when they were read

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        self.row_seconds: float | None = None
        self.row_bytes = 0.0
        self.claim_seconds = 0.0

    def saw_rows(self, count: int, seconds: float) -> None:
        """`count` rows ran for `seconds` in all."""
        mean = seconds / count
        # The first rows pay for imports and caches, so what comes later soon outweighs them.
        weight = min(0.5, 0.05 * count) if self.row_seconds is not None else 1.0
        self.row_seconds = mean if self.row_seconds is None else self.row_seconds + weight * (mean - self.row_seconds)

    def saw_claim(self, seconds: float) -> None:
        self.claim_seconds += 0.3 * (seconds - self.claim_seconds)

    def saw_bytes(self, count: int, size: int) -> None:
        mean = size / count
        # A jump up counts at once: it is what fills the memory.
        self.row_bytes = max(mean, self.row_bytes + 0.2 * (mean - self.row_bytes))

    def per_worker(self) -> int:
        if self.batch > 1:
            most = max(2, self.MOST_ROWS // self.batch)
            return self.batch * min(most, max(2, math.ceil(self._rows_per_worker() / self.batch)))
        return self._rows_per_worker()

    def _rows_per_worker(self) -> int:
        if self.row_seconds is None:
            return 1
        ahead = max(self.AHEAD_SECONDS, self.claim_seconds) / max(self.row_seconds, 1e-6)
        # Rounded at a quarter: a row of up to 0.2 s gets one ahead, a longer one loses less than 1 % to the wait for it
        # and would be DOING for long before it is run.
        return min(self.MOST_ROWS, 1 + math.ceil(ahead - 0.25))

    def free(self, workers: int, held: int) -> int:
        """How many more rows may be claimed for so many ready workers when so many are held."""
        rows = workers * self.per_worker()
        if self.row_bytes > 0:
            rows = min(rows, max(workers, int(self.MOST_BYTES / self.row_bytes)))
        return max(0, rows - held)

    def to_read(self, held_bytes: int) -> int:
        """How many claimed rows may be read at once when the columns of those held take so many bytes."""
        left = self.MOST_BYTES - held_bytes
        return min(self.READ_AT_ONCE, int(left / max(self.row_bytes, 1.0))) if left > 0 else 0


class Burst:
    """Notices when everything fails alike: `limit` ends in a row, across workers, of one kind of failure."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.kind = ""
        self.count = 0

    def saw(self, kind: str) -> bool:
        """One end: the kind of its failure, or "" for a success. True when the burst is complete."""
        self.count = self.count + 1 if kind and kind == self.kind else int(bool(kind))
        self.kind = kind
        return bool(self._limit) and self.count >= self._limit

    def reset(self) -> None:
        self.kind, self.count = "", 0


class Streaks:
    """Notices a worker that fails one row after another while others succeed: something in it is broken for good."""

    FAILURES = 10  # in a row, and at least so many rows of other workers meanwhile
    OTHERS = 0.75  # the part of those that must have succeeded

    def __init__(self) -> None:
        self._ends = 0
        self._successes = 0
        self._since: dict[int, tuple[int, int, int]] = {}  # worker -> its failures in a row, ends and successes before

    def saw(self, worker: int, failed: bool) -> bool:
        """One end in that worker. True when it should be replaced."""
        self._ends += 1
        self._successes += not failed
        if not failed:
            if self._since:
                self._since.pop(worker, None)
            return False
        count, ends, successes = self._since.get(worker, (0, self._ends - 1, self._successes))
        count += 1
        self._since[worker] = count, ends, successes
        others = self._ends - ends - count
        if count < self.FAILURES or others < self.FAILURES or self._successes - successes < self.OTHERS * others:
            return False
        self.forget(worker)
        return True

    def forget(self, worker: int) -> None:
        """That worker is gone."""
        self._since.pop(worker, None)


class Step(IntEnum):
    """How far a stop has gone; it only grows."""

    RUN = 0  # nothing was asked
    DRAIN = 1  # claim no more, let what runs end
    NOW = 2  # kill what runs, give its rows back
    LEAVE = 3  # at once, without the database


class Ladder:
    """The stopping ladder: each request is one step down, and the grace period takes the second step by itself."""

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.step = Step.RUN
        self._drain_since = 0.0

    def look(self, requests: int, now: float) -> Step:
        """Where the stop stands at `now`, after so many requests."""
        asked = Step(min(requests, Step.LEAVE))
        if self.step < Step.DRAIN <= asked:
            self._drain_since = now
        self.step = max(self.step, asked)
        if self.step is Step.DRAIN and now >= self._drain_since + self.grace:
            self.step = Step.NOW
        return self.step

    def seconds_left(self, now: float) -> float | None:
        """Until the next step that comes by itself."""
        return max(0.0, self._drain_since + self.grace - now) if self.step is Step.DRAIN else None


class Pulse:
    """When to look for new rows while there is nothing to do: soon after work was seen, then slower, up to the poll."""

    QUICKEST = 0.05

    def __init__(self, poll: float) -> None:
        self._poll = poll
        self.pause = min(self.QUICKEST, poll)

    def saw_work(self) -> None:
        self.pause = min(self.QUICKEST, self._poll)

    def saw_nothing(self) -> float:
        """Seconds until the next look."""
        pause = self.pause
        self.pause = min(self.pause * 2, self._poll)
        return pause


class Probe:
    """How often a server is asked whether a row waits, by one cheap statement outside any transaction: quickly while
    there was work in the last minute, then ever more rarely, never more rarely than the poll.

    It takes at most one part in twenty of the time in that minute, and later, when it may go on for days, one in 400:
    with what the server does for it that is under 1 % of a core. Where it finds rows in vain, because others have them
    locked, it asks half as often each time.
    """

    QUICKEST = 0.02
    QUICK_SECONDS = 60.0
    PART = 20
    LATER_PART = 400

    def __init__(self, poll: float, now: float) -> None:
        self._poll = poll
        self._work_at = self._asked_at = now
        self._costs: deque[float] = deque(maxlen=16)
        self._in_vain = 0.0

    def saw_work(self, now: float) -> None:
        """Rows were claimed."""
        self._work_at = now
        self._in_vain = 0.0

    def saw_answer(self, found: bool, asked_at: float, seconds: float) -> None:
        """It was asked then, and the answer took so long."""
        self._asked_at = asked_at
        self._costs.append(seconds)
        if found:
            self._in_vain = max(self.QUICKEST, 2 * self._in_vain)

    @property
    def next(self) -> float:
        """When to ask next, by the monotonic clock."""
        idle = self._asked_at - self._work_at
        # The shortest of the last answers is what it costs: on a busy machine the others were waited for.
        part = self.PART if idle <= self.QUICK_SECONDS else self.LATER_PART
        cost = part * min(self._costs, default=0.0)
        pause = max(self.QUICKEST * max(1.0, idle / self.QUICK_SECONDS), cost, self._in_vain)
        return self._asked_at + min(pause, self._poll)


class Appetite:
    """When to claim: whenever there is room, until a claim comes back short; then at the pulse, when the next row under
    back-off is due, or when hurried. Not at all while halted."""

    def __init__(self, poll: float) -> None:
        self.dry = False  # the last claim came back short: nothing more was to be had
        self._pulse = Pulse(poll)
        self._pulse_at = 0.0
        self._at = 0.0
        self._rests_until = 0.0

    @property
    def next(self) -> float:
        """When to claim next, by the monotonic clock."""
        return max(self._at, self._rests_until)

    def saw(self, claims: int, room: int, now: float, due_in: float | None) -> None:
        """A claim for so many rows came back with so many; in `due_in` seconds the first row under back-off is due."""
        self.dry = claims < room
        if claims:
            self._pulse.saw_work()
            self._pulse_at = 0.0
        self._at = 0.0
        if self.dry:
            # A claim between two pulses, for a row that is due or a change, does not make the pulse slower.
            if now >= self._pulse_at:
                self._pulse_at = now + self._pulse.saw_nothing()
            self._at = self._pulse_at if due_in is None else min(self._pulse_at, now + due_in)

    def hurry(self, at: float = 0.0) -> None:
        """There may be something to claim, now or from then on."""
        self._at = min(self._at, at)

    def rest(self, until: float) -> None:
        """Claim nothing before then, whoever hurries."""
        self._rests_until = until
