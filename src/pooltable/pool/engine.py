"""What every engine speaks: who is told of an answer, and the small values that are told.

    Pool, PoolExecutor, the runner  -- submit(function, args, sink) -->  engine
    Sink  <-- heard(record) --  engine, on its I/O thread

A record holds bytes. Who wants the value unpickles them in the thread that asks, so that no user code ever runs, and no
slow unpickling happens, on the I/O thread. An Answer is for a runner, whose workers answer with plain values.
"""

from __future__ import annotations

import dis
import functools
import pickle
import signal
import threading
import traceback as tracebacks
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pooltable.errors import RemoteError
from pooltable.outcomes import Outcome, Raised, Returned

# How a call ended, as it travels: the pickled value; the error as `worker.describe` puts it; an error made in this
# process; the pickled value in a memory file.
RETURNED = 0
RAISED = 1
GIVEN = 2
LARGE = 3

_RAISE = dis.opmap["RAISE_VARARGS"]

# What rows return that store nothing, and other calls that are made for what they do.
_NOTHING = pickle.dumps(None, 5)
_RETURNED_NOTHING = Returned(None)

# What a worker says of a call: its number, how it ended, the seconds it took, and the pickled value or the error.
Record = tuple[int, int, float, Any]


class Sink(Protocol):
    """Whoever submitted a call and is told how it ended: the bare record, since this runs for every call, and what need
    not be made is not made."""

    def heard(self, record: Record, worker: int | None, pid: int | None) -> None:
        """Called once per call, on the engine's I/O thread: must be quick and must not raise. `worker` and `pid`: who
        ran it, or None for a call that never started."""


class Answer:
    """How one call ended, still as bytes.

    `worker` and `pid`: who ran it, or None for a call that never started; `seconds`: its run time in the worker, or by
    this process's clock where the worker cannot tell any more.
    """

    __slots__ = ("_record", "pid", "seconds", "worker")

    def __init__(self, record: Record, worker: int | None, pid: int | None) -> None:
        self._record = record
        self.seconds = record[2]
        self.worker = worker
        self.pid = pid

    def outcome(self) -> Outcome:
        """The value, rebuilt here and now, or the error; never raises. An error that the call itself raised stays in
        words, because to rebuild it runs code of its own."""
        if self._record[3] == _NOTHING:
            return _RETURNED_NOTHING
        if self._record[1] == RAISED:
            name, message, traceback, *_ = self._record[3]
            return Raised(RemoteError(name, message, traceback))
        returned, value = load(self._record)
        return Returned(value) if returned else Raised(value)


def load(record: Record, executor: bool = False) -> tuple[bool, Any]:
    """Whether a call returned, and the value or the error, rebuilt here and now; never raises. `executor`: the error as
    concurrent.futures gives it."""
    _, kind, _, payload = record
    if kind == RETURNED:
        try:
            return True, pickle.loads(payload)
        except BaseException as error:
            if _is_ctrl_c(error):
                raise
            return False, _cannot_load(error)
    if kind == LARGE:
        try:
            return True, payload.load()
        except BaseException as error:
            if _is_ctrl_c(error):
                raise
            return False, _cannot_load(error)
    if kind == RAISED:
        return False, rebuild(payload, executor=executor)
    return False, payload


def _cannot_load(error: BaseException) -> RemoteError:
    text = "".join(tracebacks.format_exception(error))
    kind = type(error)
    remote = RemoteError(
        f"{kind.__module__}.{kind.__qualname__}", f"the result cannot be loaded here: {_text(error)}", text
    )
    remote.__cause__ = error
    return remote


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as second:
        if _is_ctrl_c(second):
            raise
        return "(its __str__ raised)"


def _is_ctrl_c(error: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C while a value was rebuilt; its own code may raise KeyboardInterrupt, too.

    Signals are for the main thread only. Python's own handler raises from between two instructions; code of a value
    does so at a `raise`, as the program's own handler does, which then stands in the traceback.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    handler: Any = signal.getsignal(signal.SIGINT)
    while isinstance(handler, functools.partial):
        handler = handler.func
    handling = getattr(handler, "__code__", None)  # a method gives that of its function
    step, frames = error.__traceback__, []
    while step is not None:
        frames.append((step.tb_frame.f_code, step.tb_lasti))
        step = step.tb_next
    if any(code is handling for code, _ in frames):
        return True
    return bool(frames) and frames[-1][0].co_code[frames[-1][1]] != _RAISE


def rebuild(described: tuple[str, str, str, bytes | None, bool], *, executor: bool = False) -> BaseException:
    """The error that a worker described: itself where it can be rebuilt, else a RemoteError; its traceback as cause."""
    name, message, traceback, pickled, ordinary = described
    if pickled is not None and (ordinary or executor):
        try:
            error = pickle.loads(pickled)
            if isinstance(error, BaseException):
                error.__cause__ = _cause(traceback, executor)
                return error
        except BaseException as raised:
            if _is_ctrl_c(raised):
                raise
            error = None  # it cannot be rebuilt here: the words below are what is left of it
    remote = RemoteError(name, message, traceback)
    remote.__cause__ = _cause(traceback, executor)
    return remote


def _cause(traceback: str, executor: bool) -> BaseException:
    text = f'\n"""\n{traceback}"""'
    if executor:
        from concurrent.futures.process import _RemoteTraceback

        return _RemoteTraceback(text)  # type: ignore[arg-type]  # it takes a text, whatever its stub says
    from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]

    cause: BaseException = RemoteTraceback(text)
    return cause


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What one worker is at: `call` is the number of the call it runs, `since` the monotonic time it is at it."""

    index: int
    pid: int
    state: Literal["starting", "idle", "busy", "leaving"]
    call: int | None
    since: float
