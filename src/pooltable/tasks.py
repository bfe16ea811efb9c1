"""What is run on a row: the user's function, where it runs, and what it may ask while it does.

    runner                                        worker
    initializer  prepare_worker(Spec)  -------->  the task is kept, the user's initializer runs
    per row      run_row(values, ...)  -------->  current() is set, task(row) -> value

The task and the user's initializer travel together and once per worker, so both see the same globals.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from time import perf_counter
from types import FunctionType
from typing import Any

from pooltable.cores import usable_cores
from pooltable.errors import RemoteError, TaskError, TimeLimitExceeded, WorkerStartError
from pooltable.pool import capture, worker
from pooltable.rows import Row

Task = Callable[[Row], Any]


@dataclass(frozen=True)
class Spec:
    """All that a worker must know before its first row; the first `key_size` of `fields` are the key."""

    task: Task
    fields: tuple[str, ...]
    key_size: int
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Current:
    """The attempt that runs here and now; what `current()` returns inside a task and inside its initializer.

    In the initializer there is no row yet: `key` is empty and `attempt` 0.
    `idempotency_key` stays equal over all attempts at one row and is new when the row is run afresh: give it to
    services that must not do the same thing twice. `worker` is the number of this worker, from 0 up; `threads` is how
    many threads it owns; `device` is the device that it was given, such as "cuda:0", or None.
    """

    key: tuple[Any, ...]
    attempt: int
    idempotency_key: str
    worker: int
    threads: int
    device: str | None

    def recycle(self) -> None:
        """Have this worker replaced by a new one after this row."""
        _recycle()


_current: ContextVar[Current | None] = ContextVar("pooltable_current", default=None)
_running: list[Current] = []  # more than one only where an executor of threads runs the rows


def current() -> Current:
    """The attempt that runs here and now.

    Raises RuntimeError outside a task and its initializer.
    """
    found = _current.get()
    if found is None and len(_running) == 1:
        found = _running[0]  # asked by a thread that the task has started
    if found is None:
        raise RuntimeError("current() is known only inside a task, while it runs on a row, and in its initializer")
    return found


_cores = cache(usable_cores)  # to ask costs 0.1 ms


@contextmanager
def _as_current(key: tuple[Any, ...], attempt: int, idempotency_key: str) -> Iterator[None]:
    me = worker.identity()
    index, threads, device = (0, _cores(), None) if me is None else (me.index, me.threads, me.device)
    here = Current(key, attempt, idempotency_key, index, threads, device)
    token = _current.set(here)
    _running.append(here)
    try:
        yield
    finally:
        _running.remove(here)
        _current.reset(token)


def _recycle() -> None:
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
        with _as_current((), 0, ""):
            spec.initializer(*spec.initargs)


def run_row(values: tuple[Any, ...], attempt: int, idempotency_key: str, leaving: Collection[int] = ()) -> Any:
    """Run the prepared task on one row, in this process, unless this worker is one of those that are to be replaced."""
    if _spec is None:
        raise RuntimeError("this process was not prepared for a task")
    if leaving and os.getpid() in leaving:
        _recycle()
        raise CancelledError
    return run_here(_spec, values, attempt, idempotency_key)


def run_here(spec: Spec, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> Any:
    """Run the task on one row, in this thread."""
    key = values[: spec.key_size]
    with _as_current(key, attempt, idempotency_key):
        capture.begin(key, attempt)
        try:
            return spec.task(Row(spec.fields, values))
        except (CancelledError, BrokenExecutor, TimeLimitExceeded) as error:
            # From an executor or a pool that the task uses itself. Coming from here it would be taken for ours: as if
            # this row had never run, or its worker had died.
            raise _foreign(error) from error
        except Exception as error:
            if _ruins_the_worker(error):
                _recycle()
            raise
        finally:
            capture.end()


def _foreign(error: BaseException) -> RemoteError:
    kind = type(error)
    return RemoteError(f"{kind.__module__}.{kind.__qualname__}", str(error), traceback.format_exc())


def _ruins_the_worker(error: Exception) -> bool:
    """Whether every later row of this process would fail as well: its driver never forgets such an error."""
    try:
        text = str(error)
    except Exception:
        return False
    return "CUDA error" in text and "out of memory" not in text


# ---- in a process of somebody else's executor

# Such a process may outlive a run, and may serve several at once, on several threads.
_KEPT = 8
_prepared: dict[str, Spec] = {}
_preparing = threading.Lock()


def run_row_elsewhere(
    number: str, spec: bytes, values: tuple[Any, ...], attempt: int, idempotency_key: str
) -> tuple[Any, float]:
    """What the task returned and the seconds it took; the first row of a run to reach a process prepares it."""
    prepared = _prepared.get(number) or _prepare(number, spec)
    began = perf_counter()
    value = run_here(prepared, values, attempt, idempotency_key)
    return value, perf_counter() - began


def _prepare(number: str, pickled: bytes) -> Spec:
    with _preparing:
        spec = _prepared.get(number)
        if spec is None:
            try:
                import cloudpickle

                spec = cloudpickle.loads(pickled)
                initialize(spec)
            except Exception as error:
                told = f"no worker can be started: {type(error).__name__}: {error}"
                raise WorkerStartError(told, traceback.format_exc()) from None
            _prepared[number] = spec
            for old in list(_prepared)[:-_KEPT]:
                del _prepared[old]
        return spec


# ---- in the runner


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


def check(task: object) -> None:
    """Raises TaskError if this can never be run on a row, with the remedy."""
    if not callable(task):
        raise TaskError(f"the task must be a function that takes a row, not {type(task).__name__}")
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
            f"the task {name_of(task)} cannot be called with one row: {error}; write def mission(row): ..."
        ) from None
    except ValueError:
        pass  # a builtin without a signature: the first row will tell


def name_of(task: object) -> str:
    """The task's name as a user would write it."""
    name = getattr(task, "__qualname__", None) or type(task).__qualname__
    module = getattr(task, "__module__", None)
    return name if module in (None, "__main__", "builtins") else f"{module}:{name}"


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
        where = _where(error)
        raise TaskError(f"{path!r}: importing {name} failed{where}: {type(error).__name__}: {error}") from error


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
