"""The rows that a run has in its hands, from the claim until the end of their attempt is written.

    claimed --read--> sent to the crew --answer, judge--> ended --finish--> written
        |        |            ^                             ^ |
        |        +-- gathered to a batch, where asked for   | +--> locked by another transaction: again, later
        +---- gone, or not wanted any more -----------------+

Only the runner's thread touches them; the database's side of every step is the runner's. Of what a task returned or
raised it sees plain values and words: nothing of a row's is rebuilt here, or asked, that could stop the thread.
"""

from __future__ import annotations

import math
import pickle
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pooltable.batches import End, Going
from pooltable.crew import Answer, Crew, Inbox
from pooltable.errors import CannotStore, TimeLimitExceeded, WorkerLost
from pooltable.outcomes import CANCELLED, NOTHING, Failure, Raised, RowOutcome, Stored, failure_of
from pooltable.pace import Room, Streaks
from pooltable.reporter import Ended, Reporter
from pooltable.rows import Row, key_text
from pooltable.table.states import Claim, Fate, Finish, Released, Retry, judge
from pooltable.tasks import mark_of

GATHER_SECONDS = 0.02  # how long an end may wait for others to share its commit; the promise is 50 ms with the commit
LOCKED_SECONDS = 0.2  # before a row that another transaction holds is tried again
BATCH_SECONDS = 0.05  # how long an idle worker may wait for a batch to fill up


@dataclass(slots=True)
class Held:
    """A row that was read, and the bytes that are known of it. `disowned`: its claim was lost meanwhile."""

    claim: Claim
    row: Row
    size: int
    disowned: bool = False


Sent = tuple[Held, ...]  # what the crew was given in one call and has not answered: one row, or a batch


class Hands:
    """Every row of a run that was claimed and is not written yet, in the order of its way."""

    def __init__(
        self, crew: Crew, inbox: Inbox, reporter: Reporter, retry: Retry, batch: int = 1, drop_results: bool = False
    ) -> None:
        self.room = Room(batch)
        self._batch = batch
        self._drop_results = drop_results
        self._crew = crew
        self._inbox = inbox
        self._reporter = reporter
        self._retry = retry
        self._streaks = Streaks()
        self._claimed: list[Claim] = []
        self._gathered: list[Held] = []
        self._gather_until = 0.0
        self._sent: dict[int, Sent] = {}
        self._sent_rows = 0
        self._bytes = 0  # of what was gathered and sent
        self._ended: list[Ended] = []
        self._ended_since = 0.0
        self.dropped: Claim | None = None  # the first row whose value has nowhere to go

    def __len__(self) -> int:
        """How many rows wait for their turn or run."""
        return len(self._claimed) + len(self._gathered) + self._sent_rows

    @property
    def calls(self) -> int:
        """How many answers are still to come."""
        return len(self._sent)

    @property
    def empty(self) -> bool:
        return not (self._claimed or self._gathered or self._sent or self._ended)

    @property
    def claims(self) -> frozenset[int]:
        """The number of every claim whose end is not written yet.

        Numbers and not keys: where 'a' and 'A' are the same, row and entry may spell theirs differently.
        """
        read = [*self._gathered, *(held for sent in self._sent.values() for held in sent)]
        claims = [*self._claimed, *(held.claim for held in read), *(ended.finish.claim for ended in self._ended)]
        return frozenset(claim.claim_no for claim in claims)

    @property
    def only_locked(self) -> bool:
        """Whether all that is left was ended, and is locked by another transaction."""
        return not len(self) and all(ended.not_before for ended in self._ended)

    # ---- claimed

    def take(self, claims: Sequence[Claim]) -> None:
        self._claimed += claims

    def to_read(self) -> list[Claim]:
        """The claims whose rows are to be read and sent now: as many as the bytes allow of what is under way."""
        count = self.room.to_read(self._bytes)
        return self._claimed[: count if self._sent or self._gathered else max(1, count)]

    def send(self, rows: Sequence[Row | Exception | None]) -> None:
        """These are the rows of `to_read`: None for one that is gone, an error for one that cannot be read."""
        claims, self._claimed = self._claimed[: len(rows)], self._claimed[len(rows) :]
        size = 0
        alone = []
        for claim, row in zip(claims, rows, strict=True):
            if isinstance(row, Row):
                held = Held(claim, row, _bytes_of(row))
                size += held.size
                if self._batch == 1:
                    alone.append(held)
                elif claim.alone:
                    self._send((held,))
                else:
                    self._gathered.append(held)
                    self._bytes += held.size
            elif row is None:
                # The finish finds out that it is gone, and says so.
                self._note(Finish(claim, Released()), None, None)
            else:
                self._cannot_run(claim, row)
        if alone:
            self._send_each(alone)
        if rows:
            self.room.saw_bytes(len(rows), size)

    def send_batches(self, now: float, more: bool) -> None:
        """Send what was gathered: full batches, and to a worker that is idle also fewer rows, when a while has passed
        or no `more` are to be had."""
        while len(self._gathered) >= self._batch:
            self._send_gathered(self._batch)
        if not self._gathered or len(self._sent) >= self._crew.ready:
            self._gather_until = 0.0
        elif more and not self._gather_until:
            self._gather_until = now + BATCH_SECONDS
        elif not more or now >= self._gather_until:
            self._gather_until = 0.0
            share = math.ceil(len(self._gathered) / (self._crew.ready - len(self._sent)))
            while self._gathered:
                self._send_gathered(share)

    @property
    def next_send(self) -> float | None:
        """When an idle worker is to have what was gathered, by the monotonic clock."""
        return self._gather_until or None

    def _send_gathered(self, count: int) -> None:
        batch, self._gathered = self._gathered[:count], self._gathered[count:]
        self._bytes -= sum(held.size for held in batch)
        self._send(tuple(batch))

    def _send_each(self, rows: list[Held]) -> None:
        """Each in a call of its own."""
        at = 0
        while at < len(rows):
            calls = self._crew.send_each([_going(held) for held in rows[at:]])
            sent = rows[at : at + len(calls)]
            self._note_sent(zip(calls, zip(sent, strict=True), strict=True), sent)
            at += len(sent)
            if at < len(rows):
                self._send((rows[at],))
                at += 1

    def _send(self, sent: Sent) -> None:
        try:
            if self._batch == 1:
                call = self._crew.send(*_going(sent[0]))
            else:
                call = self._crew.send_batch(tuple(map(_going, sent)))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            # A value of the driver's own that cannot travel: the row pays for it, not the run.
            if len(sent) > 1:
                for held in sent:
                    self._send((held,))
            else:
                self._cannot_run(sent[0].claim, error)
        else:
            self._note_sent(((call, sent),), sent)

    def _note_sent(self, calls: Iterable[tuple[int, Sent]], rows: Sequence[Held]) -> None:
        """These calls were sent, with these rows in all."""
        self._sent.update(calls)
        self._sent_rows += len(rows)
        self._bytes += sum(held.size for held in rows)

    def _cannot_run(self, claim: Claim, error: Exception) -> None:
        outcome = failure_of(CannotStore(f"the row cannot be given to the task: {type(error).__name__}: {error}"))
        self._note(Finish(claim, judge(outcome, claim, self._retry)), None, outcome)

    # ---- what is not wanted any more

    def give_back(self) -> None:
        """Release what was not sent yet."""
        claims = [held.claim for held in self._gathered] + self._claimed
        self._bytes -= sum(held.size for held in self._gathered)
        self._claimed, self._gathered = [], []
        for claim in claims:
            self._note(Finish(claim, Released()), None, None)

    def recall(self, kill: bool) -> None:
        """Take back what has not started, and with `kill` end what runs. All of it is answered."""
        self.give_back()
        for call in list(self._sent):
            self._crew.cancel(call, kill)

    def keep(self, kept: frozenset[int]) -> int:
        """Only the claims with these numbers are still ours: end the others. How many they were."""

        def is_ours(claim: Claim) -> bool:
            return claim.claim_no in kept

        before = len(self)
        self._claimed = [claim for claim in self._claimed if is_ours(claim)]
        self._bytes -= sum(held.size for held in self._gathered if not is_ours(held.claim))
        self._gathered = [held for held in self._gathered if is_ours(held.claim)]
        count = before - len(self)
        for call, sent in list(self._sent.items()):
            for held in sent:
                if not held.disowned and not is_ours(held.claim):
                    held.disowned = True
                    count += 1
            # A batch goes on for the sake of those that are still ours.
            if all(held.disowned for held in sent):
                self._crew.cancel(call, kill=True)
        return count

    # ---- ended

    def collect(self) -> None:
        """Judge what the crew has answered."""
        count = 0
        took: list[float] = []
        for call, answer in self._inbox.collect():
            sent = self._sent.pop(call)
            self._sent_rows -= len(sent)
            for held, outcome, seconds in self._ends_of(sent, answer):
                self._bytes -= held.size
                if not held.disowned:
                    finish = self._finish_of(held.claim, answer, outcome, seconds, sent)
                    self._note(finish, held.row, outcome, len(sent) > 1 and _is_lost(outcome))
                self._judge_worker(answer.pid, outcome)
            if answer.seconds:
                count += len(sent)
                took.append(answer.seconds)
        if took:
            self._reporter.ran(took)
            self.room.saw_rows(count, sum(took))

    def _ends_of(self, sent: Sent, answer: Answer) -> Sequence[tuple[Held, RowOutcome, float]]:
        """How each row of a call ended, and in how many seconds."""
        outcome = answer.outcome()
        if isinstance(outcome, Raised):
            error = outcome.error
            if len(sent) > 1 and isinstance(error, TimeLimitExceeded):
                # Which of them took the time shows when each runs alone.
                told = f"the batch of {len(sent)} rows ran longer than its time limit of {error.seconds:g} s"
                error = WorkerLost(answer.pid or 0, None, told)
            seconds = answer.seconds / len(sent)
            return [(held, _failure_of(held.claim, error), seconds) for held in sent]
        if self._batch == 1:
            return ((sent[0], self._taken(sent[0].claim, outcome.value), answer.seconds),)
        ends: list[End] = outcome.value  # type: ignore[assignment]
        return [(held, self._taken(held.claim, end.ended), end.seconds) for held, end in zip(sent, ends, strict=True)]

    def _taken(self, claim: Claim, ended: Any) -> RowOutcome:
        """What a worker told of a row; None says that the task returned None."""
        if ended is None:
            return NOTHING
        if isinstance(ended, Stored) and ended.dropped and not self._drop_results:
            # Nothing is lost that way: the row is run again where its value has a place.
            self.dropped = self.dropped or claim
            return CANCELLED
        return ended  # type: ignore[no-any-return]

    def _judge_worker(self, pid: int | None, outcome: RowOutcome) -> None:
        how = outcome.how if isinstance(outcome, Failure) else None
        if pid is None or how in ("fail", "later", "cancelled"):
            return  # none of these tells anything about a worker
        if how == "lost":
            self._streaks.forget(pid)
        elif self._streaks.saw(pid, failed=how is not None):
            self._crew.replace(pid)

    def _finish_of(self, claim: Claim, answer: Answer, outcome: RowOutcome, seconds: float, sent: Sent) -> Finish:
        if isinstance(outcome, Stored):
            return Finish(claim, judge(outcome, claim, self._retry), seconds, answer.worker)
        log = self._reporter.log_of(answer.pid, claim.key, claim.attempt)
        if not log and len(sent) > 1:
            # It did not run alone: what the whole batch has printed.
            together = [held.claim for held in sent]
            log = self._reporter.log_of(answer.pid, mark_of(together), together[0].attempt)
        retry = self._retry
        if len(sent) > 1 and _is_lost(outcome):
            # Whose doing it was shows when each runs alone, so that this one time is never the last.
            retry = replace(retry, lost=max(retry.lost, claim.lost + 2))
        verdict = judge(outcome, claim, retry, random.random())
        return Finish(claim, verdict, seconds, answer.worker, log)

    def _note(self, finish: Finish, row: Row | None, outcome: RowOutcome | None, shared: bool = False) -> None:
        if not self._ended:
            self._ended_since = time.monotonic()
        self._ended.append(Ended(finish, row, outcome, 0.0, shared))

    def to_write(self, now: float) -> list[Ended]:
        """The ends that can be written now."""
        return [ended for ended in self._ended if ended.not_before <= now]

    def should_write(self, now: float) -> bool:
        """Whether they have waited long enough for others to join them, or nobody is left who could."""
        return now >= self._ended_since + GATHER_SECONDS or len(self) <= len(self._ended)

    @property
    def next_write(self) -> float | None:
        """When to write next, by the monotonic clock."""
        due = self._ended_since + GATHER_SECONDS
        return min((max(ended.not_before, due) for ended in self._ended), default=None)

    def wrote(self, ends: Sequence[Ended], fates: Sequence[Fate], now: float) -> bool:
        """This became of the ends that were to be written; True when they complete a burst of failures."""
        burst = self._reporter.wrote(ends, fates, now - self._ended_since)
        locked = [ended for ended, fate in zip(ends, fates, strict=True) if fate.why == "locked"]
        for ended in locked:
            ended.not_before = now + LOCKED_SECONDS
        waiting: list[Ended] = []
        if len(ends) < len(self._ended):
            tried = set(map(id, ends))
            waiting = [ended for ended in self._ended if id(ended) not in tried]
        self._ended = waiting + locked
        self._ended_since = now
        return burst


def _going(held: Held) -> Going:
    return tuple(held.row), held.claim.attempt, held.claim.idempotency_key


def _bytes_of(row: Row) -> int:
    """The size of those of its values that may be large."""
    size = 0
    for value in row:
        if isinstance(value, (str, bytes)):  # as a tuple: a union takes twice as long
            size += len(value)
    return size


def _is_lost(outcome: RowOutcome) -> bool:
    return isinstance(outcome, Failure) and outcome.how == "lost"


def _failure_of(claim: Claim, error: BaseException) -> Failure:
    """The pool's errors speak of calls; a row's reason names the row."""
    doing = f"row {key_text(claim.key)} (attempt {claim.attempt})"
    if isinstance(error, WorkerLost):
        error = WorkerLost(error.pid, error.exitcode, error.cause, doing)
    elif isinstance(error, TimeLimitExceeded):
        error = TimeLimitExceeded(error.seconds, doing)
    return failure_of(error, error)
