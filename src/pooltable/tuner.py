"""Measures a task on a sample of rows with other numbers of processes, threads and rows at once; writes nothing.

    sample of rows --> pilot: does it work, how long does a call take, does it wait, how much memory
                   --> round 1: every choice, for a short while; the hopeless ones are cut early
                   --> rounds 2, 3, ...: the best few again, in turns, for as long as the time lasts

Rounds take turns so that a busy minute of the machine hits all alike. Workers of one choice are gone before those of
the next are started: two models side by side may not fit.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from pooltable import tasks
from pooltable.crew import Answer, Workers
from pooltable.errors import SettingError, TaskError, WorkerStartError, describe
from pooltable.outcomes import Failure
from pooltable.pool.memory import available_memory, private_memory
from pooltable.reporter import own_folder
from pooltable.rows import Row, key_text
from pooltable.tasks import Spec
from pooltable.trial import LOOK_SECONDS, TrialCrew, try_out, why_failed
from pooltable.tuning import Choice, Machine, Score, choices, finalists, hopeless_below

PILOT_ROWS = 8
PILOT_SECONDS = 0.3  # so many, as long as the calls are short
MOST_PILOTS = 100
PILOT_PART = 0.25  # of the time
FIRST_PART = 0.5  # of what is left after it, for the first round
ROUNDS = 4
SHORTEST, LONGEST = 0.25, 3.0  # seconds that one choice is measured for at a time
WAITING = 0.7  # of a core: a call that keeps less than this busy mostly waits
MEMORY_PART = 0.8  # of what is free, for all workers together


@dataclass(frozen=True)
class Order:
    """What is to be tuned: the task, and what is set now. `processes` and `threads` are kept where they are given;
    `total` is the number of rows to choose for, None for rows without end."""

    task: Callable[..., Any]
    fields: tuple[str, ...]
    key_size: int
    rows: Sequence[Row]
    now: Choice
    largest: int
    cores: int
    seconds: float
    initializer: Callable[..., object] | None = None
    workers: Workers = field(default_factory=Workers)
    processes: int | None = None
    threads: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class Pilot:
    """What the first calls showed: the cores that one keeps busy, and the bytes that a worker takes for itself."""

    busy: float
    memory: int | None


class _Late(Exception):
    """The time is up."""


class Tuner:
    """One tuning, under way; `scores` grows while it runs, and holds what there is when it is interrupted."""

    def __init__(self, order: Order) -> None:
        self.seconds = order.seconds
        self.total = order.total
        self._order = order
        self._show: Callable[[], object] = lambda: None
        self._ends = 0.0
        self._next = 0
        self.scores: dict[Choice, Score] = {}
        self.doing: Choice | None = None
        self.round = 0
        self.began = 0.0

    def run(self, show: Callable[[], object] = lambda: None) -> list[Score]:
        """Every choice with what was measured of it, within the time; `show` is called whenever there is more.

        Raises TaskError where the task fails, and WorkerStartError where no worker starts.
        """
        self._show = show
        self.began = time.monotonic()
        self._ends = self.began + self._order.seconds
        pilot = self._pilot()
        planned = choices(
            self._order.now,
            self._machine(pilot),
            largest=self._order.largest,
            processes=self._order.processes,
            threads=self._order.threads,
        )
        self.scores = {choice: Score(choice) for choice in planned}
        try:
            left = self._left
            self._measure_all(planned, FIRST_PART * left / len(planned))
            for turn in range(1, ROUNDS):
                again = finalists(self.scores.values(), self._order.now, self._order.total)
                if again:
                    seconds = self._left / (ROUNDS - turn) / len(again)
                    self._measure_all(again[:: 1 if turn % 2 else -1], seconds)
        except _Late:
            pass
        self.doing = None
        return list(self.scores.values())

    @property
    def _left(self) -> float:
        return max(0.0, self._ends - time.monotonic())

    def _machine(self, pilot: Pilot) -> Machine:
        order = self._order
        free, most = available_memory(), None
        if free is not None and pilot.memory:
            # One of them has run just now, and is gone by the time the others start.
            most = max(1, int(MEMORY_PART * free / pilot.memory))
        return Machine(order.cores, order.workers.count() or 0, pilot.busy < WAITING, most)

    # ---- the first calls

    def _pilot(self) -> Pilot:
        order = self._order
        size = min(order.now.batch, PILOT_ROWS, len(order.rows))
        with self._crew(Choice(1, order.threads or order.cores, order.now.batch)) as crew:
            self._wait_for(crew, 1, self._ends)
            pid = next(iter(crew.pids()), 0)  # it may have died at once: then the first call tells why
            began, before = time.monotonic(), _used(pid)
            answers = self._first_calls(crew, size, min(self._ends, began + PILOT_PART * order.seconds))
            failures = [(call, why) for call, why in enumerate(map(why_failed, answers)) if why is not None]
            lost = [(call, why) for call, why in failures if why.how == "lost"]
            if lost or len(failures) == len(answers):
                call, why = (lost or failures)[0]
                raise self._fails(why, order.rows[call * size % len(order.rows)])
            # Calls that are over before the system's clock has ticked a few times say nothing.
            long_enough = sum(answer.seconds for answer in answers) > PILOT_SECONDS / 2
            busy = (_used(pid) - before) / (time.monotonic() - began) if long_enough else 1.0
            return Pilot(busy, private_memory(pid))

    def _first_calls(self, crew: TrialCrew, size: int, until: float) -> list[Answer]:
        """A few calls, one after the other; fewer where they take long."""
        found: list[Answer] = []
        wanted = max(2, min(len(self._order.rows), PILOT_ROWS) // size)
        while len(found) < wanted or sum(answer.seconds for answer in found) < PILOT_SECONDS:
            self._send(crew, size)
            while not (answers := crew.inbox.collect()):
                if time.monotonic() >= until:
                    if found:
                        return found
                    raise SettingError(
                        f"the first call of the task takes longer than {PILOT_PART * self.seconds:.3g} s: give"
                        " --seconds a larger number, or --batch a smaller one"
                    )
                crew.wait(LOOK_SECONDS, 1)
            found += [answer for _, answer in answers]
            last = why_failed(found[-1])
            if len(found) >= MOST_PILOTS or (last is not None and last.how == "lost"):
                break
        return found

    def _fails(self, failure: Failure, row: Row) -> TaskError:
        key = key_text(row[: self._order.key_size])
        return TaskError(
            f"the task fails on the first rows of the sample: {failure.reason}; `pooltable try` on row {key} shows"
            " where"
        )

    # ---- one choice after the other

    def _measure_all(self, planned: Sequence[Choice], seconds: float) -> None:
        self.round += 1
        seconds = min(LONGEST, max(SHORTEST, seconds))
        # The sizes of a batch take turns in the same workers: their start may cost more than what is measured.
        groups: dict[tuple[int, int], list[Choice]] = {}
        for choice in planned:
            groups.setdefault((choice.processes, choice.threads), []).append(choice)
        for together in groups.values():
            self._measure_together(together, seconds)

    def _measure_together(self, together: Sequence[Choice], seconds: float) -> None:
        if self._left < SHORTEST:
            raise _Late
        start: float | None = None
        with self._crew(together[0]) as crew:
            for choice in together:
                if self._left < SHORTEST:
                    raise _Late
                self.doing = choice
                self._show()
                score = self.scores[choice]
                try:
                    self._wait_for(crew, choice.processes, self._ends)  # also for those that the last one has cost
                except WorkerStartError as error:
                    score.failure = describe(error).reason
                    continue
                seen = crew.start_seconds if start is None else start
                least = hopeless_below(self.scores.values(), seen, self._order.total)
                loads = try_out(crew, self._send, score, min(seconds, self._left), self._ends, least)
                if start is None:
                    start = seen + loads
                score.starts.append(start)
                self._show()

    # ---- workers

    @contextmanager
    def _crew(self, choice: Choice) -> Iterator[TrialCrew]:
        order = self._order
        task, initializer = tasks.portable(order.task), order.initializer and tasks.portable(order.initializer)
        spec = Spec(task, order.fields, order.key_size, initializer, batch=choice.batch)
        workers = replace(order.workers, threads=choice.threads, idle_timeout=None)
        folder = own_folder()
        try:
            crew = TrialCrew(spec, choice.processes, workers, folder)
            try:
                yield crew
            finally:
                crew.end(lambda: False, in_a_hurry=lambda: True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _wait_for(self, crew: TrialCrew, workers: int, until: float) -> None:
        while crew.ready < workers:
            crew.start(workers)  # again and again, since one that could not start is tried anew
            if crew.broken is not None:
                raise crew.broken
            if time.monotonic() >= until:
                if not self.scores:
                    raise SettingError(
                        "the first worker needs longer to start than the tuning may take: give --seconds"
                    )
                raise _Late
            crew.wait(LOOK_SECONDS, 1)

    def _send(self, crew: TrialCrew, size: int) -> int:
        """The number of a call with the next rows of the sample, which begins anew at its end."""
        rows = self._order.rows
        some = [rows[(self._next + place) % len(rows)] for place in range(size)]
        self._next = (self._next + size) % len(rows)
        going = [(tuple(row), 1, "tune") for row in some]
        if self._order.now.batch == 1:
            return crew.send(*going[0])
        return crew.send_batch(tuple(going))


def _used(pid: int) -> float:
    """The seconds for which a process ran, or would have if others had not kept it from a core."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    try:
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        waited = 0.0
    return float(times.user + times.system + waited)
