"""Every error that pooltable raises on purpose.

    PooltableError
    ├── UsageError                 what was asked for cannot work; nothing was changed            exit 2
    │   ├── SettingError           an option, a setting or a file of settings
    │   ├── TaskError              the task cannot be found, imported or called
    │   ├── ResultDropped          the task returns values, and nobody said where they go; its row is PENDING again
    │   └── MappingError           the table, its key, columns or status words do not fit
    ├── DatabaseError              the database refuses or is gone                                exit 4
    │   ├── DatabaseUnavailable    it cannot be reached, or its patience ran out
    │   └── DatabaseReadOnly       it takes no writes: a replica, a read-only file or server
    ├── CannotStore                a task's result that the row cannot hold; the row fails
    ├── WorkerError (BrokenProcessPool)
    │   ├── WorkerLost             the worker died while it ran the call
    │   └── WorkerStartError       no worker can be started                                       exit 5
    ├── CommandFailed              a command ended with another exit status than 0, or by a signal
    ├── TimeLimitExceeded (TimeoutError)   the call was ended at its time limit
    ├── RemoteError                an exception of a worker that cannot be rebuilt here
    └── UnguardedMain (RuntimeError)       a script starts the pool again in every worker         exit 2

    TaskSignal                     raised by a task to say how its row ends
    ├── Fail                       FAILED, without retry
    └── Later                      PENDING again after some seconds, no budget used

Facts are attributes; every error survives pickling, whatever its arguments.
"""

from __future__ import annotations

import signal as _signal
import traceback
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from pooltable.text import safe_str


class PooltableError(Exception):
    """Base of all errors of pooltable."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], facts: dict[str, Any]) -> BaseException:
    # Past __init__, because its signature is not that of `args`: the standard library's two-argument trap.
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class UsageError(PooltableError):
    """What was asked for cannot work; nothing was changed."""

    exit_code = 2


class SettingError(UsageError):
    """An option, a setting or a file of settings is unknown or holds a bad value."""


class TaskError(UsageError):
    """The task cannot be found, imported or called."""


class ResultDropped(UsageError):
    """A task returned a value that has no column and no callback to go to; its row is PENDING again.

    Attributes: `key`, the row's, as text; `table`, its name.
    """

    def __init__(self, key: str, table: str) -> None:
        self.key = key
        self.table = table
        super().__init__(
            f"the task returned a value for row {key} of {table!r}, and no column takes it: name one with --result or"
            " --write (in Python result=, write=, or callback=), or say --drop-results (drop_results=True); the row is"
            " PENDING again"
        )


class MappingError(UsageError):
    """The table, its key, its columns or its status words do not fit."""


class DatabaseError(PooltableError):
    """The database refuses what pooltable must do."""

    exit_code = 4


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached."""


class DatabaseReadOnly(DatabaseError):
    """The database takes no writes: a replica, or a read-only file or server."""


class CannotStore(PooltableError):
    """A task's result cannot be stored in its row."""


class WorkerError(PooltableError, BrokenProcessPool):
    """A worker process failed, not the function that it ran."""


class WorkerLost(WorkerError):
    """The worker died while it ran the call.

    Attributes: `pid`; `exitcode` as in `multiprocessing.Process.exitcode` (negative: a signal); `signal`, its name, or
    None; `cause`, the likely cause in a few words, or None.
    """

    def __init__(self, pid: int, exitcode: int | None, cause: str | None = None, doing: str = "a call") -> None:
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal_name(exitcode)
        self.cause = cause
        ended = "was lost" if exitcode is None else f"ended with exit code {exitcode}"
        how = f"was killed by {self.signal}" if self.signal else ended
        super().__init__(f"worker {pid} {how} while running {doing}" + (f"; {cause}" if cause else ""))


def signal_name(exitcode: int | None) -> str | None:
    """The name of the signal behind a negative exit code, such as "SIGKILL"; None for any other."""
    if exitcode is None or exitcode >= 0:
        return None
    try:
        return _signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


class WorkerStartError(WorkerError):
    """No worker can be started; `traceback` is the text of what the last one raised, or None."""

    exit_code = 5

    def __init__(self, message: str, traceback: str | None = None) -> None:
        self.traceback = traceback
        super().__init__(message + (f"\n\n{traceback.rstrip()}" if traceback else ""))


class CommandFailed(PooltableError):
    """A command ended with another exit status than 0, or was killed by a signal.

    Attributes: `exitcode` as in `subprocess.Popen.returncode` (negative: a signal); `signal`, its name, or None;
    `kind`, such as "exit status 3" or "killed by SIGSEGV".
    """

    def __init__(self, exitcode: int, command: str, told: str = "", kind: str = "") -> None:
        self.exitcode = exitcode
        self.signal = signal_name(exitcode)
        self.kind = kind or (f"killed by {self.signal}" if self.signal else f"exit status {exitcode}")
        super().__init__(f"{self.kind}: {command}" + (f"\n\n{told.rstrip()}" if told.strip() else ""))


class TimeLimitExceeded(PooltableError, TimeoutError):
    """The call ran longer than its time limit of `seconds` and was ended."""

    def __init__(self, seconds: float, doing: str = "the call") -> None:
        self.seconds = seconds
        super().__init__(f"{doing} ran longer than its time limit of {seconds:g} s and was ended")


class RemoteError(PooltableError):
    """An exception that a worker raised and that cannot be rebuilt here.

    Attributes: `type_name`, qualified by its module; `message`; `traceback`, its text in the worker.
    """

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        self.type_name = type_name
        self.message = message
        self.traceback = traceback
        super().__init__(f"{type_name}: {message}" if message else type_name)


class UnguardedMain(PooltableError, RuntimeError):
    """The main module reaches `Pool()` or `run()` again when a worker imports it."""

    exit_code = 2


class TaskSignal(PooltableError):
    """Raised by a task to say how its row ends."""


class Fail(TaskSignal):
    """The row is FAILED for `reason`, and is not tried again."""

    def __init__(self, reason: object = "") -> None:
        self.reason = str(reason)
        super().__init__(self.reason)


class Later(TaskSignal):
    """The row is PENDING again and due after `seconds`; this attempt costs none of its budget."""

    def __init__(self, seconds: float, reason: object = "") -> None:
        if not seconds >= 0:
            raise ValueError(f"Later(seconds) needs a number of seconds from 0 up, not {seconds!r}")
        self.seconds = float(seconds)
        self.reason = str(reason)
        super().__init__(f"later, in {self.seconds:g} s" + (f": {self.reason}" if self.reason else ""))


class Described(NamedTuple):
    """An error in words: `kind` groups alike ones, `reason` is one line, `detail` the whole text."""

    kind: str
    reason: str
    detail: str


def describe(error: BaseException) -> Described:
    """The error in words, whatever its own methods do."""
    kind = _kind_of(error)
    text = shortened(safe_str(error.message if isinstance(error, RemoteError) else error))
    first = text.strip().splitlines()[0] if text.strip() else ""
    speaks_for_itself = isinstance(error, PooltableError) and not isinstance(error, RemoteError)
    reason = first if speaks_for_itself and first else f"{kind}: {first}" if first else kind
    if isinstance(error, RemoteError):
        detail = str.__str__(error.traceback) or reason
    else:
        detail = text if speaks_for_itself else shortened(_traceback_of(error)) or reason
    return Described(kind, reason, detail)


def shortened(text: str, limit: int = 16384) -> str:
    """The text without its middle, where it is too long."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _kind_of(error: BaseException) -> str:
    if isinstance(error, RemoteError):
        return str.__str__(error.type_name)
    if isinstance(error, CommandFailed):
        return str.__str__(error.kind)
    kind = type(error)
    own = kind.__module__ in ("builtins", "pooltable.errors", "__main__", "__mp_main__")
    return f"{kind.__qualname__}" if own else f"{kind.__module__}.{kind.__qualname__}"


# Who stands above the task in its traceback.
_RUNNING_IT = ("pooltable.tasks", "pooltable.batches")


def _traceback_of(error: BaseException) -> str:
    """Its traceback from the user's own first frame on: ours above it explain nothing."""
    try:
        step = error.__traceback__
        while step is not None and step.tb_next is not None:
            if step.tb_frame.f_globals.get("__name__") not in _RUNNING_IT:
                break
            step = step.tb_next
        return "".join(traceback.format_exception(type(error), error, step)).rstrip()
    except BaseException:
        return ""
