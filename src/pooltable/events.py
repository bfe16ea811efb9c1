"""What can happen in a run, as frozen values, and who is told of it.

The pool and the runner tell; listeners (logs, progress, the user's own) hear. The core words nothing: a
listener gets facts and words them itself. A listener that raises never touches the run: it is counted, and reported
once.

    def listener(event: Event) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pooltable import notebook
from pooltable.text import counted

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did. `elsewhere` are rows that other live runners hold.

    `exit_code`: 0 all DONE, or a service drained; 1 some FAILED; 3 stopped with work left, or rows are
    left that no run can take; 4 the database is away; 5 no worker can start; 6 halted by failures. `failures` maps a
    kind of error to its number of FAILED rows. `rate` is done and failed rows a second over `seconds`, which is the
    whole run with the start of its workers. `error` says why the run ended early, if it did.
    """

    run: str
    done: int
    failed: int
    retried: int
    lost: int
    rescued: int
    released: int
    left: int
    elsewhere: int
    seconds: float
    rate: float
    failures: dict[str, int] = field(hash=False)
    exit_code: int
    error: str = ""

    def _repr_html_(self) -> str:
        names = ("done", "failed", "retried", "lost", "rescued", "released", "left", "elsewhere")
        counts = {name: getattr(self, name) for name in names}
        shown = {name: count for name, count in counts.items() if count or name in ("done", "failed", "left")}
        shown |= {"seconds": self.seconds, "rows/s": self.rate}
        parts = [notebook.table(list(shown), [list(shown.values())])]
        if self.failures:
            kinds = sorted(self.failures.items(), key=lambda item: -item[1])
            parts.append(notebook.table(["failure", "rows"], kinds))
        if self.error:
            parts.append(notebook.paragraph(self.error))
        return "".join(parts)


# ---- the run


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    job: str
    table: str
    runner: str
    pid: int
    processes: int
    pending: int


@dataclass(frozen=True, slots=True)
class Progressed(Event):
    """About once a second: where the run stands. `pending` was counted `counted_ago` seconds ago; the other counts are
    exact. `rate` is done and failed rows a second over `seconds`, which is the run so far. `seconds_left` is how long
    the rest takes at least and at most, None where that cannot be said.
    """

    pending: int
    doing: int
    done: int
    failed: int
    retried: int
    lost: int
    seconds: float
    rate: float
    counted_ago: float
    workers: tuple[WorkerDoing, ...] = ()
    seconds_left: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class WorkerDoing:
    """What one worker is at: `key` None is idle. `done` and `total` are what its task told of its progress."""

    worker: int
    pid: int
    key: Key | None
    seconds: float
    done: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """Nothing can be claimed now. `seconds`: until the earliest row under back-off is due, or None (new rows only)."""

    waiting: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Paused(Event):
    """The job is paused (`paused=True`), or goes on again."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """`drain`: no more claims, what runs may end within `grace` seconds; `now`: it is killed; `leave`: at once."""

    step: Literal["drain", "now", "leave"]
    reason: str
    running: int
    grace: float


@dataclass(frozen=True, slots=True)
class Halted(Event):
    """`count` rows in a row failed alike; the run ends, or with `pause` goes on after so many seconds."""

    kind: str
    count: int
    reason: str
    pause: float | None


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    summary: Summary


@dataclass(frozen=True, slots=True)
class Noticed(Event):
    """Something the user should know before or during the run, once a run.

    `what` is one of: "foreign doing rows" (count), "rows left as doing" (count), "rows without a key" (count), "index
    missing" (name: SQL to make it), "row marked by the task" (name: key), "row overwritten" (name: key), "file system
    unsafe" (name), "notify lost", "result unused", "large columns" (count: bytes), "file replaced", "listener failed"
    (name: error), "callback failed" (name: error).
    """

    what: str
    count: int = 0
    name: str = ""


# ---- workers


@dataclass(frozen=True, slots=True)
class WorkerStarting(Event):
    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerReady(Event):
    """The initializer returned; `seconds` since the worker was started."""

    worker: int
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerEnded(Event):
    """`why`: "lost" (it died on its own), "start failed", "recycled", "idle", "killed" (by us), "stopped".

    `running`: a call died with it, whose own end is told as well.
    """

    worker: int
    pid: int
    exitcode: int | None
    why: Literal["lost", "start failed", "recycled", "idle", "killed", "stopped"]
    detail: str = ""
    running: bool = False


@dataclass(frozen=True, slots=True)
class WorkersBroken(Event):
    """No worker can be started; `error` is a WorkerStartError."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class WorkersCapped(Event):
    """There is memory for only so many `workers` and not for all `processes`; told once.

    `size` is what the first one had for itself after its initializer, `available` what was left then, both in bytes.
    """

    workers: int
    processes: int
    size: int
    available: int

    def __str__(self) -> str:
        return (
            f"the first worker takes {self.size >> 20} MiB and {self.available >> 20} MiB are left: "
            f"{counted(self.workers, 'worker is', 'workers are')} started and not {self.processes}"
        )


@dataclass(frozen=True, slots=True)
class TooManyThreads(Event):
    """A worker runs more `threads` than it owns; told once. `names` says whose they are, and how many each."""

    worker: int
    pid: int
    threads: int
    owned: int
    names: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        whose = ", ".join(f"{name} {count}" for name, count in self.names)
        return (
            f"worker {self.worker} runs {counted(self.threads, 'thread')} and owns {self.owned} ({whose}): tell the "
            "library how many to use, such as current().threads"
        )


@dataclass(frozen=True, slots=True)
class ThreadsLeft(Event):
    """A worker that was let go was ended, because threads of a task's still ran after two seconds; told once. `names`:
    what the threads are called."""

    worker: int
    pid: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.names))
        return (
            f"worker {self.worker} (pid {self.pid}) was ended 2 s after it was let go, because threads of a task still "
            f"ran: {names}. Join them before the task returns, or start them with daemon=True"
        )


@dataclass(frozen=True, slots=True)
class WorkerPrinted(Event):
    """What a worker wrote to stdout or stderr, also from C; whole lines where they end in time."""

    worker: int
    pid: int
    key: Key | None
    text: str


@dataclass(frozen=True, slots=True)
class WorkerLogged(Event):
    """A log record of a worker, as `logging.LogRecord.__dict__` with the message already merged, traceback as text."""

    worker: int
    pid: int
    key: Key | None
    record: dict[str, Any] = field(hash=False)


# ---- rows


@dataclass(frozen=True, slots=True)
class RowsClaimed(Event):
    count: int
    seconds: float
    keys: tuple[Key, ...] = ()


End = Literal["done", "failed", "retry", "later", "released"]


class RowEnd(NamedTuple):
    """One attempt's end as it was written. `pause` is set for "retry" and "later": seconds until the row is due."""

    key: Key
    attempt: int
    end: End
    worker: int | None
    seconds: float
    kind: str = ""
    reason: str = ""
    pause: float | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class RowsFinished(Event):
    """A group of ends that one transaction wrote in `seconds`."""

    rows: tuple[RowEnd, ...]
    seconds: float


NotWritten = Literal["locked", "vanished", "overwritten", "fenced", "marked", "stuck"]


@dataclass(frozen=True, slots=True)
class RowNotWritten(Event):
    """An end that was not written, and why; never an error of the run.

    locked: another transaction holds the row, tried again with the next group. vanished: the row is gone.
    overwritten: the user changed its status. fenced: another claim holds it. marked: the task wrote the status
    itself, taken as the end. stuck: the database refuses even FAILED.
    """

    key: Key
    attempt: int
    why: NotWritten
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RowsRescued(Event):
    """Rows of dead runners: back to PENDING, or FAILED at their limit of rescues."""

    pending: int
    failed: int
    runners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndsForgotten(Event):
    """The database lost ends that this run had written, as after a fail-over: the rows are PENDING again, or FAILED at
    their limit of rescues."""

    pending: int
    failed: int


# ---- the database


@dataclass(frozen=True, slots=True)
class DatabaseAway(Event):
    """`begun`: it was there when the run began."""

    error: str
    begun: bool = True


@dataclass(frozen=True, slots=True)
class DatabaseBack(Event):
    seconds: float


@dataclass(frozen=True, slots=True)
class LeaseLapsed(Event):
    """A beat came after the lease had run out; `kept` of the open claims are still ours, `lost` are not."""

    seconds: float
    kept: int
    lost: int


Listener = Callable[[Event], object]


class Listeners:
    """Tells every listener of an event; one that raises is counted, and reported once as an event."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = list(listeners)
        self._reported: set[int] = set()
        self.failures = 0

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def add(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def tell(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:
                self.failures += 1
                if id(listener) not in self._reported:
                    self._reported.add(id(listener))
                    self.tell(Noticed("listener failed", name=f"{listener!r}: {error!r}"))
