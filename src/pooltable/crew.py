"""Who runs the rows of a run: our own pool's processes, this process itself, or somebody else's executor.

    runner --- send(row) --->  Crew  --- answers, by their call's number --->  Inbox  --- the runner collects

All three answer through one inbox, which is also the bell that wakes the runner's loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from uuid import uuid4

from pooltable import tasks
from pooltable.errors import WorkerLost, WorkerStartError
from pooltable.events import Event
from pooltable.outcomes import Outcome, Raised, Returned
from pooltable.pool.local import LocalEngine
from pooltable.tasks import Spec


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
        """Run the task on this row; its answer carries the number that is returned."""

    def cancel(self, call: int, kill: bool) -> bool:
        """Drop the call if it has not started, end it if `kill`; either way it is answered."""

    def wait(self, seconds: float, answers: int) -> bool:
        """Wait until something happened, as the inbox does."""

    def end(self, seconds: float) -> None:
        """End every worker; whatever still runs is killed after so many seconds."""


@dataclass(frozen=True)
class Workers:
    """How the worker processes are made; each field as in `Pool`."""

    threads: int | None = None
    devices: str | None = None
    memory: int | str | None = None
    maxtasksperchild: int | None = None
    idle_timeout: float | None = None
    context: Any = None

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
        self.inbox = inbox
        self._engine = LocalEngine(
            processes,
            initializer=tasks.prepare_worker,
            initargs=(spec,),
            min_processes=0,
            time_limit=time_limit,
            capture=capture,
            listener=listener,
            **workers.options(),
        )

    @property
    def ready(self) -> int:
        return self._engine.ready

    @property
    def broken(self) -> BaseException | None:
        return self._engine.broken

    def start(self, workers: int) -> None:
        self._engine.start(workers)

    def send(self, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> int:
        return self._engine.submit(tasks.run_row, (values, attempt, idempotency_key), sink=self.inbox)

    def cancel(self, call: int, kill: bool) -> bool:
        return self._engine.cancel(call, kill=kill)

    def wait(self, seconds: float, answers: int) -> bool:
        return self.inbox.wait(seconds, answers)

    def end(self, seconds: float) -> None:
        self._engine.close()
        if not self._engine.join(seconds):
            self._engine.terminate()
            self._engine.join()


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

    def __init__(self, spec: Spec, inbox: Inbox) -> None:
        self.inbox = inbox
        self._spec = spec
        self._calls: deque[tuple[int, tuple[Any, ...]]] = deque()
        self._numbers = count(1)
        self._prepared = False
        self.broken: BaseException | None = None

    @property
    def ready(self) -> int:
        return int(self._prepared)

    def start(self, workers: int) -> None:
        if self._prepared or self.broken:
            return
        try:
            tasks.prepare_worker(self._spec)
        except Exception as error:
            self.broken = WorkerStartError(f"the initializer raised {type(error).__name__}: {error}")
            self.broken.__cause__ = error
        else:
            self._prepared = True

    def send(self, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> int:
        call = next(self._numbers)
        self._calls.append((call, (values, attempt, idempotency_key)))
        return call

    def cancel(self, call: int, kill: bool) -> bool:
        for place, (number, _) in enumerate(self._calls):
            if number == call:
                del self._calls[place]
                self.inbox.answered(call, Told(0, None, 0.0, Raised(CancelledError())))
                return True
        return False

    def wait(self, seconds: float, answers: int) -> bool:
        if not self._calls:
            return self.inbox.wait(seconds, answers)
        call, arguments = self._calls.popleft()
        started = time.perf_counter()
        ended: Outcome
        try:
            ended = Returned(tasks.run_row(*arguments))
        except KeyboardInterrupt:
            # The second Ctrl-C: the row goes back as it would from a worker that was stopped.
            ended = Raised(CancelledError())
        except BaseException as error:
            ended = Raised(error)
        self.inbox.answered(call, Told(0, None, time.perf_counter() - started, ended))
        return True

    def end(self, seconds: float) -> None:
        pass


class SomebodysExecutor:
    """Runs rows through any `concurrent.futures.Executor`; it stays the caller's, who also ends it."""

    def __init__(self, spec: Spec, inbox: Inbox, executor: Executor, workers: int) -> None:
        import cloudpickle

        self.inbox = inbox
        self.broken: BaseException | None = None
        self._executor = executor
        self._workers = workers
        # By value and once: each process of the executor prepares itself when the first row reaches it.
        self._spec = (uuid4().hex, cloudpickle.dumps(spec))
        self._numbers = count(1)
        self._futures: dict[int, Future[Any]] = {}

    @property
    def ready(self) -> int:
        return 0 if self.broken else self._workers

    def start(self, workers: int) -> None:
        pass

    def send(self, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> int:
        call = next(self._numbers)
        sent = time.perf_counter()
        try:
            future = self._executor.submit(tasks.run_row_elsewhere, *self._spec, values, attempt, idempotency_key)
        except Exception as error:
            self.broken = WorkerStartError(f"the executor takes no more calls: {type(error).__name__}: {error}")
            self.inbox.answered(call, Told(None, None, 0.0, Raised(self.broken)))
            return call
        self._futures[call] = future
        future.add_done_callback(lambda future: self._ended(call, future, time.perf_counter() - sent))
        return call

    def _ended(self, call: int, future: Future[Any], seconds: float) -> None:
        if self._futures.pop(call, None) is None:
            return
        error = CancelledError() if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor):
            error = WorkerLost(0, None, str(error))
        ended = Returned(future.result()) if error is None else Raised(error)
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

    def wait(self, seconds: float, answers: int) -> bool:
        return self.inbox.wait(seconds, answers)

    def end(self, seconds: float) -> None:
        self._futures.clear()
