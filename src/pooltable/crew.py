"""Who runs the rows of a run: our own pool's processes, this process itself, or somebody else's executor.

    runner --- send(row) --->  Crew  --- answers, by their call's number --->  Inbox  --- the runner collects

All three answer through one inbox, which is also the bell that wakes the runner's loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass, replace
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from uuid import uuid4

from pooltable import batches, tasks
from pooltable.batches import Batch, Going
from pooltable.config import BY_NAME
from pooltable.errors import SettingError, WorkerLost, WorkerStartError
from pooltable.events import Event, WorkerEnded, WorkerReady
from pooltable.outcomes import Outcome, Raised, Returned
from pooltable.pool import engine, forked
from pooltable.pool.devices import devices_of
from pooltable.pool.local import LocalEngine, Memory
from pooltable.pool.setup import Setup, check as check_setup
from pooltable.signals import StopRequests
from pooltable.tasks import Spec
from pooltable.uptime import uptime

# How workers are ended: how often it is looked whether they are gone, and how long at most when they are killed.
LOOK_SECONDS = 0.05
LAST_SECONDS = 10.0
IN_A_HURRY_SECONDS = 1.0
# Between two tries to start a worker beside others that work; it doubles from the first to the last.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0


class Answer(Protocol):
    """How a call ended and where; `seconds` is how long it ran."""

    @property
    def worker(self) -> int | None: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def seconds(self) -> float: ...
    def outcome(self) -> Outcome: ...


class Inbox:
    """Answers and wake-ups for the runner's loop, from any thread and from signal handlers."""

    def __init__(self) -> None:
        # A SimpleQueue may be put to by a signal handler that interrupted its own get; a Condition would deadlock.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._answers: deque[tuple[int, Answer]] = deque()
        self._ring_at = 1

    def heard(self, record: engine.Record, worker: int | None, pid: int | None) -> None:
        """As the engine tells it."""
        self.answered(record[0], engine.Answer(record, worker, pid))

    def answered(self, call: int, answer: Answer) -> None:
        self._answers.append((call, answer))
        if len(self._answers) >= self._ring_at:
            self._bell.put(None)

    def wake(self) -> None:
        self._bell.put(None)

    def collect(self) -> list[tuple[int, Answer]]:
        # By count and popleft, since the I/O thread may append meanwhile.
        return [self._answers.popleft() for _ in range(len(self._answers))]

    def wait(self, seconds: float, answers: int = 1) -> bool:
        """Wait until so many answers are here or somebody wakes us; False when the time ran out instead."""
        # Many short calls end together: one wake-up for many of them leaves the processor to the workers.
        self._ring_at = answers
        if len(self._answers) >= answers:
            return True
        try:
            self._bell.get(timeout=max(0.0, seconds))
        except Empty:
            return False
        for _ in range(self._bell.qsize()):
            self._bell.get_nowait()
        return True


class Crew(Protocol):
    """Who runs the rows; no method blocks but `wait` and `end`."""

    inbox: Inbox

    @property
    def ready(self) -> int:
        """How many rows can run at once, as of now."""

    @property
    def broken(self) -> BaseException | None:
        """Why nothing can run any more."""

    def start(self, workers: int) -> None:
        """See to it that so many workers are there or coming."""

    def send(self, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> int:
        """Run the task on this row; its answer carries the number that is returned, and how the row ended: None where
        the task returned None."""

    def send_each(self, rows: Sequence[Going]) -> list[int]:
        """As `send` for each of these rows; fewer numbers where the next one cannot travel."""

    def send_batch(self, batch: Batch) -> int:
        """Run the task on these rows; its answer has one `batches.End` for each."""

    def cancel(self, call: int, kill: bool) -> bool:
        """Drop the call if it has not started, end it if `kill`; either way it is answered."""

    def replace(self, pid: int) -> None:
        """Have this worker replaced by a new one, before the next row that it would run."""

    def send_until(self, moment: float) -> None:
        """Begin no row after that moment, by the clock of uptime, until it is moved."""

    def wait(self, seconds: float, answers: int) -> bool:
        """Wait until something happened, as the inbox does."""

    def end(self, patient: Callable[[], bool], in_a_hurry: Callable[[], bool]) -> None:
        """End every worker; whatever still runs is ended when the caller is patient no more, and killed without grace
        as soon as the caller is in a hurry."""


@dataclass(frozen=True)
class Workers:
    """How the worker processes are made; each field as in `Pool`.

    `setup="django.setup"` is what each worker does before the task's module is imported there.
    """

    threads: int | None = None
    devices: str | None = None
    preload: str | None = None
    memory: Memory = None
    maxtasksperchild: int | None = None
    idle_timeout: float | None = None
    context: Any = None
    setup: str | Callable[[], object] | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "devices", "preload", "memory", "maxtasksperchild", "idle_timeout"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, BY_NAME[name].read(getattr(self, name), "Workers"))
        try:
            check_setup(self.setup)
        except (ValueError, TypeError) as error:
            raise SettingError(str(error)) from None

    def count(self) -> int | None:
        """How many there should be by these fields alone: one for each device. Raises SettingError for one that is not
        there."""
        try:
            return len(devices_of(self.devices)) or None
        except ValueError as error:
            raise SettingError(str(error)) from error

    def options(self) -> dict[str, Any]:
        """The fields that were set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


class OwnProcesses:
    """Runs rows in the worker processes of a pool of ours."""

    def __init__(
        self,
        spec: Spec,
        inbox: Inbox,
        processes: int,
        workers: Workers,
        time_limit: float | None,
        capture: str,
        listener: Callable[[Event], object],
    ) -> None:
        """Raises SettingError where `workers` do not fit."""
        self.inbox = inbox
        self._listener = listener
        self._pause = 0.0
        self._start_at = 0.0
        self._leaving: frozenset[int] = frozenset()
        try:
            self._engine = LocalEngine(
                processes,
                initializer=tasks.prepare_worker,
                initargs=(spec,),
                min_processes=0,
                time_limit=time_limit,
                capture=capture,
                listener=self._hear,
                **workers.options(),
            )
        except (ValueError, TypeError) as error:
            raise SettingError(f"the workers' settings do not fit: {error}") from error

    @property
    def ready(self) -> int:
        return self._engine.ready

    @property
    def broken(self) -> BaseException | None:
        return self._engine.broken

    def _hear(self, event: Event) -> None:
        """A worker came or went; on the engine's thread."""
        if isinstance(event, WorkerReady):
            self._pause = 0.0
        elif isinstance(event, WorkerEnded):
            self._leaving -= {event.pid}
            if event.why == "start failed":
                # The engine gives up only when nobody works; beside others, who cannot start is tried now and then.
                self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
                self._start_at = time.monotonic() + self._pause
        self._listener(event)

    def start(self, workers: int) -> None:
        if time.monotonic() >= self._start_at:
            self._engine.start(workers)

    def send(self, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> int:
        return self._submit(tasks.run_row, (values, attempt, idempotency_key))

    def send_each(self, rows: Sequence[Going]) -> list[int]:
        leaving = (tuple(self._leaving),) if self._leaving else ()
        return self._engine.submit_all(
            tasks.run_row, [(*row, *leaving) for row in rows] if leaving else rows, self.inbox
        )

    def send_batch(self, batch: Batch) -> int:
        return self._submit(batches.run_batch, (batch,))

    def _submit(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        if self._leaving:
            arguments = *arguments, tuple(self._leaving)
        return self._engine.submit(function, arguments, None, self.inbox)

    def cancel(self, call: int, kill: bool) -> bool:
        return self._engine.cancel(call, kill=kill)

    def replace(self, pid: int) -> None:
        self._leaving |= {pid}

    def send_until(self, moment: float) -> None:
        self._engine.send_until(moment)

    def wait(self, seconds: float, answers: int) -> bool:
        return self.inbox.wait(seconds, answers)

    def end(self, patient: Callable[[], bool], in_a_hurry: Callable[[], bool]) -> None:
        self._engine.close()
        while not self._engine.join(LOOK_SECONDS):
            # Who is still starting has nothing to bring to an end.
            if not patient() or all(worker.state == "starting" for worker in self._engine.workers()):
                self._terminate(in_a_hurry)
                return

    def _terminate(self, in_a_hurry: Callable[[], bool]) -> None:
        until = time.monotonic() + LAST_SECONDS
        self._engine.terminate(kill=in_a_hurry())
        while not self._engine.join(LOOK_SECONDS) and time.monotonic() < until:
            if in_a_hurry():
                self._engine.terminate(kill=True)
                self._engine.join(IN_A_HURRY_SECONDS)
                return


@dataclass(frozen=True, slots=True)
class Told:
    """An answer that is at hand already."""

    worker: int | None
    pid: int | None
    seconds: float
    ended: Outcome

    def outcome(self) -> Outcome:
        return self.ended


class ThisProcess:
    """Runs rows one after the other in this process, so that a debugger works; rows run while the loop waits."""

    def __init__(self, spec: Spec, inbox: Inbox, requests: StopRequests) -> None:
        self.inbox = inbox
        self._spec = replace(spec, travels=False)
        self._requests = requests
        self._calls: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._numbers = count(1)
        self._until = 0.0
        self._prepared = False
        self.broken: BaseException | None = None

    @property
    def ready(self) -> int:
        return int(self._prepared)

    def start(self, workers: int) -> None:
        if not workers or self._prepared or self.broken:
            return
        try:
            tasks.initialize(self._spec)
        except Exception as error:
            self.broken = WorkerStartError(f"the initializer raised {type(error).__name__}: {error}")
            self.broken.__cause__ = error
        else:
            self._prepared = True

    def send(self, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> int:
        return self._queue(tasks.run_here, (values, attempt, idempotency_key))

    def send_each(self, rows: Sequence[Going]) -> list[int]:
        return [self.send(*row) for row in rows]

    def send_batch(self, batch: Batch) -> int:
        return self._queue(batches.run_batch_here, (batch,))

    def _queue(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        call = next(self._numbers)
        self._calls.append((call, function, arguments))
        return call

    def cancel(self, call: int, kill: bool) -> bool:
        for place, (number, *_) in enumerate(self._calls):
            if number == call:
                del self._calls[place]
                self.inbox.answered(call, Told(0, None, 0.0, Raised(CancelledError())))
                return True
        return False

    def replace(self, pid: int) -> None:
        pass

    def send_until(self, moment: float) -> None:
        self._until = moment

    def wait(self, seconds: float, answers: int) -> bool:
        if not self._calls or uptime() >= self._until:
            return self.inbox.wait(seconds, answers)
        call, function, arguments = self._calls.popleft()
        started = time.perf_counter()
        ended = self._run(function, arguments)
        self.inbox.answered(call, Told(0, None, time.perf_counter() - started, ended))
        return True

    def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
        try:
            # The second Ctrl-C must reach the row that runs in this very thread.
            with self._requests.interrupting(2), forked.EndsCopies():
                if self._requests.count >= 2:
                    return Raised(CancelledError())
                return Returned(function(self._spec, *arguments))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and self._requests.count >= 2:
                # The row goes back as it would from a worker that was stopped.
                return Raised(CancelledError())
            return Raised(error)

    def end(self, patient: Callable[[], bool], in_a_hurry: Callable[[], bool]) -> None:
        pass


class SomebodysExecutor:
    """Runs rows through any `concurrent.futures.Executor`; it stays the caller's, who also ends it."""

    def __init__(self, spec: Spec, inbox: Inbox, executor: Executor, workers: int, setup: Setup = None) -> None:
        import cloudpickle

        self.inbox = inbox
        self.broken: BaseException | None = None
        self._executor = executor
        self._workers = workers
        # By value and once: each process of the executor prepares itself when the first row reaches it. Unpickling the
        # task imports its module, which may need what the setup does.
        self._spec = (uuid4().hex, cloudpickle.dumps((setup, cloudpickle.dumps(spec))))
        self._numbers = count(1)
        tasks.begin_elsewhere(self._spec[0])
        # Of how the row ended, or the rows, and the seconds it took there.
        self._futures: dict[int, Future[tuple[Any, float]]] = {}

    @property
    def ready(self) -> int:
        return 0 if self.broken else self._workers

    def start(self, workers: int) -> None:
        pass

    def send(self, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> int:
        return self._submit(tasks.run_row_elsewhere, (values, attempt, idempotency_key))

    def send_each(self, rows: Sequence[Going]) -> list[int]:
        return [self.send(*row) for row in rows]

    def send_batch(self, batch: Batch) -> int:
        return self._submit(batches.run_batch_elsewhere, (batch,))

    def _submit(self, function: Callable[..., tuple[Any, float]], arguments: tuple[Any, ...]) -> int:
        call = next(self._numbers)
        sent = time.perf_counter()
        try:
            future = self._executor.submit(function, *self._spec, *arguments)
        except Exception as error:
            self.broken = WorkerStartError(f"the executor takes no more calls: {type(error).__name__}: {error}")
            self.inbox.answered(call, Told(None, None, 0.0, Raised(self.broken)))
            return call
        self._futures[call] = future
        future.add_done_callback(lambda future: self._ended(call, future, time.perf_counter() - sent))
        return call

    def _ended(self, call: int, future: Future[tuple[Any, float]], seconds: float) -> None:
        if self._futures.pop(call, None) is None:
            return
        error = CancelledError() if future.cancelled() else future.exception()
        if isinstance(error, WorkerStartError):
            self.broken = error
        elif isinstance(error, BrokenExecutor):
            error = WorkerLost(0, None, str(error))
        ended: Outcome
        if error is None:
            value, seconds = future.result()
            ended = Returned(value)
        else:
            ended = Raised(error)
        self.inbox.answered(call, Told(None, None, seconds, ended))

    def cancel(self, call: int, kill: bool) -> bool:
        future = self._futures.get(call)
        if future is None:
            return False
        if future.cancel():
            return True
        if kill and self._futures.pop(call, None) is not None:
            # It cannot be ended from here. Its claim number fences out whatever it does later.
            self.inbox.answered(call, Told(None, None, 0.0, Raised(CancelledError())))
            return True
        return False

    def replace(self, pid: int) -> None:
        pass

    def send_until(self, moment: float) -> None:
        pass  # what it was given, it begins when it likes

    def wait(self, seconds: float, answers: int) -> bool:
        return self.inbox.wait(seconds, answers)

    def end(self, patient: Callable[[], bool], in_a_hurry: Callable[[], bool]) -> None:
        # Rows that have not begun must not begin after the run is over and they were given back.
        for future in list(self._futures.values()):
            future.cancel()
        while self._futures and patient():
            wait(list(self._futures.values()), LOOK_SECONDS)
        self._futures.clear()
        tasks.end_elsewhere(self._spec[0])
