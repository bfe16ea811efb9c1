"""The one place that words log lines and picks their levels: a listener that turns events into records.

    event of the run        -->  record of the logger "pooltable"
    a worker's log record   -->  the same record of the same logger, in this process
    what a worker printed   -->  records of "pooltable.output", a line each

Every record that belongs to a row or a worker says so: `record.key` (a tuple), `record.worker`, and `record.attempt`
where that is known. What workers print is never swallowed: where nobody has set up logging it goes to stderr as it is.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, assert_never

from pooltable.errors import describe
from pooltable.events import (
    DatabaseAway,
    DatabaseBack,
    EndsForgotten,
    Event,
    Halted,
    Key,
    LeaseLapsed,
    Noticed,
    NotWritten,
    Paused,
    RowEnd,
    RowNotWritten,
    RowsClaimed,
    RowsFinished,
    RowsRescued,
    RunEnded,
    RunStarted,
    Stopping,
    Summary,
    ThreadsLeft,
    TooManyThreads,
    Waiting,
    WorkerEnded,
    WorkerLogged,
    WorkerPrinted,
    WorkerReady,
    WorkersBroken,
    WorkersCapped,
    WorkerStarting,
)
from pooltable.rows import key_text
from pooltable.text import counted, for_people, harmless, terminal_lines

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

log = logging.getLogger("pooltable")
output = logging.getLogger("pooltable.output")

NOTICES: dict[str, tuple[int, str]] = {
    "foreign doing rows": (
        WARNING,
        (
            "{rows_are} marked as running, but by no runner of pooltable; such rows are left alone, and count as left."
            " If nobody works on them: pooltable release --foreign"
        ),
    ),
    "rows without a key": (
        WARNING,
        "{rows_wait} with NULL in the key, and no run can take such a row; give it a key",
    ),
    "rows left as doing": (
        WARNING,
        (
            "{rows_are} left as running, and nobody ends that, because a key was changed or a claim removed"
            " meanwhile; to make such rows wait again: pooltable release --foreign"
        ),
    ),
    "index missing": (
        WARNING,
        "without an index, claims get slower as the table grows; make it with `pooltable init --index` or: {name}",
    ),
    "notify lost": (
        WARNING,
        (
            "NOTIFY does not come through here, as behind PgBouncer in transaction mode; new rows are asked for"
            " instead. To be told of them, give the runner a URL of the server itself"
        ),
    ),
    "row marked by the task": (
        WARNING,
        "the task wrote the status of row {name} itself; remove the lines that do it, for pooltable does",
    ),
    "row overwritten": (WARNING, "somebody changed the status of row {name} while it ran; the change was kept"),
    "file system unsafe": (
        WARNING,
        "the database lies on a file system without reliable locks ({name}); put it on a local disk",
    ),
    "file replaced": (
        WARNING,
        "another file took the place of the database while it was in use; going on with that one",
    ),
    "result unused": (WARNING, "no task returned anything for the columns that were named with --write or --result"),
    "large columns": (
        WARNING,
        "the rows that are read hold {count} bytes at a time; leave out what the task does not need with --columns",
    ),
    "listener failed": (WARNING, "a listener raised, and is called on: {name}"),
    "callback failed": (WARNING, "a callback raised; the row keeps its status: {name}"),
}
NOT_WRITTEN: dict[NotWritten, tuple[int, str]] = {
    "locked": (INFO, "row %s is locked by another transaction; its end is written later"),
    "vanished": (WARNING, "row %s was deleted while it ran; nothing is written"),
    "overwritten": (WARNING, "row %s had its status changed while it ran; that change is kept"),
    "fenced": (WARNING, "row %s was claimed by another runner meanwhile; this end is not written"),
    "marked": (INFO, "row %s has its final status from the task itself; that is taken as its end"),
    "stuck": (ERROR, "row %s cannot even be marked as failed; the database refuses it"),
}


def seconds_text(seconds: float) -> str:
    """Seconds for people: 0.31 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def summary_text(summary: Summary) -> str:
    """What a run did, in one line."""
    parts = [f"{summary.done} done", f"{summary.failed} failed"]
    parts += [
        f"{count} {word}"
        for count, word in (
            (summary.retried, "tried again"),
            (summary.lost, "lost with their worker"),
            (summary.rescued, "taken back from dead runners"),
            (summary.released, "given back"),
            (summary.left, "left"),
            (summary.elsewhere, "with other runners"),
        )
        if count
    ]
    line = f"{', '.join(parts)}; {seconds_text(summary.seconds)}"
    if summary.rate:
        line += f", {summary.rate:.3g} rows/s"
    if summary.failures:
        kinds = sorted(summary.failures.items(), key=lambda item: -item[1])
        line += "; failures: " + ", ".join(f"{count} {kind}" for kind, count in kinds[:5])
        line += f" and {len(kinds) - 5} other kinds" if len(kinds) > 5 else ""
    return line


class Logs:
    """A listener that logs what happens. `print_line` gets what workers print where no logging is set up."""

    def __init__(self, print_line: Callable[[str], object] | None = None) -> None:
        self._print_line = print_line or _print_line
        # How workers failed to start: as a rule all of them fail alike, and whoever ends the run tells it once more.
        self._start_failures: set[str] = set()
        self._starting: set[int] = set()  # pids
        self._broken = False
        self._ended_by_us = False

    def __call__(self, event: Event) -> None:
        match event:
            case WorkerStarting(pid=pid):
                self._starting.add(pid)
                _tell_worker(event)
            case WorkerReady(pid=pid):
                self._starting.discard(pid)
                _tell_worker(event)
            case WorkerPrinted():
                self._printed(event)
            case WorkerLogged():
                relog(event)
            case RowsFinished(rows=rows):
                for end in rows:
                    _tell_end(end)
            case RunEnded(summary=summary):
                level = ERROR if summary.exit_code > 1 else INFO
                reason = f" ({summary.error})" if summary.error else ""
                facts = {"run": summary.run, "exit_code": summary.exit_code}
                _tell(level, "run %s ended%s: %s", summary.run, reason, summary_text(summary), **facts)
            case RunStarted() | RowsClaimed() | Waiting() | Paused() | Stopping() | Halted():
                self._ended_by_us = self._ended_by_us or (isinstance(event, Stopping) and event.step != "drain")
                _tell_run(event)
            case WorkerEnded():
                self._worker_ended(event)
            case WorkersBroken(error=error):
                self._broken = True
                _tell(DEBUG, "%s", describe(error).reason)
            case WorkersCapped() | TooManyThreads() | ThreadsLeft():
                _tell_worker(event)
            case RowNotWritten() | RowsRescued() | EndsForgotten():
                _tell_trouble(event)
            case DatabaseAway() | DatabaseBack() | LeaseLapsed() | Noticed():
                _tell_trouble(event)

    def _worker_ended(self, event: WorkerEnded) -> None:
        level = {"lost": WARNING, "start failed": ERROR, "killed": WARNING}.get(event.why, DEBUG)
        detail = f": {event.detail.rstrip()}" if event.detail else ""
        if event.why == "start failed" and event.detail:
            if event.detail in self._start_failures:
                level, detail = DEBUG, ": the same error as before"
            self._start_failures.add(event.detail)
        elif event.why == "killed" and (self._broken or self._ended_by_us or event.pid in self._starting):
            level = DEBUG  # it was still starting, in vain; or its row says that it was given back
        elif event.why == "lost" and event.running:
            level = DEBUG  # its row says so
        self._starting.discard(event.pid)
        code = "" if event.exitcode is None else f", exit code {event.exitcode}"
        text = "worker %d ended (%s, pid %d%s)%s"
        _tell(level, text, event.worker, event.why, event.pid, code, detail, worker=event.worker)

    def _printed(self, event: WorkerPrinted) -> None:
        heard = output.isEnabledFor(INFO) and output.hasHandlers()
        for line in terminal_lines(event.text):
            if heard:
                output.info("%s", line, extra={"worker": event.worker, "key": event.key})
            else:
                self._print_line(f"{who(event.worker, event.key)}: {line}")


def _print_line(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(for_people(line, sys.stderr) + "\n")


def who(worker: int | None, key: Key | None) -> str:
    parts = [f"worker {worker}"] if worker is not None else []
    parts += [f"row {key_text(key)}"] if key is not None else []
    return " ".join(parts)


def relog(event: WorkerLogged) -> None:
    """The worker's record once more, in this process, with `worker` and `key`."""
    facts = {**event.record, "worker": event.worker, "key": event.key}
    record = logging.makeLogRecord(facts)
    logger = logging.getLogger(None if record.name == "root" else record.name)
    if not logger.isEnabledFor(record.levelno):
        return
    if logger.hasHandlers() or logging.lastResort is None:
        logger.handle(record)
    elif record.levelno >= logging.lastResort.level:
        _print_line(logging.lastResort.format(record))  # where logging itself would print it as it is


# ---- words and levels


class _Told(str):
    """A part of a message, which whoever formats the record gets harmless; only JSON gets it exactly."""

    __slots__ = ()

    def __str__(self) -> str:
        return harmless(str.__str__(self))


def _tell(level: int, message: str, *args: object, **facts: object) -> None:
    if log.isEnabledFor(level):
        told = [arg if isinstance(arg, (int, float)) else _Told(arg) for arg in args]
        log.log(level, message, *told, extra=facts)


def _exact(record: logging.LogRecord) -> str:
    """The record's message with all that was told."""
    if not isinstance(record.args, tuple):
        return record.getMessage()
    args = tuple(str.__str__(arg) if isinstance(arg, _Told) else arg for arg in record.args)
    return str(record.msg) % args if args else str(record.msg)


def _tell_end(end: RowEnd) -> None:
    key = key_text(end.key)
    where = f"attempt {end.attempt}" if end.worker is None else f"worker {end.worker}, attempt {end.attempt}"
    took = seconds_text(end.seconds)
    facts: dict[str, Any] = {"worker": end.worker, "key": end.key, "attempt": end.attempt, "end": end.end}
    match end.end:
        case "done":
            _tell(DEBUG, "row %s done in %s (%s)", key, took, where, **facts)
        case "failed":
            _tell(ERROR, "row %s failed after %s (%s): %s", key, took, where, end.reason or end.kind, **facts)
        case "retry":
            again = f"in {seconds_text(end.pause)}" if end.pause else "at once"
            reason = end.reason or end.kind
            _tell(
                WARNING,
                "row %s failed after %s (%s) and is tried again %s: %s",
                key,
                took,
                where,
                again,
                reason,
                **facts,
            )
        case "later":
            reason = f": {end.reason}" if end.reason else ""
            _tell(INFO, "row %s is put off for %s (%s)%s", key, seconds_text(end.pause or 0), where, reason, **facts)
        case "released":
            _tell(INFO, "row %s is given back (%s)", key, where, **facts)
        case _:
            assert_never(end.end)


def _tell_run(event: RunStarted | RowsClaimed | Waiting | Paused | Stopping | Halted) -> None:
    match event:
        case RunStarted():
            waiting = counted(event.pending, "row waits", "rows wait")
            job = "" if event.job in (event.table, event.table.rpartition(".")[2]) else f", job {event.job}"
            most = "1 worker" if event.processes == 1 else f"up to {event.processes} workers"
            _tell(INFO, "run %s: %s in table %s%s; %s", event.runner, waiting, event.table, job, most)
        case RowsClaimed():
            _tell(DEBUG, "claimed %s in %s", counted(event.count, "row"), seconds_text(event.seconds))
        case Waiting(seconds=None):
            _tell(INFO, "nothing to do; waiting for new rows")
        case Waiting():
            due = seconds_text(event.seconds or 0.0)
            rows = counted(event.waiting, "row is", "rows are")
            _tell(INFO, "nothing to do now; %s due later, the first in %s", rows, due)
        case Paused(paused=True):
            _tell(WARNING, "the job is paused; `pooltable resume` lets it go on")
        case Paused():
            _tell(INFO, "the job goes on")
        case Stopping(step="drain"):
            rows = (
                f"{counted(event.running, 'running row gets', 'running rows get')} {seconds_text(event.grace)} to end"
                if event.running
                else "no row runs"
            )
            _tell(WARNING, "%s: taking no more rows; %s (once more: stop now)", event.reason, rows)
        case Stopping(step="now"):
            running = counted(event.running, "running row now; it is", "running rows now; they are")
            _tell(WARNING, "%s: ending %s PENDING again", event.reason, running)
        case Stopping():
            _tell(WARNING, "%s: leaving at once", event.reason)
        case Halted():
            reason = event.kind if not event.reason else f"{event.kind}: {event.reason}"
            then = "no more are started" if event.pause is None else f"going on in {seconds_text(event.pause)}"
            _tell(ERROR, "%d rows in a row failed alike (%s); %s", event.count, reason, then)


def _tell_worker(
    event: WorkerStarting | WorkerReady | WorkersCapped | TooManyThreads | ThreadsLeft,
) -> None:
    match event:
        case WorkerStarting():
            _tell(DEBUG, "worker %d starts (pid %d)", event.worker, event.pid, worker=event.worker)
        case WorkerReady():
            took = seconds_text(event.seconds)
            _tell(DEBUG, "worker %d is ready after %s (pid %d)", event.worker, took, event.pid, worker=event.worker)
        case WorkersCapped():
            _tell(WARNING, "%s", event)
        case TooManyThreads() | ThreadsLeft():
            _tell(WARNING, "%s", event, worker=event.worker)


def _tell_trouble(
    event: RowNotWritten | RowsRescued | EndsForgotten | DatabaseAway | DatabaseBack | LeaseLapsed | Noticed,
) -> None:
    match event:
        case RowNotWritten():
            level, text = NOT_WRITTEN[event.why]
            detail = f" ({event.detail})" if event.detail else ""
            _tell(level, text + "%s", key_text(event.key), detail, key=event.key, attempt=event.attempt)
        case RowsRescued():
            gone = ", ".join(event.runners)
            failed = f"; {counted(event.failed, 'is', 'are')} FAILED, for that was the last try" if event.failed else ""
            whose = "a runner that is" if len(event.runners) == 1 else "runners that are"
            text = "%s again that %s gone held (%s)%s"
            _tell(WARNING, text, counted(event.pending, "row waits", "rows wait"), whose, gone, failed)
        case EndsForgotten():
            text = "the database lost how %s ended that it had written; %s again, %s FAILED"
            rows = counted(event.pending + event.failed, "row")
            _tell(WARNING, text, rows, counted(event.pending, "waits", "wait"), counted(event.failed, "is", "are"))
        case DatabaseAway(begun=False):
            _tell(WARNING, "the database is away; the run begins when it is back: %s", event.error)
        case DatabaseAway():
            _tell(WARNING, "the database is away; running rows go on, results wait: %s", event.error)
        case DatabaseBack():
            _tell(WARNING, "the database is back after %s", seconds_text(event.seconds))
        case LeaseLapsed():
            text = "the lease had run out %s ago; %s still ours, %d went to other runners"
            kept = counted(event.kept, "row is", "rows are")
            _tell(WARNING, text, seconds_text(event.seconds), kept, event.lost)
        case Noticed():
            level, words = NOTICES.get(event.what, (WARNING, f"{event.what}: {{count}} {{name}}"))
            are, wait = (
                counted(event.count, f"row {one}", f"rows {many}") for one, many in (("is", "are"), ("waits", "wait"))
            )
            told = words.format(count=event.count, rows_are=are, rows_wait=wait, name=event.name)
            _tell(level, "%s", told)


# ---- how records look


class PlainFormatter(logging.Formatter):
    """`12:03:04 worker 3 row 42 ERROR my.model: no such codec`, with the traceback below; harmless.

    With `colours` those of the record stay, for a handler that takes them out where it does not write to a terminal.
    """

    def __init__(self, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        facts = record.__dict__
        ours = record.name == log.name or record.name.startswith(log.name + ".")
        # Our own sentences name worker and row themselves.
        head = [] if record.name == log.name else [who(facts.get("worker"), facts.get("key"))]
        if not ours:
            head.append(f"{record.levelname} {record.name}")
        elif record.levelno >= WARNING:
            head.append(record.levelname)
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        lead = " ".join([at, *(part for part in head if part)])
        text = harmless(super().format(record), self._colours)
        return f"{lead}: {text}" if lead != at else f"{at} {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message; worker, key, attempt, exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        facts: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _exact(record),
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD and value is not None:
                facts[name] = list(value) if isinstance(value, tuple) else value
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            facts["exception"] = record.exc_text
        return json.dumps(facts, default=str)


_STANDARD = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "exc_text", "stack_info"})


class LineHandler(logging.Handler):
    """Hands each record to a function as text; what that raises is nobody's business, for stderr may be closed."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record))
        except Exception:
            return
