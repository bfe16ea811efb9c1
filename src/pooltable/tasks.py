"""What is run on a row: the user's function, where it runs, and what it may ask while it does.

    runner                                        worker
    initializer  prepare_worker(Spec)  -------->  the task is kept, the user's initializer runs
    per row      run_row(values, ...)  -------->  current() is set, task(row) -> value -> Stored, or a Failure

The task and the user's initializer travel together and once per worker, so both see the same globals. Tasks that take
many rows at once are run by batches.py.

A value is turned into those of its row's columns here, and an error into words, within the row's time: whatever their
own methods do, they do it to this row alone.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from time import perf_counter
from types import FunctionType
from typing import Any, NamedTuple

from pooltable.cores import usable_cores
from pooltable.errors import CannotStore, RemoteError, TaskError, TimeLimitExceeded, WorkerStartError, describe
from pooltable.outcomes import CANCELLED, DROPPED, Failure, Pickled, RowOutcome, Stored, failure_of
from pooltable.pool import capture, forked, setup as setups, worker
from pooltable.rows import Row, key_text

# Takes a Row, or with `batch` a list of them.
Task = Callable[[Any], Any]


@dataclass
class Fits:
    """What this process has learned of its memory: so many rows go through at once, None while it never ran out."""

    rows: int | None = None


@dataclass(frozen=True)
class Spec:
    """All that a worker must know before its first row; the first `key_size` of `fields` are the key.

    `batch`: the task takes lists of up to so many rows. `store` turns a value into columns and their values; None where
    it has no column. `carries`: for whom the task's own value, and its own error, travel along: a callback, an error
    callback. `travels`: to another process than the runner's.
    """

    task: Task
    fields: tuple[str, ...]
    key_size: int
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    batch: int = 1
    fits: Fits = field(default_factory=Fits)
    store: Callable[[Any], tuple[tuple[str, ...], tuple[Any, ...]]] | None = None
    carries: tuple[bool, bool] = (False, False)
    travels: bool = True


class Attempt(NamedTuple):
    """An attempt at one row: its key, the number of the attempt, and the key that stays equal over all of them."""

    key: tuple[Any, ...]
    attempt: int
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class Current:
    """The attempt that runs here and now; what `current()` returns inside a task and inside its initializer.

    In the initializer there is no row yet: `key` is empty and `attempt` 0.
    `idempotency_key` stays equal over all attempts at one row and is new when the row is run afresh: give it to
    services that must not do the same thing twice. `worker` is the number of this worker, from 0 up; `threads` is how
    many threads it owns; `device` is the device that it was given, such as "cuda:0", or None.

    With `batch`, `rows` has the `key`, `attempt` and `idempotency_key` of each row in the order of the list that the
    task got, and outside of `rows` the three are empty while the list holds more than one row.
    """

    key: tuple[Any, ...]
    attempt: int
    idempotency_key: str
    worker: int
    threads: int
    device: str | None
    rows: tuple[Attempt, ...] = ()

    def onnx_options(self) -> Any:
        """An `onnxruntime.SessionOptions` that keeps a session to the threads of this worker.

        ONNX Runtime takes no notice of environment variables; without it a session has a thread for every core.
        Raises ImportError with the remedy where ONNX Runtime is missing.
        """
        try:
            from onnxruntime import SessionOptions
        except ImportError as error:
            raise ImportError("onnx_options() needs ONNX Runtime; install it with: pip install onnxruntime") from error
        options = SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        return options

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far this row is, `done` of `total` or of nobody knows how much; shown beside its worker, and in
        `Progressed.workers`. It costs about a microsecond, and does nothing where nobody looks."""
        capture.progress(float(done), float(total or 0))

    def recycle(self) -> None:
        """Have this worker replaced by a new one after this row."""
        recycle()


class _Here:
    """What `current()` tells inside the block. It is put together when somebody asks, because most rows never do.

    A copy of this process that the block forks off ends with the block, wherever the block runs: the row's end, the
    runner's loop and its connection are not for two.
    """

    __slots__ = ("_own", "_rows", "_token", "_told")

    def __init__(self, rows: tuple[Attempt, ...]) -> None:
        self._own = forked.own()
        self._rows = rows
        self._told: Current | None = None
        self._token: Token[_Here | None]

    def __enter__(self) -> None:
        self._token = _here.set(self)
        _running.append(self)

    def __exit__(self, kind: object, error: BaseException | None, frames: object) -> None:
        if not self._own[0]:
            forked.leave(error)
        _running.remove(self)
        _here.reset(self._token)

    def told(self) -> Current:
        if self._told is None:
            me = worker.identity()
            mine = (0, _cores(), None) if me is None else (me.index, me.threads, me.device)
            self._told = Current(*(self._rows[0] if len(self._rows) == 1 else _NO_ROW), *mine, self._rows)
        return self._told


_here: ContextVar[_Here | None] = ContextVar("pooltable_here", default=None)
_running: list[_Here] = []  # more than one only where an executor of threads runs the rows


def current() -> Current:
    """The attempt that runs here and now.

    Raises RuntimeError outside a task and its initializer.
    """
    found = _here.get()
    if found is None and len(_running) == 1:
        found = _running[0]  # asked by a thread that the task has started
    if found is None:
        raise RuntimeError("current() is known only inside a task, while it runs on a row, and in its initializer")
    return found.told()


_cores = cache(usable_cores)  # to ask costs 0.1 ms


_NO_ROW = Attempt((), 0, "")


def recycle() -> None:
    """Have this process replaced after what it runs now, if it is a worker of ours."""
    if worker.identity() is not None:  # there is nobody to replace where the rows run in somebody else's process
        worker.ask_to_be_recycled()


# ---- in a worker of ours

_spec: Spec | None = None


def prepare_worker(spec: Spec) -> None:
    """Keep the task for the rows to come and run the user's initializer; the initializer of every worker of a run."""
    global _spec
    _spec = spec
    initialize(spec)


def initialize(spec: Spec) -> None:
    """Run the user's initializer."""
    if spec.initializer is not None:
        with _Here(()):
            spec.initializer(*spec.initargs)


def run_row(
    values: tuple[Any, ...], attempt: int, idempotency_key: str, leaving: Collection[int] = ()
) -> RowOutcome | None:
    """Run the prepared task on one row, in this process, unless this worker is one of those that are to be replaced."""
    spec = prepared(leaving)
    return CANCELLED if spec is None else run_here(spec, values, attempt, idempotency_key)


def prepared(leaving: Collection[int]) -> Spec | None:
    """What this process was prepared for; None if it is one of those that are to be replaced."""
    if _spec is None:
        raise RuntimeError("this process was not prepared for a task")
    if leaving and os.getpid() in leaving:
        recycle()
        return None
    return _spec


def run_here(spec: Spec, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> RowOutcome | None:
    """How the task ended on one row, in this thread; None where it returned None."""
    try:
        ended: RowOutcome | None = _on_row(
            lambda row: kept(spec, spec.task(row)), spec, values, attempt, idempotency_key
        )
        return ended
    except BaseException as error:
        if is_a_stop(error):
            raise
        if isinstance(error, MemoryError):
            recycle()
        return failed(spec, error)


def call_here(spec: Spec, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> Any:
    """What the task returns for one row, in this thread; raises what that raises."""
    return _on_row(spec.task, spec, values, attempt, idempotency_key)


def _on_row(task: Task, spec: Spec, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> Any:
    row = Attempt(values[: spec.key_size], attempt, idempotency_key)
    return work(task, Row(spec.fields, values), (row,))


def is_a_stop(error: BaseException) -> bool:
    """Whether somebody wants this process to stop: Ctrl-C is for the rows that run in it, and never for a worker."""
    return isinstance(error, KeyboardInterrupt) and worker.identity() is None


def kept(spec: Spec, value: Any) -> Stored | None:
    """What is written and told of a value that the task returned; None where that is nothing.

    Raises CannotStore where the value is nothing that its columns can hold, or does not reach its callback.
    """
    if value is None:
        return None
    carries = spec.carries[0]
    if spec.store is None and not carries:
        return DROPPED
    try:
        columns, values = spec.store(value) if spec.store is not None else ((), ())
        return Stored(columns, values, _carried(value, spec.travels) if carries else None)
    except (CannotStore, MemoryError):
        raise
    except BaseException as error:
        if is_a_stop(error):
            raise
        told = describe(error)
        raise CannotStore(f"the result cannot be stored: {told.reason}\n\n{told.detail}") from error


_TRAVEL_BY_THEMSELVES = frozenset({bool, int, float, str, bytes})


def _carried(value: Any, travels: bool) -> Any:
    """A value for a callback, which rebuilds it: that it can be is made sure of here, because the callback comes after
    the commit, when the row cannot fail any more."""
    if not travels or type(value) in _TRAVEL_BY_THEMSELVES:
        return value
    try:
        try:
            carried = Pickled(value)
        except Exception:
            if "pooltable.pool.byvalue" not in sys.modules:
                raise
            from pooltable.pool import byvalue

            carried = Pickled(value, byvalue.dumps)
        carried.load()
    except MemoryError:
        raise
    except BaseException as error:
        if is_a_stop(error):
            raise
        told = describe(error)
        raise CannotStore(f"the result cannot be given to the callback: {told.reason}\n\n{told.detail}") from error
    return carried


def failed(spec: Spec, error: BaseException) -> Failure:
    """The error in words; with the error itself for an error callback."""
    carried: Any = None
    if spec.carries[1]:
        carried = worker.describe(error, skip=0) if spec.travels else error
    try:
        return failure_of(error, carried)
    except BaseException as second:  # a Later says its seconds or its reason in words of its own
        if is_a_stop(second):
            raise
        return failure_of(second, carried)


def work(task: Task, given: Any, rows: tuple[Attempt, ...]) -> Any:
    """What the task returns for what it is given; `current()` and what it prints belong to these attempts meanwhile."""
    capture.begin(mark_of(rows), rows[0].attempt)
    try:
        with _Here(rows):
            return task(given)
    except _LIKE_OURS as error:
        raise foreign(error) from error
    except Exception as error:
        if ruins_the_worker(error):
            recycle()
        raise
    finally:
        capture.end()


def mark_of(rows: Sequence[Any]) -> tuple[Any, ...]:
    """The key under which the output of these attempts, or claims, is kept: it is shown to people."""
    if len(rows) == 1:
        return rows[0].key  # type: ignore[no-any-return]
    return (f"{key_text(rows[0].key)} and {len(rows) - 1} more",)


# From an executor or a pool that the task uses itself. Coming from here they would be taken for ours: as if this row
# had never run, or its worker had died.
_LIKE_OURS = (CancelledError, BrokenExecutor, TimeLimitExceeded)


def foreign(error: BaseException) -> BaseException:
    """The error in a form that nobody takes for one of the pool that runs the task."""
    if not isinstance(error, _LIKE_OURS):
        return error
    kind = type(error)
    text = "".join(traceback.format_exception(error))
    return RemoteError(f"{kind.__module__}.{kind.__qualname__}", str(error), text)


def ruins_the_worker(error: BaseException) -> bool:
    """Whether every later row of this process would fail as well: its driver never forgets such an error."""
    return isinstance(error, Exception) and "CUDA error" in _text(error) and not is_out_of_memory(error)


# Libraries have no class in common for this, and some no class of their own. In lower case.
_OUT_OF_MEMORY_NAMES = ("outofmemory", "resourceexhausted")
_OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
    "resource_exhausted",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer rows at once may help: Python's own error, and those of torch, CUDA, onnxruntime, XLA."""
    if isinstance(error, MemoryError) or not isinstance(error, Exception):
        return isinstance(error, MemoryError)
    name, text = type(error).__name__.lower(), _text(error).lower()
    return any(part in name for part in _OUT_OF_MEMORY_NAMES) or any(part in text for part in _OUT_OF_MEMORY_TEXTS)


def _text(error: Exception) -> str:
    try:
        return str(error)
    except BaseException:
        return ""


# ---- in a process of somebody else's executor

# Such a process may outlive a run, and may serve several at once, on several threads.
_KEPT = 8
_prepared: dict[str, Spec] = {}
# Runs that this process has begun, with its own number, since a copy of it has them, too: what threads of it return
# does not travel.
_begun_here: dict[str, int] = {}
_preparing = threading.Lock()


def run_row_elsewhere(
    number: str, spec: bytes, values: tuple[Any, ...], attempt: int, idempotency_key: str
) -> tuple[RowOutcome | None, float]:
    """How the task ended and the seconds it took; the first row of a run to reach a process prepares it."""
    with forked.EndsCopies():
        known = prepared_elsewhere(number, spec)
        began = perf_counter()
        ended = run_here(known, values, attempt, idempotency_key)
        return ended, perf_counter() - began


def prepared_elsewhere(number: str, spec: bytes) -> Spec:
    """What this process was prepared for; it is now, if this is the first row of that run to reach it."""
    return _prepared.get(number) or _prepare(number, spec)


def _prepare(number: str, pickled: bytes) -> Spec:
    with _preparing:
        spec = _prepared.get(number)
        if spec is None:
            try:
                import cloudpickle

                setup, task = cloudpickle.loads(pickled)
                setups.call(setup)
                spec = replace(cloudpickle.loads(task), travels=_begun_here.get(number) != os.getpid())
                initialize(spec)
            except Exception as error:
                told = f"no worker can be started: {type(error).__name__}: {error}{setups.remedy(type(error).__name__)}"
                raise WorkerStartError(told, traceback.format_exc()) from None
            _prepared[number] = spec
            for old in list(_prepared)[:-_KEPT]:
                del _prepared[old]
        return spec


# ---- in the runner


def begin_elsewhere(number: str) -> None:
    """A run whose rows run in somebody's executor, perhaps in threads of this process."""
    _begun_here[number] = os.getpid()


def end_elsewhere(number: str) -> None:
    _begun_here.pop(number, None)


class ByValue:
    """A function that no worker can find by its name, such as a lambda: it travels with its code."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        import cloudpickle

        return cloudpickle.loads, (cloudpickle.dumps(self._function),)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def portable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in a form that reaches a worker."""
    nameless = isinstance(function, FunctionType) and "<" in function.__qualname__
    return ByValue(function) if nameless else function


def check(task: object, batch: int = 1) -> None:
    """Raises TaskError if this can never be run on a row, or on a list of up to `batch`, with the remedy."""
    given, example = ("one row", "mission(row)") if batch == 1 else ("one list of rows", "mission(rows)")
    if not callable(task):
        raise TaskError(f"the task must be a function that takes {given}, not {type(task).__name__}")
    called = task if inspect.isroutine(task) else type(task).__call__
    if inspect.iscoroutinefunction(task) or inspect.iscoroutinefunction(called):
        raise TaskError(
            f"the task {name_of(task)} is an `async def`; a worker runs one row at a time, so write a plain `def` and "
            "call asyncio.run(...) inside it"
        )
    if inspect.isgeneratorfunction(task) or inspect.isasyncgenfunction(task):
        raise TaskError(f"the task {name_of(task)} is a generator; use `return` with one result per row, not `yield`")
    try:
        inspect.signature(task).bind(())
    except TypeError as error:
        raise TaskError(
            f"the task {name_of(task)} cannot be called with {given}: {error}; write def {example}: ..."
        ) from None
    except ValueError:
        pass  # a builtin without a signature: the first row will tell


def name_of(task: object) -> str:
    """The task's name as a user would write it."""
    name = getattr(task, "__qualname__", None) or type(task).__qualname__
    module = getattr(task, "__module__", None)
    return name if module in (None, "__main__", "builtins") else f"{module}:{name}"


def set_up(setup: str | None) -> None:
    """Do here, before a task is loaded, what its workers do: `setup` is "module:function", or "module.function".

    Raises TaskError where it is missing or raises.
    """
    if setup is None:
        return
    try:
        setups.check(setup)
    except ValueError as error:
        raise TaskError(str(error)) from None
    call = load(setup if ":" in setup else ":".join(setup.rpartition(".")[::2]))
    try:
        call()
    except Exception as error:
        raise TaskError(f"setup {setup} raised {type(error).__name__}{_where(error)}: {error}") from error


def load(path: str) -> Callable[..., Any]:
    """The function behind "module:function", such as "app:mission"; the current folder is importable.

    Raises TaskError, which names what is missing and the nearest name that is there.
    """
    module_name, colon, function_name = path.partition(":")
    if not colon or not module_name or not function_name:
        raise TaskError(f"{path!r} names no function: write module:function, such as app:mission")
    if module_name.endswith(".py") or "/" in module_name:
        module = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise TaskError(f"{path!r} names a file: write the module, such as {module}:{function_name}")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = _module(module_name, path)
    for part in function_name.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, [name for name in dir(found) if not name.startswith("_")], n=1)
            hint = f"; did you mean {module_name}:{near[0]}?" if near else ""
            raise TaskError(f"{path!r}: {module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise TaskError(f"{path!r} is no function but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _module(name: str, path: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise TaskError(
                f"{path!r}: there is no module {error.name!r} in {os.getcwd()} or among the installed packages"
            ) from None
        raise TaskError(f"{path!r}: {name} needs the module {error.name!r}, which is not installed") from error
    except Exception as error:
        told = f"{type(error).__name__}: {error}{setups.remedy(type(error).__name__)}"
        raise TaskError(f"{path!r}: importing {name} failed{_where(error)}: {told}") from error


def _where(error: BaseException) -> str:
    """Where the user's own code stands in the traceback: its last frame outside the import system."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    last = ""
    step = error.__traceback__
    while step is not None:
        filename = step.tb_frame.f_code.co_filename
        if not filename.startswith("<frozen") and filename != __file__ and "importlib" not in filename:
            last = f" at {filename}:{step.tb_lineno}"
        step = step.tb_next
    return last
