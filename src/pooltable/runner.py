"""Claims rows, has them run, and writes how they ended: the front door.

run(task, table) -> Runner: what is asked for, checked -> a crew, a lease -> loop.py, until there is nothing left
"""

from __future__ import annotations

import inspect
import operator
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, ParamSpec

from pooltable import tasks
from pooltable.collector import looks_rarely
from pooltable.cores import usable_cores
from pooltable.crew import Crew, Inbox, OwnProcesses, SomebodysExecutor, ThisProcess, Workers
from pooltable.errors import MappingError, SettingError, UsageError
from pooltable.events import Event, Listener, Listeners, Summary
from pooltable.logs import Logs
from pooltable.loop import Loop, Plan
from pooltable.pace import Pace
from pooltable.patience import Answer, at_the_start
from pooltable.reporter import Callback, Reporter
from pooltable.rows import Row
from pooltable.signals import StopRequests
from pooltable.table.lease import Lease
from pooltable.table.looking import Look
from pooltable.table.states import Retry
from pooltable.table.table import TaskTable

# Nobody renews a lease while a row runs in the runner's own thread.
LEASE_HERE = 86400.0


class Runner:
    """Runs `task` on the PENDING rows of `table`, each in a worker process, until nothing is left to do.

    Use `run()` unless you want to stop it from another thread; `run()` also says what each option is.
    """

    def __init__(
        self,
        task: Callable[[Row], Any] | Callable[[list[Row]], Any],
        table: TaskTable,
        *,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        callback: Callback | None = None,
        error_callback: Callable[[Row, BaseException], object] | None = None,
        batch: int = 1,
        time_limit: float | None = None,
        retry: Retry | None = None,
        forever: bool = False,
        poll: float = 2.0,
        max_rows: int | None = None,
        drop_results: bool = False,
        executor: Executor | None = None,
        workers: Workers | None = None,
        pace: Pace | None = None,
        listeners: Sequence[Listener] | None = None,
    ) -> None:
        if not isinstance(table, TaskTable):
            raise SettingError(
                f'table must be a TaskTable, such as TaskTable("sqlite:///videos.db", "video"), not {table!r}'
            )
        _check_whole(processes=processes, batch=batch, max_rows=max_rows)
        _check_seconds(time_limit=time_limit, poll=poll)
        tasks.check(task, batch)
        _check_functions(initializer=initializer, callback=callback, error_callback=error_callback)
        _check_kind("initargs", initargs, Iterable, "a tuple, such as (path,)")
        _check_kind("retry", retry, Retry, "a Retry, such as Retry(fails=3)")
        _check_kind("executor", executor, Executor, "an executor, such as ThreadPoolExecutor(4)")
        _check_kind("workers", workers, Workers, "a Workers, such as Workers(threads=1)")
        _check_kind("pace", pace, Pace, "a Pace, such as Pace(grace=30)")
        _check_kind("listeners", listeners, Iterable, "a list of functions, such as [print]")
        if time_limit is not None and (executor is not None or processes == 0):
            raise SettingError("time_limit needs worker processes of our own: leave out executor= and processes=0")
        if executor is not None:
            size = processes or getattr(executor, "_max_workers", None) or usable_cores()
        else:
            size = 1 if processes == 0 else processes or (workers or Workers()).count() or usable_cores()
        self._table = table
        self._task = task
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._processes = processes
        self._batch = batch
        self._executor = executor
        self._time_limit = time_limit
        self._workers = workers or Workers()
        self._callbacks = (callback, error_callback)
        self._listeners = (Logs(),) if listeners is None else tuple(listeners)
        pace = pace or Pace()
        self._plan = Plan(
            size=size,
            batch=batch,
            retry=retry or Retry(),
            pace=pace,
            lease_seconds=LEASE_HERE if processes == 0 else pace.lease,
            forever=forever,
            poll=poll,
            max_rows=max_rows,
            lets_workers_go=self._workers.idle_timeout is not None,
            drop_results=drop_results,
        )
        self._once = threading.Lock()
        self._inbox = Inbox()
        self._requests = StopRequests(self._inbox.wake)

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
        look = self._when_it_is_there(self._look)
        with self._requests, looks_rarely():
            return self._open().run(look)

    def _look(self) -> Look:
        look = self._table.look()
        obstacle = look.hidden or look.no_pending
        if obstacle:
            raise MappingError(obstacle)
        # Only now, so that a wrong word is not what the job is known by.
        self._table.prepare()
        return look

    def _when_it_is_there(self, verb: Callable[[], Answer]) -> Answer:
        return at_the_start(
            verb,
            self._plan.pace.db_wait,
            Listeners(self._listeners).tell,
            self._inbox.wait,
            lambda: self._requests.count > 0,
        )

    def _open(self) -> Loop:
        """Everything that the loop closes again."""
        reporter = Reporter(self._listeners, *self._callbacks, self._plan.pace.halt)
        crew: Crew | None = None
        try:
            crew = self._make_crew(reporter)
            # A server that is silent already is given up by whoever asks twice.
            with self._requests.interrupting(2):
                lease = self._when_it_is_there(self._open_lease)
        except BaseException:
            if crew is not None:
                crew.end(lambda: False, in_a_hurry=lambda: True)
            reporter.abandon()
            raise
        return Loop(self._plan, self._table, lease, crew, self._inbox, self._requests, reporter)

    def _open_lease(self) -> Lease:
        return self._table.open_lease(seconds=self._plan.lease_seconds, processes=self._plan.size, poll=self._plan.poll)

    def _make_crew(self, reporter: Reporter) -> Crew:
        task, initializer = tasks.portable(self._task), self._initializer and tasks.portable(self._initializer)
        callback, error_callback = self._callbacks
        spec = tasks.Spec(
            task,
            self._table.fields,
            len(self._table.key),
            initializer,
            self._initargs,
            self._batch,
            store=self._table.store,
            carries=(callback is not None, error_callback is not None),
        )
        if self._executor is not None:
            return SomebodysExecutor(spec, self._inbox, self._executor, self._plan.size, self._workers.setup)
        if self._processes == 0:
            return ThisProcess(spec, self._inbox, self._requests)

        def hear(event: Event) -> None:
            # A worker came or went: on the pool's thread, so only pass it on and wake the loop.
            reporter.tell(event)
            self._inbox.wake()

        folder = reporter.read_output()
        return OwnProcesses(spec, self._inbox, self._plan.size, self._workers, self._time_limit, folder, hear)


P = ParamSpec("P")


def _as(runner: Callable[P, Runner]) -> Callable[[Callable[..., Summary]], Callable[P, Summary]]:
    """Gives a function the parameters of the runner, which stand in one place: for type checkers and for `help`."""

    def decorate(function: Callable[..., Summary]) -> Callable[P, Summary]:
        signature = inspect.signature(runner).replace(return_annotation=Summary.__name__)
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return decorate


@_as(Runner)
def run(*args: Any, **options: Any) -> Summary:
    """Run `task` on the PENDING rows of `table`, each in a worker process, until nothing is left to do.

        from pooltable import TaskTable, run

        def mission(row):
            return row.content.upper()

        if __name__ == "__main__":
            videos = TaskTable("sqlite:///videos.db", "video", write=("caption",))
            summary = run(mission, videos, processes=2)
            print(summary.done, "done,", summary.failed, "failed")

    - `task`: gets a Row; what it returns is stored in the column that the table names with `write` or `result`.
    - `table`: a TaskTable.
    - `processes`: worker processes; by default one for each core that this process may use. 0 runs the rows right
      here, so that a debugger works.
    - `initializer`, `initargs`: called once in each worker before its first row, as in `multiprocessing.Pool`.
    - `callback(row, value)`: called for each row that ended DONE; `error_callback(row, error)` for each that ended
      FAILED. Both in this process, on a thread of their own, after the commit.
    - `batch`: the task gets a list of up to so many rows, and returns a list with one result for each, in the same
      order: None where there is nothing to store, an exception for a row that failed.
    - `time_limit`: seconds that one call of the task may run, be it a row or a batch; then its worker is killed.
    - `retry`: how often a row is tried, and how long it waits meanwhile. By default one that raises is FAILED.
    - `forever`: go on and take new rows as they come, until SIGTERM, Ctrl-C or `Runner.stop()`.
    - `poll`: seconds between looks for new rows while there is nothing to do.
    - `max_rows`: take at most so many rows.
    - `drop_results`: what the task returns is not wanted. Without it the first value that no column and no callback
      takes ends the run with ResultDropped, and its row is PENDING again.
    - `executor`: run the rows in this `concurrent.futures.Executor`, and not in processes of ours.
    - `workers`: how the worker processes are made: threads, devices, memory, what they do first.
    - `pace`: leases, grace after a stop, when to halt because everything fails.
    - `listeners`: functions that get every event; by default one that logs.

    Raises what `Runner.run()` raises.
    """
    return Runner(*args, **options).run()


def _check_whole(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is None:
            continue
        least = 0 if name == "processes" else 1
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise SettingError(f"{name} must be a whole number, such as {least or 1}, not {number!r}")
        if operator.index(number) < least:
            raise SettingError(f"{name} must be {least} or more, not {number!r}")


def _check_seconds(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
            raise SettingError(f"{name} must be a number of seconds, not {number!r}")
        if number <= 0:
            raise SettingError(f"{name} must be more than 0 seconds, not {number!r}")


def _check_functions(**functions: object) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise SettingError(f"{name} must be a function, not {function!r}")


def _check_kind(name: str, value: object, kind: Any, wanted: str) -> None:
    # A text can be iterated over, and is meant nowhere.
    if value is not None and (not isinstance(value, kind) or isinstance(value, str)):
        raise SettingError(f"{name} must be {wanted}, not {value!r}")
