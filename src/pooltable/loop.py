"""The loop of a run: claims rows, has them run, and writes how they ended, until nothing is left or somebody stops it.

    table.claim -> Claim -> table.read -> Row -> crew.send -> worker -> outcome -> judge -> verdict -> table.finish ->
    Fate

One thread runs the loop and alone talks to the database. `hands` has the rows that are under way, `crew` runs them,
`upkeep` keeps the lease, `reporter` tells what happened, `pace` decides how much, when, and when to stop. No
transaction is open while a row runs, and no worker holds a connection of ours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pooltable.census import Census
from pooltable.crew import Crew, Inbox
from pooltable.errors import DatabaseError, DatabaseUnavailable, ResultDropped
from pooltable.events import Halted, RowsClaimed, RunEnded, RunStarted, Stopping, Summary
from pooltable.hands import GATHER_SECONDS, Hands
from pooltable.pace import Appetite, Ladder, Pace, Probe, Step
from pooltable.patience import Patience
from pooltable.reporter import Reporter
from pooltable.rows import key_text
from pooltable.signals import StopRequests
from pooltable.table.lease import Lease
from pooltable.table.looking import Look
from pooltable.table.notify import Notifications
from pooltable.table.states import Claim, Retry
from pooltable.table.table import TaskTable
from pooltable.upkeep import Upkeep
from pooltable.watch import FileWatch

WATCH_SECONDS = 0.025  # between two looks at whether somebody changed the database, where nothing tells us
HALT_SECONDS = 60.0  # how long a service pauses when everything fails


@dataclass(frozen=True)
class Plan:
    """What a run is asked to do. `size`: calls of the task that run at once, each with up to `batch` rows."""

    size: int
    batch: int
    retry: Retry
    pace: Pace
    lease_seconds: float
    forever: bool
    poll: float
    max_rows: int | None
    lets_workers_go: bool
    drop_results: bool

    def workers_for(self, rows: int) -> int:
        """How many workers find something to do in so many rows."""
        return min(self.size, -(-rows // self.batch))


class Loop:
    """One run, under way."""

    def __init__(
        self,
        plan: Plan,
        table: TaskTable,
        lease: Lease,
        crew: Crew,
        inbox: Inbox,
        requests: StopRequests,
        reporter: Reporter,
    ) -> None:
        self._plan = plan
        self._table = table
        self._lease = lease
        self._crew = crew
        self._inbox = inbox
        self._requests = requests
        self._reporter = reporter
        self._patience = Patience(plan.pace, requests, reporter.tell)
        self._hands = Hands(crew, inbox, reporter, plan.retry, plan.batch, plan.drop_results)
        self._upkeep = Upkeep(
            lease, self._patience, plan.lease_seconds, plan.retry, reporter, inbox.wake, crew.send_until
        )
        self._census = Census(lambda: table.counts().pending, reporter.tally.saw_pending)
        self._ladder = Ladder(plan.pace.grace)
        self._appetite = Appetite(plan.poll)
        self._probe = Probe(plan.poll, time.monotonic())
        self._files: FileWatch | None = None
        self._notifications: Notifications | None = None
        self._error: BaseException | None = None
        self._halted = ""
        self._wanted = 0  # workers
        self._look_at = 0.0
        self._foreign_doing = 0  # at the beginning

    def run(self, look: Look) -> Summary:
        """The whole run. Raises what ended it early, with what was done until then as its `summary`."""
        try:
            self._begin(look)
            while not self._over():
                self._keep_the_lease()
                self._hands.collect()
                self._refuse_to_drop()
                self._take_news()
                self._exchange()
                self._send()
                self._reporter.show(len(self._hands))
                self._wait()
            self._error = self._crew.broken
        except BaseException as error:
            self._error = error
        summary = self._end()
        if self._error is not None:
            self._error.summary = summary  # type: ignore[attr-defined]
            raise self._error
        return summary

    # ---- the beginning

    def _begin(self, look: Look) -> None:
        now = time.monotonic()
        self._lease.bound(self._patience.bound)
        if self._lease.files:
            with suppress(OSError):
                self._files = FileWatch(self._lease.files, self._inbox.wake)
        self._notifications = self._patience.ask(
            self._lease.notifications, self._inbox.wake, lambda: self._reporter.notice("notify lost")
        )
        self._reporter.tally.saw_pending(look.pending, now)
        self._reporter.tell(
            RunStarted(
                self._table.job, self._table.shown_name, self._lease.id, os.getpid(), self._plan.size, look.pending
            )
        )
        if look.foreign_doing:
            self._reporter.notice("foreign doing rows", look.foreign_doing)
        if look.keyless:
            self._reporter.notice("rows without a key", look.keyless)
        self._foreign_doing = look.foreign_doing
        if look.index_sql:
            self._reporter.notice("index missing", name=look.index_sql)
        if look.unsafe_file_system:
            self._reporter.notice("file system unsafe", name=look.unsafe_file_system)
        self._appetite.dry = not look.pending
        self._wanted = self._plan.size if self._plan.forever else self._plan.workers_for(look.pending)
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
            self._reporter.tell(Stopping("drain", reason, running, self._plan.pace.grace))
        else:
            self._reporter.tell(Stopping("now" if step is Step.NOW else "leave", reason, running, 0.0))
        self._hands.recall(kill=step >= Step.NOW)

    def _all_claimed(self) -> bool:
        return self._plan.max_rows is not None and self._reporter.tally.claimed >= self._plan.max_rows

    @property
    def _should_look(self) -> bool:
        """Whether what is left must be looked at: a claim came back short and nothing is in hand. To a service the next
        claim will tell, unless it has let all its workers go."""
        waits = self._appetite.dry and self._hands.empty
        return waits and not (self._plan.forever and (self._wanted or self._crew.ready))

    def _nothing_left(self) -> bool:
        """Whether the work is done."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        left = self._patience.ask(self._lease.left)
        if left is None:
            return False
        self._look_at = now + self._plan.poll
        if left.dead:
            self._upkeep.rescue_soon(0.0)
        elif not left.mine and not left.pending:
            return not self._plan.forever
        elif left.pending and not left.due_in:
            # Nobody was started yet if the table was empty when the run began.
            self._wanted = max(self._wanted, self._plan.workers_for(left.pending))
        elif left.pending and not self._reporter.is_paused:
            # The last claim came back short, so what is pending is under back-off.
            if not self._plan.pace.wait and not self._plan.forever:
                return True
            self._reporter.waiting(left.pending, left.due_in)
            self._look_at = now + (left.due_in or 0.0)
            self._appetite.hurry(self._look_at)
        return False

    def _halt(self) -> None:
        burst = self._reporter.burst
        self._reporter.tell(Halted(burst.kind, burst.count, "", HALT_SECONDS if self._plan.forever else None))
        if self._plan.forever:
            self._appetite.rest(time.monotonic() + HALT_SECONDS)
        else:
            self._halted = f"halted: {burst.count} rows in a row failed with {burst.kind}"
        burst.reset()
        self._hands.recall(kill=False)

    # ---- the end

    def _end(self) -> Summary:
        leaving = self._ladder.step is Step.LEAVE
        # What is still held here is held in vain by a run that leaves at once, or whose database is gone. Where another
        # error ended the run, what is running may come to its end.
        in_vain = leaving or isinstance(self._error, DatabaseUnavailable)
        unfinished = len(self._hands)
        if not in_vain:
            self._hands.recall(kill=False)
        until = time.monotonic() + (0.0 if in_vain and unfinished else self._plan.pace.grace)
        self._crew.end(
            lambda: self._requests.count < Step.NOW and time.monotonic() < until,
            in_a_hurry=lambda: leaving or self._requests.count >= Step.LEAVE,
        )
        self._hands.collect()
        if self._files is not None:
            self._files.close()
        if self._notifications is not None:
            self._notifications.close()
        self._upkeep.close()
        left, elsewhere, stranded = 0, 0, 0
        if not in_vain:
            try:
                left, elsewhere, stranded = self._close_lease()
            except (DatabaseError, KeyboardInterrupt) as error:
                # As everywhere, the one who asks for it a third time is not made to wait for the database.
                leaving = self._requests.count >= Step.LEAVE
                self._error = self._error or (None if leaving else error)
        self._lease.abandon()
        summary = self._reporter.tally.summary(
            self._lease.id,
            time.monotonic(),
            left,
            elsewhere,
            stranded=stranded > 0,
            error=self._error,
            halted=self._halted,
            stopped=leaving or bool(self._ladder.step and (left or unfinished)),
            drained=self._plan.forever and self._ladder.step is Step.DRAIN,
        )
        self._census.end()
        # Callbacks have as long as they like; after a request to stop, the grace period.
        last = Ladder(0.0 if leaving else self._plan.pace.grace)
        self._reporter.close(
            RunEnded(summary), lambda: last.look(self._requests.count, time.monotonic()) < Step.NOW, in_a_hurry=leaving
        )
        return summary

    def _close_lease(self) -> tuple[int, int, int]:
        """Write what ended, give back the rest. How many rows are left, how many others hold, and how many of those
        left no run can take as they are."""
        if ends := self._hands.to_write(float("inf")):
            # Only an error ends a run before they are written.
            self._hands.wrote(ends, self._lease.finish([ended.finish for ended in ends]), time.monotonic())
        elsewhere = self._lease.left().elsewhere
        self._lease.close()
        with self._requests.interrupting(Step.LEAVE):
            doing = self._left_doing()
            return self._table.counts().pending + doing, elsewhere, doing + self._table.keyless()

    def _left_doing(self) -> int:
        """How many rows are DOING still and held by no runner: they were so when the run began, or a key was changed
        while the row ran, or its claim was removed."""
        astray, before = self._reporter.tally.astray, self._foreign_doing
        if not (astray or before):
            return 0
        doing = self._table.foreign_doing()
        lost = min(astray, doing - before)
        if lost > 0:
            self._reporter.notice("rows left as doing", lost)
        return min(doing, before) + max(0, lost)

    def _refuse_to_drop(self) -> None:
        """End the run where the task returned a value that no column and no callback takes: nobody said that they want
        it computed and thrown away. The row is given back."""
        if self._hands.dropped is not None:
            raise ResultDropped(key_text(self._hands.dropped.key), self._table.shown_name)

    # ---- the lease

    def _keep_the_lease(self) -> None:
        given_back = self._upkeep.beat_if_due(self._hands)
        rescue = self._upkeep.rescue_if_due()
        if rescue is not None:
            self._look_at = 0.0
        if given_back or (rescue is not None and rescue.pending):
            self._appetite.hurry()

    # ---- the database

    def _take_news(self) -> None:
        """Claim soon where the database has told of a row."""
        if self._notifications is not None and self._notifications.taken():
            self._appetite.hurry()
            self._look_at = 0.0

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
        again = [fate.due_in for fate in answer.fates if fate.due_in is not None] if self._appetite.dry else []
        if room:
            self._hands.room.saw_claim(done - now)
            self._reporter.paused(answer.paused)
            self._appetite.saw(len(answer.claims), room, done, answer.due_in)
            if answer.claims:
                self._probe.saw_work(done)
            if self._appetite.dry:
                self._came_back_short()
        elif again:
            # The claims that come next know of these rows; the last one did not.
            self._appetite.hurry(done + min(again))
        # Without room there are claims, too, when the answer to an earlier one was lost with its connection.
        if answer.claims:
            self._took(answer.claims, done - now)
        if burst:
            self._halt()

    def _free_room(self) -> int:
        if not self._takes_more:
            return 0
        ready, held = self._crew.ready, len(self._hands)
        if ready and self._plan.lets_workers_go:
            # Those that were let go are called back for what is claimed, while the others are busy.
            ready = self._plan.size
        room = self._hands.room.free(ready, held)
        # Many small claims cost more than a few large ones, so rows are fetched when half of them are gone.
        if held > ready and room < held:
            return 0
        if self._plan.max_rows is not None:
            room = min(room, self._plan.max_rows - self._reporter.tally.claimed)
        return max(0, room)

    def _came_back_short(self) -> None:
        self._look_at = 0.0
        # Whoever is idle sees to the rows of those that died.
        self._upkeep.rescue_soon(self._plan.poll)
        if self._plan.lets_workers_go:
            # Those that are let go are not called back before there is something to do.
            self._wanted = min(self._wanted, self._plan.workers_for(len(self._hands)))

    def _took(self, claims: Sequence[Claim], seconds: float) -> None:
        waiting = self._reporter.tally.pending
        self._reporter.claimed(len(claims))
        self._reporter.tell(RowsClaimed(len(claims), seconds, tuple(claim.key for claim in claims)))
        self._hands.take(claims)
        # As many workers as there are rows for them: those held, those known to wait, or more than anybody knew of.
        unknown = len(claims) > waiting and not self._appetite.dry
        rows = len(self._hands) + self._reporter.tally.pending
        self._wanted = max(self._wanted, self._plan.size if unknown else self._plan.workers_for(rows))

    def _send(self) -> None:
        """Read the columns of what was claimed, and send it to the crew."""
        if not self._takes_more:
            self._hands.give_back()
        while claims := self._hands.to_read():
            rows = self._patience.ask(self._lease.read, claims)
            if rows is None:
                break
            if not self._upkeep.holds:
                return  # the process was stopped until now, or the database slow: the lease is beaten first
            self._hands.send(rows)
        if self._upkeep.holds:
            self._hands.send_batches(time.monotonic(), more=not (self._appetite.dry or self._all_claimed()))

    # ---- waiting

    def _wait(self) -> None:
        """Wait for what comes first: answers, a stop, a worker, somebody's change, or the next thing that is due."""
        if self._reporter.has_listeners:
            self._census.take_if_due()
        if self._takes_more and self._crew.ready < self._wanted:
            self._crew.start(self._wanted)
        now = time.monotonic()
        free, away = self._free_room(), self._patience.retry_at
        times: list[float | None] = [away]
        if away is None:
            times = [self._upkeep.next, self._hands.next_write, self._hands.next_send]
            if free:
                times.append(self._appetite.next)
            if self._should_look:
                times.append(self._look_at)
        times.append(self._reporter.next_show())
        grace = self._ladder.seconds_left(now)
        seconds = max(0.0, min([at - now for at in times if at is not None] + ([] if grace is None else [grace])))
        # Short rows end together: wake up for many of them at a time, and often enough to keep the promised 50 ms.
        calls = self._hands.calls
        answers = max(1, min(256, calls // 2)) if calls > 2 * self._plan.size else 1
        if answers > 1:
            seconds = min(seconds, GATHER_SECONDS)
        if away is None and self._appetite.dry and (free or self._should_look):
            self._watch(seconds, answers)
        else:
            self._crew.wait(seconds, answers)

    def _watch(self, seconds: float, answers: int) -> None:
        """Wait as above, and for new rows: a change of the file, or a server's answer that one waits."""
        if not self._lease.files:
            self._ask_for_rows(seconds, answers)
            return
        if self._files is not None:
            self._files.listen()
        changed = self._patience.ask(self._lease.changed)
        if changed:
            self._appetite.hurry()
            self._look_at = 0.0
        elif self._files is not None:
            self._crew.wait(seconds, answers)
        else:
            self._crew.wait(min(seconds, WATCH_SECONDS), answers)

    def _ask_for_rows(self, seconds: float, answers: int) -> None:
        """Wait as above, and ask the server now and then whether a row waits."""
        until = time.monotonic() + seconds
        # While the job is paused, rows wait in vain.
        asks = not self._reporter.is_paused and not (self._notifications is not None and self._notifications.listens)
        while True:
            now = time.monotonic()
            due = self._probe.next if asks else until
            if self._crew.wait(max(0.0, min(due, until) - now), answers) or due >= until:
                return
            asked_at = time.monotonic()
            found = self._patience.ask(self._lease.waits)
            if found is None:
                return
            self._probe.saw_answer(found, asked_at, time.monotonic() - asked_at)
            if found:
                self._appetite.hurry()
                self._look_at = 0.0
                return
