"""Claims rows, has them run, and writes how they ended.

    table.claim -> Claim -> table.read -> Row -> crew.send -> worker -> outcome -> judge -> verdict -> table.finish ->
    Fate

One thread runs the loop and alone talks to the database; `reporter` tells what happened, `pace` decides how much and
when to stop, `crew` runs the rows. No transaction is open while a row runs, and no worker holds a connection of ours.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pooltable import tasks
from pooltable.cores import usable_cores
from pooltable.crew import Answer, Crew, Inbox, OwnProcesses, SomebodysExecutor, ThisProcess, Workers
from pooltable.errors import (
    DatabaseError,
    MappingError,
    PooltableError,
    SettingError,
    TimeLimitExceeded,
    WorkerLost,
)
from pooltable.events import (
    Event,
    Halted,
    LeaseLapsed,
    Listener,
    RowsClaimed,
    RowsRescued,
    RunEnded,
    RunStarted,
    Stopping,
    Summary,
)
from pooltable.logs import Logs
from pooltable.outcomes import Outcome, Raised
from pooltable.pace import Ladder, Pace, Pulse, Room, Step
from pooltable.patience import Patience
from pooltable.reporter import Callback, Ended, Reporter
from pooltable.rows import Row
from pooltable.signals import StopRequests
from pooltable.table.lease import Lease
from pooltable.table.states import Claim, Finish, Released, Retry, judge
from pooltable.table.table import Look, TaskTable
from pooltable.watch import FileWatch

GATHER_SECONDS = 0.02  # how long an end may wait for others to share its commit; the promise is 50 ms with the commit
LOCKED_SECONDS = 0.2  # before a row that another transaction holds is tried again
WATCH_SECONDS = 0.025  # between two looks at whether somebody changed the database, where nothing tells us
HALT_SECONDS = 60.0  # how long a service pauses when everything fails
COUNT_SECONDS = 30.0  # between two counts of what is waiting, for the progress


@dataclass(slots=True)
class Held:
    """A row that was sent to the crew and is not answered. `disowned`: its claim was lost meanwhile."""

    claim: Claim
    row: Row
    disowned: bool = False


class Runner:
    """Runs `task` on the PENDING rows of `table`, each in a worker process, until nothing is left to do.

    Use `run()` below unless you want to stop it from another thread. `callback(row, value)` is called for each row that
    ended DONE and `error_callback(row, error)` for each that ended FAILED: in this process, on a thread of their own,
    after the commit. `processes=None` is one for each core that this process may use, `processes=0` runs the rows
    right here.
    """

    def __init__(
        self,
        task: Callable[[Row], Any],
        table: TaskTable,
        *,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        callback: Callback | None = None,
        error_callback: Callable[[Row, BaseException], object] | None = None,
        time_limit: float | None = None,
        retry: Retry | None = None,
        forever: bool = False,
        poll: float = 2.0,
        max_rows: int | None = None,
        executor: Executor | None = None,
        workers: Workers | None = None,
        pace: Pace | None = None,
        listeners: Sequence[Listener] | None = None,
    ) -> None:
        tasks.check(task)
        _check(processes=processes, time_limit=time_limit, poll=poll, max_rows=max_rows)
        if initializer is not None and not callable(initializer):
            raise SettingError(f"initializer must be a function, not {type(initializer).__name__}")
        if time_limit is not None and (executor is not None or processes == 0):
            raise SettingError("time_limit needs worker processes of our own: leave out executor= and processes=0")
        self._table = table
        self._processes = processes
        self._executor = executor
        self._time_limit = time_limit
        self._retry = retry or Retry()
        self._forever = forever
        self._poll = poll
        self._max_rows = max_rows
        self._workers = workers or Workers()
        self._pace = pace or Pace()
        self._task = task
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._callbacks = (callback, error_callback)
        self._listeners = (Logs(),) if listeners is None else tuple(listeners)
        if executor is not None:
            self._size = processes or getattr(executor, "_max_workers", None) or usable_cores()
        else:
            self._size = 1 if processes == 0 else processes or usable_cores()

        self._inbox = Inbox()
        self._requests = StopRequests(self._inbox.wake)
        self._ladder = Ladder(self._pace.grace)
        self._room = Room()
        self._pulse = Pulse(poll)
        self._held: dict[int, Held] = {}
        self._ended: list[Ended] = []
        self._ended_since = 0.0
        self._halted = ""
        # The last claim came back short: claim again after a pause, or when somebody changed the database.
        self._dry = False
        self._wanted = 0  # workers
        self._files: FileWatch | None = None
        self._claim_at = 0.0
        self._beat_at = 0.0
        self._rescue_at = 0.0
        self._count_at = 0.0

    def stop(self) -> None:
        """Drain: claim no more, let what runs end, finish it. A second call: stop now. From any thread."""
        self._requests.request("stop()")

    def run(self) -> Summary:
        """Run until nothing is left to do, or with `forever` until stopped.

        Raises UsageError if the task, the table or a setting does not fit, before anything was claimed; DatabaseError
        if the database refuses or stays away; WorkerStartError if no worker can be started. An error that ends a run
        that had begun carries what was done until then as its `summary`.
        """
        self._table.prepare()
        look = self._table.look()
        self._check_words(look)
        with self._requests:
            self._lease: Lease = self._table.open_lease(seconds=self._pace.lease, processes=self._size, poll=self._poll)
            self._reporter = Reporter(
                self._listeners, *self._callbacks, self._pace.halt, bool(self._table.write or self._table.result)
            )
            self._patience = Patience(self._pace.db_wait, self._reporter.tell)
            crew: Crew | None = None
            error: BaseException | None = None
            try:
                crew = self._crew = self._make_crew()
                self._begin(look)
                while not self._over():
                    self._beat_if_due()
                    self._rescue_if_due()
                    self._collect()
                    self._exchange()
                    self._reporter.show(len(self._held))
                    self._wait()
                error = crew.broken
            except PooltableError as failure:
                error = failure
            finally:
                summary = self._end(crew, error)
        if error is not None:
            error.summary = summary  # type: ignore[attr-defined]
            raise error
        return summary

    # ---- the beginning

    def _check_words(self, look: Look) -> None:
        if look.pending or not look.strange:
            return
        found = " and ".join("NULL" if word is None else repr(word) for word in look.words)
        raise MappingError(
            f"{self._table.name}.{self._table.status} holds {found}; none is the pending word "
            f"{self._table.words.pending!r}: say which one is, with --pending or Words(pending=...)"
        )

    def _make_crew(self) -> Crew:
        spec = tasks.Spec(self._task, self._table.fields, len(self._table.key), self._initializer, self._initargs)
        if self._executor is not None:
            return SomebodysExecutor(spec, self._inbox, self._executor, self._size)
        if self._processes == 0:
            # The second Ctrl-C must reach the row that runs in this very thread.
            self._requests.interrupt_from = 2
            return ThisProcess(spec, self._inbox)
        folder = self._reporter.read_output()
        return OwnProcesses(
            spec, self._inbox, self._size, self._workers, self._time_limit, folder, listener=self._hear_worker
        )

    def _hear_worker(self, event: Event) -> None:
        """A worker came or went: on the pool's thread, so only pass it on and wake the loop."""
        self._reporter.tell(event)
        self._inbox.wake()

    def _begin(self, look: Look) -> None:
        now = time.monotonic()
        if self._lease.files:
            with suppress(OSError):
                self._files = FileWatch(self._lease.files, self._inbox.wake)
        self._beat_at = now + self._pace.lease / 3
        self._count_at = now + COUNT_SECONDS
        self._reporter.tally.saw_pending(look.pending, now)
        self._reporter.tell(
            RunStarted(self._table.job, self._table.name, self._lease.id, os.getpid(), self._size, look.pending)
        )
        if look.foreign_doing:
            self._reporter.notice("foreign doing rows", look.foreign_doing)
        if look.index_sql:
            self._reporter.notice("index missing", name=look.index_sql)
        if look.unsafe_file_system:
            self._reporter.notice("file system unsafe", name=look.unsafe_file_system)
        self._dry = not look.pending
        self._wanted = self._size if self._forever else min(self._size, look.pending)
        self._crew.start(self._wanted)

    # ---- the end

    def _over(self) -> bool:
        """Whether the run is at its end; takes the next step of a stop when it is due."""
        before = self._ladder.step
        step = self._ladder.look(self._requests.count, time.monotonic())
        if step > before:
            self._step_down(step)
        if step is Step.LEAVE:
            return True
        if self._held or self._ended:
            # What another transaction keeps locked is left to a rescue once the time to stop has come.
            return step is Step.NOW and not self._held and all(ended.not_before for ended in self._ended)
        if step or self._crew.broken or self._halted:
            return True
        if self._forever or not self._dry:
            return False
        return self._all_claimed() or self._nothing_left()

    def _all_claimed(self) -> bool:
        return self._max_rows is not None and self._reporter.tally.claimed >= self._max_rows

    def _nothing_left(self) -> bool:
        left = self._patience.ask(self._lease.left)
        if left is None or left.mine or left.dead:
            return False
        if not left.pending:
            return True
        if not left.due_in:
            # Nobody was started yet if the table was empty when the run began.
            self._wanted = min(self._size, left.pending)
            return False
        # The last claim came back short, so what is pending is under back-off.
        if not self._pace.wait:
            return True
        self._reporter.waiting(left.pending, left.due_in)
        self._claim_at = min(self._claim_at, time.monotonic() + left.due_in)
        return False

    def _step_down(self, step: Step) -> None:
        reason = self._requests.reason if self._requests.count >= step else "the grace period is over"
        running = len(self._held)
        if step is Step.DRAIN:
            self._reporter.tell(Stopping("drain", reason, running, self._pace.grace))
        else:
            self._reporter.tell(Stopping("now" if step is Step.NOW else "leave", reason, running, 0.0))
        if step >= Step.NOW:
            # Who asks to stop now is not made to wait for a database that is away.
            self._patience.seconds = 0.0
        self._recall(kill=step >= Step.NOW)

    def _recall(self, kill: bool) -> None:
        """Take back what has not started, and with `kill` end what runs. All of it is answered."""
        for call in list(self._held):
            self._crew.cancel(call, kill)

    def _end(self, crew: Crew | None, error: BaseException | None) -> Summary:
        leaving = self._ladder.step is Step.LEAVE
        if crew is not None:
            # What is still held here is held in vain: by a run that leaves at once, or that an error ended.
            crew.end(0.0 if self._held else self._pace.grace)
        if self._files is not None:
            self._files.close()
        left, elsewhere = 0, 0
        if not leaving and not isinstance(error, DatabaseError):
            try:
                rest = self._lease.left()
                left, elsewhere = self._table.counts().pending, rest.elsewhere
                self._lease.close()
            except DatabaseError as late:
                error = error or late
        drained = self._forever and self._ladder.step is Step.DRAIN
        stopped = leaving or bool(self._ladder.step and (left or self._held))
        summary = self._reporter.tally.summary(
            self._lease.id,
            time.monotonic(),
            left,
            elsewhere,
            error=error,
            halted=self._halted,
            stopped=stopped,
            drained=drained,
        )
        self._reporter.close(RunEnded(summary), in_a_hurry=leaving)
        return summary

    # ---- the lease

    def _beat_if_due(self) -> None:
        if time.monotonic() < self._beat_at:
            return
        beat = self._patience.ask(self._lease.beat)
        if beat is None:
            return
        self._beat_at = time.monotonic() + self._pace.lease / 3
        if beat.kept is None:
            return
        gone = [call for call, held in self._held.items() if (held.claim.key, held.claim.claim_no) not in beat.kept]
        for call in gone:
            self._held[call].disowned = True
            self._crew.cancel(call, kill=True)
        self._reporter.tell(LeaseLapsed(beat.lapsed or 0.0, len(beat.kept), len(gone)))

    def _rescue_if_due(self) -> None:
        if time.monotonic() < self._rescue_at:
            return
        rescue = self._patience.ask(self._lease.rescue, self._retry)
        if rescue is None:
            return
        expiry = self._pace.lease if rescue.next_expiry is None else rescue.next_expiry
        self._rescue_at = time.monotonic() + min(max(expiry, 0.05), self._pace.lease)
        if rescue.pending or rescue.failed:
            self._reporter.tally.rescued += rescue.pending + rescue.failed
            self._reporter.tell(RowsRescued(rescue.pending, rescue.failed, rescue.runners))
            self._claim_at = 0.0

    # ---- what ended

    def _collect(self) -> None:
        count, seconds = 0, 0.0
        for call, answer in self._inbox.collect():
            held = self._held.pop(call)
            outcome = answer.outcome()
            if not held.disowned:
                self._note(self._finish_of(held.claim, answer, outcome), held.row, outcome)
            if answer.seconds:
                count, seconds = count + 1, seconds + answer.seconds
        if count:
            self._room.saw_rows(count, seconds)

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

    # ---- the database

    def _exchange(self) -> None:
        """Write what ended and claim into free room, when either is due."""
        now = time.monotonic()
        ends = [ended for ended in self._ended if ended.not_before <= now]
        room = self._free_room() if now >= self._claim_at else 0
        if not room and not (ends and self._ends_are_due(now)):
            return
        if self._files is not None:
            self._files.rest()
        answer = self._patience.ask(self._lease.exchange, [ended.finish for ended in ends], room)
        if answer is None:
            return
        done = time.monotonic()
        self._ended = [ended for ended in self._ended if ended.not_before > now]
        if ends:
            self._wrote(ends, answer.fates, done)
        if room:
            self._room.saw_claim(done - now)
            self._reporter.paused(answer.paused)
            self._take(answer.claims, room, done - now)

    def _free_room(self) -> int:
        if self._ladder.step or self._halted or self._crew.broken:
            return 0
        ready, held = self._crew.ready, len(self._held)
        room = self._room.free(ready, held)
        # Many small claims cost more than a few large ones, so rows are fetched when half of them are gone.
        if held > ready and room < held:
            return 0
        if self._max_rows is not None:
            room = min(room, self._max_rows - self._reporter.tally.claimed)
            self._dry = self._dry or room <= 0
        return max(0, room)

    def _ends_are_due(self, now: float) -> bool:
        return now >= self._ended_since + GATHER_SECONDS or len(self._held) <= len(self._ended)

    def _wrote(self, ends: Sequence[Ended], fates: Sequence[Any], now: float) -> None:
        if self._reporter.wrote(ends, fates, now - self._ended_since):
            self._halt()
        locked = [ended for ended, fate in zip(ends, fates, strict=True) if fate.why == "locked"]
        for ended in locked:
            ended.not_before = now + LOCKED_SECONDS
        self._ended += locked
        self._ended_since = now

    def _halt(self) -> None:
        burst = self._reporter.burst
        pause = HALT_SECONDS if self._forever else None
        self._reporter.tell(Halted(burst.kind, burst.count, "", pause))
        if self._forever:
            self._claim_at = time.monotonic() + HALT_SECONDS
        else:
            self._halted = f"halted: {burst.count} rows in a row failed with {burst.kind}"
        burst.reset()
        self._recall(kill=False)

    def _take(self, claims: Sequence[Claim], room: int, seconds: float) -> None:
        """Read the columns of what was claimed and send it."""
        now = time.monotonic()
        self._dry = len(claims) < room
        if claims:
            self._pulse.saw_work()
        if self._dry:
            self._claim_at = max(self._claim_at, now + self._pulse.saw_nothing())
        if not claims:
            return
        unexpected = len(claims) > self._reporter.tally.pending
        self._reporter.claimed(len(claims))
        self._reporter.tell(RowsClaimed(len(claims), seconds, tuple(claim.key for claim in claims)))
        # As many workers as there are rows for them: those held, those known to wait, or more than anybody knew of.
        rows = len(self._held) + len(claims) + self._reporter.tally.pending
        self._wanted = max(self._wanted, self._size if unexpected and not self._dry else min(self._size, rows))
        size = 0
        rows = self._lease.read(claims)
        for claim, row in zip(claims, rows, strict=True):
            if isinstance(row, Row):
                size += _size_of(row)
                self._held[self._crew.send(tuple(row), claim.attempt, claim.idempotency_key)] = Held(claim, row)
            elif row is None:
                # The row is gone; the finish finds that out and says so.
                self._note(Finish(claim, Released(), 0.0, None), None, None)
            else:
                outcome = Raised(row)
                self._note(Finish(claim, judge(outcome, claim, self._retry, 0.0), 0.0, None), None, outcome)
        self._room.saw_bytes(len(claims), size)

    # ---- waiting

    def _wait(self) -> None:
        """Wait for what comes first: answers, a stop, a worker, somebody's change, or the next thing that is due."""
        self._count_if_due()
        if self._crew.ready < self._wanted and not self._ladder.step:
            self._crew.start(self._wanted)
        now = time.monotonic()
        free = self._free_room()
        times = [self._beat_at, self._rescue_at, self._reporter.next_show()]
        if self._ended:
            times.append(min(max(ended.not_before, self._ended_since + GATHER_SECONDS) for ended in self._ended))
        if free or self._dry:
            times.append(self._claim_at)
        if self._patience.retry_at is not None:
            times = [self._patience.retry_at]
        grace = self._ladder.seconds_left(now)
        seconds = min([at - now for at in times if at is not None] + ([] if grace is None else [grace]))
        # Short rows end together: wake up for many of them at a time, and often enough to keep the promised 50 ms.
        answers = max(1, min(256, len(self._held) // 2)) if len(self._held) > 2 * self._size else 1
        if answers > 1:
            seconds = min(seconds, GATHER_SECONDS)
        if self._dry and free and not self._ended and self._patience.retry_at is None:
            self._watch(seconds, answers)
        else:
            self._crew.wait(max(0.0, seconds), answers)

    def _watch(self, seconds: float, answers: int) -> None:
        """Wait as above, and for somebody's change of the database where that can be noticed."""
        if self._files is not None:
            self._files.listen()
        changed = self._patience.ask(self._lease.changed)
        if changed:
            self._claim_at = 0.0
        elif changed is None or self._files is not None:
            self._crew.wait(seconds, answers)
        else:
            self._crew.wait(min(seconds, WATCH_SECONDS), answers)

    def _count_if_due(self) -> None:
        """Count what is waiting, now and then: seldom where counting is slow."""
        now = time.monotonic()
        if now < self._count_at or not self._listeners:
            return
        left = self._patience.ask(self._table.counts)
        done = time.monotonic()
        self._count_at = done + max(COUNT_SECONDS, 100 * (done - now))
        if left is not None:
            self._reporter.tally.saw_pending(left.pending, done)


def run(task: Callable[[Row], Any], table: TaskTable, **options: Any) -> Summary:
    """Run `task` on the PENDING rows of `table` until nothing is left to do; the options are those of `Runner`.

    >>> summary = run(mission, TaskTable("sqlite:///videos.db", "video"), processes=4)  # doctest: +SKIP
    """
    return Runner(task, table, **options).run()


def _about(claim: Claim, error: BaseException) -> BaseException:
    """The pool's errors speak of calls; a row's reason names the row."""
    doing = f"row {', '.join(map(str, claim.key))} (attempt {claim.attempt})"
    if isinstance(error, WorkerLost):
        return WorkerLost(error.pid, error.exitcode, error.cause, doing)
    if isinstance(error, TimeLimitExceeded):
        return TimeLimitExceeded(error.seconds, doing)
    return error


def _size_of(row: Row) -> int:
    """About how many bytes the row's columns take: only text and bytes can be many."""
    return sum(len(value) for value in row if isinstance(value, str | bytes))


def _check(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
            raise SettingError(f"{name} must be a number, not {number!r}")
        if number < 0 or (number == 0 and name != "processes"):
            raise SettingError(f"{name} must be more than 0, not {number!r}")
