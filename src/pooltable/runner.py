"""Claims rows, has them run, and writes how they ended.

    table.claim -> Claim -> table.read -> Row -> crew.send -> worker -> outcome -> judge -> verdict -> table.finish ->
    Fate

One thread runs the loop and alone talks to the database. `hands` has the rows that are under way, `crew` runs them,
`reporter` tells what happened, `pace` decides how much, when, and when to stop. No transaction is open while a row
runs, and no worker holds a connection of ours.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from pooltable import tasks
from pooltable.aside import Aside
from pooltable.cores import usable_cores
from pooltable.crew import Crew, Inbox, OwnProcesses, SomebodysExecutor, ThisProcess, Workers
from pooltable.errors import DatabaseError, DatabaseUnavailable, MappingError, SettingError, UsageError
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
from pooltable.hands import GATHER_SECONDS, Hands
from pooltable.logs import Logs
from pooltable.pace import Appetite, Ladder, Pace, Step
from pooltable.patience import Patience
from pooltable.reporter import Callback, Reporter
from pooltable.rows import Row
from pooltable.signals import StopRequests
from pooltable.table.lease import Lease
from pooltable.table.looking import Look
from pooltable.table.states import Claim, Retry
from pooltable.table.table import TaskTable
from pooltable.watch import FileWatch

WATCH_SECONDS = 0.025  # between two looks at whether somebody changed the database, where nothing tells us
HALT_SECONDS = 60.0  # how long a service pauses when everything fails
COUNT_SECONDS = 30.0  # between two counts of what is waiting, for the progress
RESCUE_SECONDS = 0.2  # between two rescues, however many runners die
# Nobody renews a lease while a row runs in the runner's own thread.
LEASE_HERE = 86400.0


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

        self._once = threading.Lock()
        self._inbox = Inbox()
        self._requests = StopRequests(self._inbox.wake)
        self._ladder = Ladder(self._pace.grace)
        self._appetite = Appetite(poll)
        self._halted = ""
        self._wanted = 0  # workers
        self._files: FileWatch | None = None
        self._lease_seconds = LEASE_HERE if processes == 0 else self._pace.lease
        self._beat_at = 0.0
        self._rescued_at = self._rescue_at = 0.0
        self._look_at = 0.0
        self._counter: Aside | None = None
        self._count_at = 0.0

    def stop(self) -> None:
        """Drain: claim no more, let what runs end, finish it. A second call: stop now. From any thread, at any time."""
        self._requests.request("stop()")

    def run(self) -> Summary:
        """Run until nothing is left to do, or with `forever` until stopped.

        Raises UsageError if the task, the table or a setting does not fit, before anything was claimed; DatabaseError
        if the database refuses or stays away; WorkerStartError if no worker can be started. An error that ends a run
        that had begun carries what was done until then as its `summary`.
        """
        if not self._once.acquire(blocking=False):
            raise UsageError("a Runner runs once, and this one has: make another")
        self._table.prepare()
        look = self._table.look()
        self._check_words(look)
        with self._requests:
            self._open()
            error: BaseException | None = None
            try:
                self._begin(look)
                while not self._over():
                    self._beat_if_due()
                    self._rescue_if_due()
                    self._hands.collect()
                    self._exchange()
                    self._send()
                    self._reporter.show(len(self._hands))
                    self._wait()
                error = self._crew.broken
            except BaseException as failure:
                error = failure
            summary = self._end(error)
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

    def _open(self) -> None:
        """Everything that must be closed again."""
        self._reporter = Reporter(
            self._listeners, *self._callbacks, self._pace.halt, bool(self._table.write or self._table.result)
        )
        crew: Crew | None = None
        try:
            crew = self._crew = self._make_crew()
            self._lease: Lease = self._table.open_lease(
                seconds=self._lease_seconds, processes=self._size, poll=self._poll
            )
        except BaseException:
            if crew is not None:
                crew.end(lambda: False, in_a_hurry=True)
            self._reporter.abandon()
            raise
        self._patience = Patience(self._pace.db_wait, self._requests, self._reporter.tell)
        self._hands = Hands(crew, self._inbox, self._reporter, self._retry)

    def _make_crew(self) -> Crew:
        task, initializer = tasks.portable(self._task), self._initializer and tasks.portable(self._initializer)
        spec = tasks.Spec(task, self._table.fields, len(self._table.key), initializer, self._initargs)
        if self._executor is not None:
            return SomebodysExecutor(spec, self._inbox, self._executor, self._size)
        if self._processes == 0:
            return ThisProcess(spec, self._inbox, self._requests)
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
        self._beat_at = now + self._lease_seconds / 3
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
        self._appetite.dry = not look.pending
        self._wanted = self._size if self._forever else min(self._size, look.pending)
        if not self._requests.count:
            self._crew.start(self._wanted)

    # ---- when to stop

    @property
    def _takes_more(self) -> bool:
        return not (self._ladder.step or self._halted or self._crew.broken)

    def _over(self) -> bool:
        """Whether the run is at its end; takes the next step of a stop when it is due."""
        before = self._ladder.step
        step = self._ladder.look(self._requests.count, time.monotonic())
        if step > before:
            self._step_down(step)
        if step is Step.LEAVE:
            return True
        if not self._hands.empty:
            # What another transaction keeps locked is left to a rescue once the time to stop has come.
            return step is Step.NOW and self._hands.only_locked
        if not self._takes_more or self._all_claimed():
            return True
        return self._should_look and self._nothing_left()

    def _step_down(self, step: Step) -> None:
        reason = self._requests.reason if self._requests.count >= step else "the grace period is over"
        running = len(self._hands)
        if step is Step.DRAIN:
            self._reporter.tell(Stopping("drain", reason, running, self._pace.grace))
        else:
            self._reporter.tell(Stopping("now" if step is Step.NOW else "leave", reason, running, 0.0))
        if step >= Step.NOW:
            # Who asks to stop now is not made to wait for a database that is away.
            self._patience.seconds = 0.0
        self._hands.recall(kill=step >= Step.NOW)

    def _all_claimed(self) -> bool:
        return self._max_rows is not None and self._reporter.tally.claimed >= self._max_rows

    @property
    def _should_look(self) -> bool:
        """Whether what is left must be looked at: a claim came back short and nothing is in hand. To a service the next
        claim will tell, unless it has let all its workers go."""
        waits = self._appetite.dry and self._hands.empty
        return waits and not (self._forever and (self._wanted or self._crew.ready))

    def _nothing_left(self) -> bool:
        """Whether the work is done."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        left = self._patience.ask(self._lease.left)
        if left is None:
            return False
        self._look_at = now + self._poll
        if left.dead:
            self._rescue_at = min(self._rescue_at, self._rescued_at + RESCUE_SECONDS)
        elif not left.mine and not left.pending:
            return not self._forever
        elif left.pending and not left.due_in:
            # Nobody was started yet if the table was empty when the run began.
            self._wanted = max(self._wanted, min(self._size, left.pending))
        elif left.pending and not self._reporter.is_paused:
            # The last claim came back short, so what is pending is under back-off.
            if not self._pace.wait and not self._forever:
                return True
            self._reporter.waiting(left.pending, left.due_in)
            self._look_at = now + (left.due_in or 0.0)
            self._appetite.hurry(self._look_at)
        return False

    def _halt(self) -> None:
        burst = self._reporter.burst
        self._reporter.tell(Halted(burst.kind, burst.count, "", HALT_SECONDS if self._forever else None))
        if self._forever:
            self._appetite.rest(time.monotonic() + HALT_SECONDS)
        else:
            self._halted = f"halted: {burst.count} rows in a row failed with {burst.kind}"
        burst.reset()
        self._hands.recall(kill=False)

    # ---- the end

    def _end(self, error: BaseException | None) -> Summary:
        leaving = self._ladder.step is Step.LEAVE
        # What is still held here is held in vain by a run that leaves at once, or whose database is gone. Where another
        # error ended the run, what is running may come to its end.
        in_vain = leaving or isinstance(error, DatabaseUnavailable)
        unfinished = len(self._hands)
        if not in_vain:
            self._hands.recall(kill=False)
        until = time.monotonic() + (0.0 if in_vain and unfinished else self._pace.grace)
        self._crew.end(lambda: self._requests.count < Step.NOW and time.monotonic() < until, in_a_hurry=leaving)
        self._hands.collect()
        if self._files is not None:
            self._files.close()
        left, elsewhere = 0, 0
        if not in_vain:
            try:
                # As everywhere, the one who asks for it a third time is not made to wait for the database.
                with self._requests.interrupting(Step.LEAVE):
                    left, elsewhere = self._close_lease()
            except DatabaseError as late:
                error = error or late
            except KeyboardInterrupt:
                leaving = True
        summary = self._reporter.tally.summary(
            self._lease.id,
            time.monotonic(),
            left,
            elsewhere,
            error=error,
            halted=self._halted,
            stopped=leaving or bool(self._ladder.step and (left or unfinished)),
            drained=self._forever and self._ladder.step is Step.DRAIN,
        )
        if self._counter is not None:
            self._counter.end()
        # Callbacks have as long as they like; after a request to stop, the grace period.
        last = Ladder(0.0 if leaving else self._pace.grace)
        self._reporter.close(
            RunEnded(summary), lambda: last.look(self._requests.count, time.monotonic()) < Step.NOW, in_a_hurry=leaving
        )
        return summary

    def _close_lease(self) -> tuple[int, int]:
        """Write what ended, give back the rest. How many rows are left, and how many others hold."""
        if ends := self._hands.to_write(float("inf")):
            # Only an error ends a run before they are written.
            self._hands.wrote(ends, self._lease.finish([ended.finish for ended in ends]), time.monotonic())
        elsewhere = self._lease.left().elsewhere
        self._lease.close()
        return self._table.counts().pending, elsewhere

    # ---- the lease

    def _beat_if_due(self) -> None:
        # A database that was away is asked for this first: whether the lease outlived that matters most.
        if time.monotonic() < self._beat_at and self._patience.retry_at is None:
            return
        beat = self._patience.ask(self._lease.beat)
        if beat is None:
            return
        self._beat_at = time.monotonic() + self._lease_seconds / 3
        if beat.kept is not None:
            lost = self._hands.keep(beat.kept)
            self._reporter.tell(LeaseLapsed(beat.lapsed or 0.0, len(beat.kept), lost))

    def _rescue_if_due(self) -> None:
        now = time.monotonic()
        if now < self._rescue_at:
            return
        rescue = self._patience.ask(self._lease.rescue, self._retry)
        if rescue is None:
            return
        expiry = self._lease_seconds if rescue.next_expiry is None else rescue.next_expiry
        self._rescued_at, self._rescue_at = now, now + min(max(expiry, RESCUE_SECONDS), self._lease_seconds)
        self._look_at = 0.0
        if rescue.pending or rescue.failed:
            self._reporter.tally.rescued += rescue.pending + rescue.failed
            self._reporter.tell(RowsRescued(rescue.pending, rescue.failed, rescue.runners))
            self._appetite.hurry()

    # ---- the database

    def _exchange(self) -> None:
        """Write what ended and claim into free room, when either is due."""
        now = time.monotonic()
        ends = self._hands.to_write(now)
        room = self._free_room() if now >= self._appetite.next else 0
        if not room and not (ends and self._hands.should_write(now)):
            return
        if self._files is not None:
            self._files.rest()
        answer = self._patience.ask(self._lease.exchange, [ended.finish for ended in ends], room)
        if answer is None:
            return
        done = time.monotonic()
        burst = bool(ends) and self._hands.wrote(ends, answer.fates, done)
        if room:
            self._hands.room.saw_claim(done - now)
            self._reporter.paused(answer.paused)
            self._appetite.saw(len(answer.claims), room, done)
            if self._appetite.dry:
                self._came_back_short()
        # Without room there are claims, too, when the answer to an earlier one was lost with its connection.
        if answer.claims:
            self._took(answer.claims, done - now)
        if burst:
            self._halt()

    def _free_room(self) -> int:
        if not self._takes_more:
            return 0
        ready, held = self._crew.ready, len(self._hands)
        room = self._hands.room.free(ready, held)
        # Many small claims cost more than a few large ones, so rows are fetched when half of them are gone.
        if held > ready and room < held:
            return 0
        if self._max_rows is not None:
            room = min(room, self._max_rows - self._reporter.tally.claimed)
        return max(0, room)

    def _came_back_short(self) -> None:
        self._look_at = 0.0
        # Whoever is idle sees to the rows of those that died.
        self._rescue_at = min(self._rescue_at, self._rescued_at + self._poll)
        if self._workers.idle_timeout is not None:
            # Those that are let go are not called back before there is something to do.
            self._wanted = min(self._wanted, len(self._hands))

    def _took(self, claims: Sequence[Claim], seconds: float) -> None:
        waiting = self._reporter.tally.pending
        self._reporter.claimed(len(claims))
        self._reporter.tell(RowsClaimed(len(claims), seconds, tuple(claim.key for claim in claims)))
        self._hands.take(claims)
        # As many workers as there are rows for them: those held, those known to wait, or more than anybody knew of.
        unknown = len(claims) > waiting and not self._appetite.dry
        rows = len(self._hands) + self._reporter.tally.pending
        self._wanted = max(self._wanted, self._size if unknown else min(self._size, rows))

    def _send(self) -> None:
        """Read the columns of what was claimed, and send it to the crew."""
        if not self._takes_more:
            self._hands.give_back()
        while claims := self._hands.to_read():
            rows = self._patience.ask(self._lease.read, claims)
            if rows is None:
                return
            self._hands.send(rows)

    # ---- waiting

    def _wait(self) -> None:
        """Wait for what comes first: answers, a stop, a worker, somebody's change, or the next thing that is due."""
        self._count_if_due()
        if self._takes_more and self._crew.ready < self._wanted:
            self._crew.start(self._wanted)
        now = time.monotonic()
        free, away = self._free_room(), self._patience.retry_at
        times: list[float | None] = [away]
        if away is None:
            times = [self._beat_at, self._rescue_at, self._hands.next_write]
            if free:
                times.append(self._appetite.next)
            if self._should_look:
                times.append(self._look_at)
        times.append(self._reporter.next_show())
        grace = self._ladder.seconds_left(now)
        seconds = max(0.0, min([at - now for at in times if at is not None] + ([] if grace is None else [grace])))
        # Short rows end together: wake up for many of them at a time, and often enough to keep the promised 50 ms.
        held = len(self._hands)
        answers = max(1, min(256, held // 2)) if held > 2 * self._size else 1
        if answers > 1:
            seconds = min(seconds, GATHER_SECONDS)
        if away is None and self._appetite.dry and (free or self._should_look):
            self._watch(seconds, answers)
        else:
            self._crew.wait(seconds, answers)

    def _watch(self, seconds: float, answers: int) -> None:
        """Wait as above, and for somebody's change of the database where that can be noticed."""
        if self._files is not None:
            self._files.listen()
        changed = self._patience.ask(self._lease.changed)
        if changed:
            self._appetite.hurry()
            self._look_at = 0.0
        elif changed is None or self._files is not None:
            self._crew.wait(seconds, answers)
        else:
            self._crew.wait(min(seconds, WATCH_SECONDS), answers)

    def _count_if_due(self) -> None:
        """Count what is waiting, now and then: seldom where counting is slow, and aside, since rows end meanwhile."""
        if time.monotonic() < self._count_at or not self._listeners:
            return
        if self._counter is None:
            self._counter = Aside("pooltable-count", lambda error: None)
        self._count_at = float("inf")
        self._counter.call(self._count)

    def _count(self) -> None:
        began = time.monotonic()
        try:
            pending = self._table.counts().pending
        finally:
            done = time.monotonic()
            self._count_at = done + max(COUNT_SECONDS, 100 * (done - began))
        self._reporter.tally.saw_pending(pending, done)


def run(task: Callable[[Row], Any], table: TaskTable, **options: Any) -> Summary:
    """Run `task` on the PENDING rows of `table` until nothing is left to do; the options are those of `Runner`.

    >>> summary = run(mission, TaskTable("sqlite:///videos.db", "video"), processes=4)  # doctest: +SKIP
    """
    return Runner(task, table, **options).run()


def _check(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
            raise SettingError(f"{name} must be a number, not {number!r}")
        if number < 0 or (number == 0 and name != "processes"):
            raise SettingError(f"{name} must be more than 0, not {number!r}")
