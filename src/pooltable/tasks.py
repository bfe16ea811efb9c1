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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pooltable.cores import usable_cores
from pooltable.errors import TaskError
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
        worker.ask_to_be_recycled()


_spec: Spec | None = None
_current: Current | None = None


def current() -> Current:
    """The attempt that runs here and now.

    Raises RuntimeError outside a task and its initializer.
    """
    if _current is None:
        raise RuntimeError("current() is known only inside a task, while it runs on a row, and in its initializer")
    return _current


def _here(key: tuple[Any, ...], attempt: int, idempotency_key: str) -> Current:
    me = worker.identity()
    if me is None:
        return Current(key, attempt, idempotency_key, worker=0, threads=usable_cores(), device=None)
    return Current(key, attempt, idempotency_key, me.index, me.threads, me.device)


def prepare_worker(spec: Spec) -> None:
    """Keep the task for the rows to come and run the user's initializer; the initializer of every worker of a run."""
    global _spec, _current
    _spec = spec
    if spec.initializer is not None:
        _current = _here((), 0, "")
        try:
            spec.initializer(*spec.initargs)
        finally:
            _current = None


def run_row(values: tuple[Any, ...], attempt: int, idempotency_key: str) -> Any:
    """Run the prepared task on one row, in this process."""
    if _spec is None:
        raise RuntimeError("this process was not prepared for a task")
    with _attempt(_spec, values, attempt, idempotency_key) as row:
        return _spec.task(row)


@contextmanager
def _attempt(spec: Spec, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> Iterator[Row]:
    global _current
    key = values[: spec.key_size]
    _current = _here(key, attempt, idempotency_key)
    capture.begin(key, attempt)
    try:
        yield Row(spec.fields, values)
    finally:
        capture.end()
        _current = None


def run_row_elsewhere(number: str, spec: bytes, values: tuple[Any, ...], attempt: int, idempotency_key: str) -> Any:
    """The same in a process of somebody else's executor, which is prepared by the first row that reaches it."""
    if _prepared != [number]:
        import cloudpickle

        prepare_worker(cloudpickle.loads(spec))
        _prepared[:] = [number]
    return run_row(values, attempt, idempotency_key)


_prepared: list[str] = []


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
