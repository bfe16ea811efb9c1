"""Measures one choice of processes, threads and rows at once for a short while, with workers that are there already.

As many calls are under way as a run would have. A call counts by the part of it that lay within the time, so that long
calls are measured as fairly as short ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import mean, median

from pooltable.batches import End
from pooltable.crew import Answer, Inbox, OwnProcesses, Workers
from pooltable.events import Event, WorkerReady
from pooltable.outcomes import Failure, Raised, failure_of
from pooltable.pace import Room
from pooltable.tasks import Spec
from pooltable.tuning import Score

LOOK_SECONDS = 0.05
LAST_SECONDS = 5.0  # for calls that run when their time is over
ENOUGH_CALLS = 20  # to say that a task fails, where more than half of them did
SHORT_CALL = 1e-3  # seconds; less than that does not lie across a border


class TrialCrew(OwnProcesses):
    """Workers of ours whose output nobody reads."""

    def __init__(self, spec: Spec, processes: int, workers: Workers, folder: str) -> None:
        self._began = time.monotonic()
        self._ready_after: list[float] = []
        super().__init__(spec, Inbox(), processes, workers, None, folder, self._heard)

    def _heard(self, event: Event) -> None:
        if isinstance(event, WorkerReady):
            self._ready_after.append(time.monotonic() - self._began)
        self.inbox.wake()

    @property
    def start_seconds(self) -> float:
        """After how many seconds a worker was ready, its initializer included."""
        return mean(self._ready_after) if self._ready_after else 0.0

    def pids(self) -> list[int]:
        return [worker.pid for worker in self._engine.workers() if worker.pid]


Send = Callable[[TrialCrew, int], int]


def try_out(crew: TrialCrew, send: Send, score: Score, seconds: float, ends: float, least: float) -> float:
    """Measure for so many seconds, until `ends` by the monotonic clock, and note the rate, or why it failed, in
    `score`. Who is below the `least` rate is cut early. The seconds by which a worker's first call was longer than
    others, as where it loads a model."""
    trial = _Trial(crew, send, score)
    trial.run(seconds, ends, least)
    return trial.longer_first_calls()


class _Trial:
    def __init__(self, crew: TrialCrew, send: Send, score: Score) -> None:
        self._crew = crew
        self._send = send
        self._score = score
        self._size = score.choice.batch
        self._room = Room(self._size)
        self._out: set[int] = set()
        self._ended: list[tuple[float, float]] = []  # when each call ended, and the seconds it ran
        self._failed = 0
        self._seen: set[int] = set()  # workers that have ended a call
        self._first: list[float] = []  # the seconds of each worker's first call
        self._others: list[float] = []

    def longer_first_calls(self) -> float:
        if not self._first or not self._others:
            return 0.0
        usual = median(self._others)
        return mean(max(0.0, seconds - usual) for seconds in self._first)

    def run(self, seconds: float, ends: float, least: float) -> None:
        score = self._score
        # Each worker runs one call first, which pays for its caches.
        self._work(min(ends, time.monotonic() + seconds), lambda: len(self._seen) >= score.choice.processes)
        start = time.monotonic()
        self._work(min(ends, start + seconds / 3))
        score.cut = 0 < self._rate(start, time.monotonic()) < least
        if not score.cut:
            self._work(min(ends, start + seconds))
        end = time.monotonic()
        self._drain(min(ends, end + max(LAST_SECONDS, 2 * seconds)))
        rate = self._rate(start, end)
        if rate and not score.failure:
            score.rates.append(rate)

    def _work(self, until: float, enough: Callable[[], bool] = lambda: False) -> None:
        while time.monotonic() < until and not self._score.failure and not enough():
            held = self._size * len(self._out)
            # Two calls a worker at least: one runs, one waits.
            rows = max(2 * self._size * self._score.choice.processes, held + self._room.free(self._crew.ready, held))
            while self._size * len(self._out) < rows:
                self._out.add(self._send(self._crew, self._size))
            self._crew.wait(min(LOOK_SECONDS, max(0.0, until - time.monotonic())), max(1, min(64, len(self._out) // 2)))
            self._collect()

    def _collect(self) -> None:
        now = time.monotonic()
        seconds, count = 0.0, 0
        for call, answer in self._crew.inbox.collect():
            if call not in self._out:
                continue  # of a trial before this one, which did not wait for it
            self._out.discard(call)
            if answer.pid is None:
                continue  # it was called off before it began
            (self._others if answer.pid in self._seen else self._first).append(answer.seconds)
            self._seen.add(answer.pid)
            self._ended.append((now, answer.seconds))
            seconds, count = seconds + answer.seconds, count + 1
            self._judge(answer)
        if seconds:
            self._room.saw_rows(count * self._size, seconds)

    def _judge(self, answer: Answer) -> None:
        failure = why_failed(answer)
        if failure is None:
            return
        self._failed += 1
        calls = len(self._ended)
        hopeless = failure.how == "lost" or failure.kind == "MemoryError"
        if hopeless or (calls >= ENOUGH_CALLS and 2 * self._failed > calls):
            self._score.failure = failure.reason

    def _rate(self, start: float, end: float) -> float:
        """Rows a second between these two times."""
        calls = 0.0
        for at, seconds in self._ended:
            if seconds < SHORT_CALL:
                calls += start <= at <= end
            else:
                calls += max(0.0, min(at, end) - max(at - seconds, start)) / seconds
        return calls * self._size / max(1e-9, end - start)

    def _drain(self, until: float) -> None:
        """Calls that run still have a part in what was measured; those that wait have none."""
        for call in list(self._out):
            self._crew.cancel(call, kill=bool(self._score.failure))
        while self._out and time.monotonic() < until:
            self._crew.wait(LOOK_SECONDS, 1)
            self._collect()


def why_failed(answer: Answer) -> Failure | None:
    """Why the call failed, or all of its rows."""
    outcome = answer.outcome()
    if isinstance(outcome, Raised):
        return failure_of(outcome.error)
    ended = outcome.value
    if isinstance(ended, Failure):
        return ended
    if isinstance(ended, list) and ended and all(isinstance(end, End) for end in ended):
        failures = [end.ended for end in ended if isinstance(end.ended, Failure)]
        return failures[0] if len(failures) == len(ended) else None
    return None
