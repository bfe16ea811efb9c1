"""The rows that a run has in its hands, from the claim until the end of their attempt is written.

    claimed --read--> sent to the crew --answer, judge--> ended --finish--> written
        |                                                   ^ |
        +---- gone, or not wanted any more -----------------+ +--> locked by another transaction: again, later

Only the runner's thread touches them; the database's side of every step is the runner's.
"""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

from pooltable.crew import Answer, Crew, Inbox
from pooltable.errors import CannotStore, Fail, Later, TimeLimitExceeded, WorkerLost
from pooltable.outcomes import Outcome, Raised
from pooltable.pace import Room, Streaks
from pooltable.reporter import Ended, Reporter
from pooltable.rows import Row
from pooltable.table.states import Claim, Fate, Finish, Released, Retry, judge

GATHER_SECONDS = 0.02  # how long an end may wait for others to share its commit; the promise is 50 ms with the commit
LOCKED_SECONDS = 0.2  # before a row that another transaction holds is tried again


@dataclass(slots=True)
class Sent:
    """A row that the crew has not answered. `disowned`: its claim was lost meanwhile."""

    claim: Claim
    row: Row
    size: int
    disowned: bool = False


class Hands:
    """Every row of a run that was claimed and is not written yet, in the order of its way."""

    def __init__(self, crew: Crew, inbox: Inbox, reporter: Reporter, retry: Retry) -> None:
        self.room = Room()
        self._crew = crew
        self._inbox = inbox
        self._reporter = reporter
        self._retry = retry
        self._streaks = Streaks()
        self._claimed: list[Claim] = []
        self._sent: dict[int, Sent] = {}
        self._sent_bytes = 0
        self._ended: list[Ended] = []
        self._ended_since = 0.0

    def __len__(self) -> int:
        """How many rows wait for their turn or run."""
        return len(self._claimed) + len(self._sent)

    @property
    def empty(self) -> bool:
        return not (self._claimed or self._sent or self._ended)

    @property
    def only_locked(self) -> bool:
        """Whether all that is left was ended, and is locked by another transaction."""
        return not len(self) and all(ended.not_before for ended in self._ended)

    # ---- claimed

    def take(self, claims: Sequence[Claim]) -> None:
        self._claimed += claims

    def to_read(self) -> list[Claim]:
        """The claims whose rows are to be read and sent now: as many as the bytes allow of what is under way."""
        count = self.room.to_read(self._sent_bytes)
        return self._claimed[: count if self._sent else max(1, count)]

    def send(self, rows: Sequence[Row | Exception | None]) -> None:
        """These are the rows of `to_read`: None for one that is gone, an error for one that cannot be read."""
        claims, self._claimed = self._claimed[: len(rows)], self._claimed[len(rows) :]
        size = 0
        for claim, row in zip(claims, rows, strict=True):
            if isinstance(row, Row):
                size += self._send(claim, row)
            elif row is None:
                # The finish finds out that it is gone, and says so.
                self._note(Finish(claim, Released()), None, None)
            else:
                self._cannot_run(claim, row)
        if rows:
            self.room.saw_bytes(len(rows), size)

    def _send(self, claim: Claim, row: Row) -> int:
        size = sum(len(value) for value in row if isinstance(value, str | bytes))  # others are never many bytes
        try:
            call = self._crew.send(tuple(row), claim.attempt, claim.idempotency_key)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            # A value of the driver's own that cannot travel: the row pays for it, not the run.
            self._cannot_run(claim, error)
        else:
            self._sent[call] = Sent(claim, row, size)
            self._sent_bytes += size
        return size

    def _cannot_run(self, claim: Claim, error: Exception) -> None:
        outcome = Raised(CannotStore(f"the row cannot be given to the task: {type(error).__name__}: {error}"))
        self._note(Finish(claim, judge(outcome, claim, self._retry)), None, outcome)

    # ---- what is not wanted any more

    def give_back(self) -> None:
        """Release what was not sent yet."""
        claims, self._claimed = self._claimed, []
        for claim in claims:
            self._note(Finish(claim, Released()), None, None)

    def recall(self, kill: bool) -> None:
        """Take back what has not started, and with `kill` end what runs. All of it is answered."""
        self.give_back()
        for call in list(self._sent):
            self._crew.cancel(call, kill)

    def keep(self, kept: frozenset[tuple[tuple[object, ...], int]]) -> int:
        """Only these claims, (key, claim_no), are still ours: end the others. How many they were."""
        lost = [call for call, sent in self._sent.items() if (sent.claim.key, sent.claim.claim_no) not in kept]
        for call in lost:
            self._sent[call].disowned = True
            self._crew.cancel(call, kill=True)
        ours = [claim for claim in self._claimed if (claim.key, claim.claim_no) in kept]
        count = len(lost) + len(self._claimed) - len(ours)
        self._claimed = ours
        return count

    # ---- ended

    def collect(self) -> None:
        """Judge what the crew has answered."""
        count, seconds = 0, 0.0
        for call, answer in self._inbox.collect():
            sent = self._sent.pop(call)
            self._sent_bytes -= sent.size
            outcome = answer.outcome()
            if not sent.disowned:
                self._note(self._finish_of(sent.claim, answer, outcome), sent.row, outcome)
            self._judge_worker(answer.pid, outcome)
            if answer.seconds:
                count, seconds = count + 1, seconds + answer.seconds
        if count:
            self.room.saw_rows(count, seconds)

    def _judge_worker(self, pid: int | None, outcome: Outcome) -> None:
        error = outcome.error if isinstance(outcome, Raised) else None
        if pid is None or isinstance(error, Fail | Later | CancelledError):
            return  # none of these tells anything about a worker
        if isinstance(error, WorkerLost):
            self._streaks.forget(pid)
        elif self._streaks.saw(pid, failed=error is not None):
            self._crew.replace(pid)

    def _finish_of(self, claim: Claim, answer: Answer, outcome: Outcome) -> Finish:
        log = ""
        if isinstance(outcome, Raised):
            outcome = Raised(_about(claim, outcome.error))
            log = self._reporter.log_of(answer.pid, claim.key, claim.attempt)
        verdict = judge(outcome, claim, self._retry, random.random())
        return Finish(claim, verdict, answer.seconds, answer.worker, log)

    def _note(self, finish: Finish, row: Row | None, outcome: Outcome | None) -> None:
        if not self._ended:
            self._ended_since = time.monotonic()
        self._ended.append(Ended(finish, row, outcome))

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
        tried = set(map(id, ends))
        self._ended = [ended for ended in self._ended if id(ended) not in tried] + locked
        self._ended_since = now
        return burst


def _about(claim: Claim, error: BaseException) -> BaseException:
    """The pool's errors speak of calls; a row's reason names the row."""
    doing = f"row {', '.join(map(str, claim.key))} (attempt {claim.attempt})"
    if isinstance(error, WorkerLost):
        return WorkerLost(error.pid, error.exitcode, error.cause, doing)
    if isinstance(error, TimeLimitExceeded):
        return TimeLimitExceeded(error.seconds, doing)
    return error
