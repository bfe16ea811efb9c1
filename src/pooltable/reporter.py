"""Tells the world what a run does: events to listeners, ends to callbacks, numbers to the tally.

Listeners and callbacks run on threads of their own, in order; the runner's loop never waits for one of them. A value or
an error that a callback gets is rebuilt there.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pooltable.aside import Aside
from pooltable.errors import CannotStore, describe
from pooltable.events import (
    Event,
    Listener,
    Listeners,
    Noticed,
    Paused,
    RowEnd,
    RowNotWritten,
    RowsFinished,
    Waiting,
    WorkerDoing,
    WorkerEnded,
)
from pooltable.outcomes import Failure, Pickled, RowOutcome, Stored
from pooltable.pace import Burst
from pooltable.pool import engine
from pooltable.pool.capture import Reader
from pooltable.pool.forked import EndsCopies
from pooltable.rows import Row, key_text
from pooltable.table import identity
from pooltable.table.states import Fate, Finish
from pooltable.tally import Tally

SHOW_SECONDS = 1.0
READ_SECONDS = 0.1
KEEP_OUTPUT_SECONDS = 2.0  # a worker's output outlives it, so that what killed it can be stored with its row
PATIENCE_SECONDS = 5.0  # with listeners that are still busy when the run is over
IN_A_HURRY_SECONDS = 0.5
LOOK_SECONDS = 0.05

Callback = Callable[[Row, Any], object]


@dataclass(slots=True)
class Ended:
    """A row that ended and is not written yet. `not_before`: another transaction held it locked, so try again then.
    `shared`: it was lost together with other rows, which says nothing about it."""

    finish: Finish
    row: Row | None
    outcome: RowOutcome | None
    not_before: float = 0.0
    shared: bool = False


class Reporter:
    """What a run tells, counts and shows."""

    def __init__(
        self,
        listeners: Sequence[Listener],
        callback: Callback | None,
        error_callback: Callable[[Row, BaseException], object] | None,
        halt: int,
    ) -> None:
        self.tally = Tally(time.monotonic())
        self.burst = Burst(halt)
        self.folder: str | None = None
        self._listeners = Listeners(listeners)
        self._callback = callback
        self._error_callback = error_callback
        self._tellers = Aside("pooltable-listeners", lambda error: None)
        self._callers = Aside("pooltable-callbacks", self._callback_failed, signals=True)
        self._noticed: set[str] = set()
        self.is_paused = False
        self._waiting = False
        self._reader: Reader | None = None
        self._read_at = 0.0
        self._show_at = 0.0
        self._ended_workers: list[tuple[float, int]] = []

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    # ---- events

    def tell(self, event: Event) -> None:
        """Tell the listeners, from any thread."""
        if isinstance(event, WorkerEnded):
            self._ended_workers.append((time.monotonic(), event.pid))
        if self._listeners:
            self._tellers.call(self._listeners.tell, event)

    def notice(self, what: str, count: int = 0, name: str = "") -> None:
        """Tell something that is worth one line a run."""
        if what not in self._noticed:
            self._noticed.add(what)
            self.tell(Noticed(what, count, name))

    def paused(self, paused: bool) -> None:
        if paused != self.is_paused:
            self.is_paused = paused
            self.tell(Paused(paused))

    def waiting(self, count: int, seconds: float | None) -> None:
        """Nothing can be claimed for now; told once, until something was."""
        if not self._waiting:
            self._waiting = True
            self.tell(Waiting(count, seconds))

    def claimed(self, count: int) -> None:
        self._waiting = False
        self.tally.saw_claims(count)

    def ran(self, seconds: Sequence[float]) -> None:
        """Calls came back that workers ran for so long each."""
        self.tally.saw_calls(seconds, time.monotonic())

    # ---- ends

    def wrote(self, ends: Sequence[Ended], fates: Sequence[Fate], seconds: float) -> bool:
        """What became of a group of ends; True when they complete a burst of failures."""
        rows: list[RowEnd] = []
        burst = False
        returned = 0
        for ended, fate in zip(ends, fates, strict=True):
            if fate.end == "done":  # as most do
                returned += 1
                if self._listeners:
                    claim, finish = fate.claim, ended.finish
                    rows.append(RowEnd(claim.key, claim.attempt, "done", finish.worker, finish.seconds))
                if self._callback and ended.row is not None and isinstance(ended.outcome, Stored):
                    self._callers.call(self._call_back, self._callback, ended.row, ended.outcome.value)
                if self.burst.count:
                    self.burst.saw("")
                continue
            end = self._end_of(ended, fate)
            if end is not None:
                rows.append(end)
                self.tally.saw_end(end)
                burst = self._saw(end, ended) or burst
        self.tally.saw_done(returned)
        if rows:
            self.tell(RowsFinished(tuple(rows), seconds))
        return burst

    def _end_of(self, ended: Ended, fate: Fate) -> RowEnd | None:
        claim, finish = fate.claim, ended.finish
        if fate.why is not None and not (fate.why == "locked" and ended.not_before):
            self.tell(RowNotWritten(claim.key, claim.attempt, fate.why, fate.reason))
            if fate.why in ("vanished", "fenced"):
                self.tally.saw_astray(1)
            if fate.why == "marked":
                self.tally.saw_mark(fate.reason == "done")
                self.notice("row marked by the task", name=key_text(claim.key))
            elif fate.why == "overwritten":
                self.notice("row overwritten", name=key_text(claim.key))
        if fate.end is None:
            return None
        lost = getattr(finish.verdict, "counts", None) == "lost"
        return RowEnd(
            claim.key,
            claim.attempt,
            fate.end,
            finish.worker,
            finish.seconds,
            fate.kind,
            fate.reason,
            fate.pause,
            lost,
        )

    def _saw(self, end: RowEnd, ended: Ended) -> bool:
        outcome, row = ended.outcome, ended.row
        if end.end == "failed" and self._error_callback and row is not None:
            error = outcome.error if isinstance(outcome, Failure) else CannotStore(end.reason)
            self._callers.call(self._call_back_error, self._error_callback, row, error)
        if ended.shared:
            return False
        if end.end in ("failed", "retry") and not (isinstance(outcome, Failure) and outcome.how == "fail"):
            # A Fail is the task's verdict on one row, not a sign that something is broken for all.
            return self.burst.saw(end.kind)
        return False

    # On the thread for callbacks: what is rebuilt there may take its time.

    def _call_back(self, callback: Callback, row: Row, value: Any) -> None:
        with EndsCopies():
            callback(row, value.load() if isinstance(value, Pickled) else value)

    def _call_back_error(self, callback: Callable[[Row, BaseException], object], row: Row, error: Any) -> None:
        with EndsCopies():
            callback(row, error if isinstance(error, BaseException) else engine.rebuild(error))

    def _callback_failed(self, error: BaseException) -> None:
        self.notice("callback failed", name=describe(error).reason)

    # ---- what workers print and log

    def read_output(self) -> str:
        """Make the folder that workers write their output to, and read it from now on."""
        self.folder = own_folder()
        self._reader = Reader(self.folder)
        return self.folder

    def log_of(self, pid: int | None, key: tuple[Any, ...], attempt: int) -> str:
        """What that attempt printed and logged, capped."""
        return self._reader.log_of(pid, key, attempt) if self._reader and pid else ""

    def next_show(self) -> float | None:
        """When there will be something to show, by the monotonic clock."""
        times = [at for at, wanted in ((self._read_at, self._reader), (self._show_at, self._listeners)) if wanted]
        return min(times, default=None)

    def show(self, doing: int) -> None:
        """Pass on what workers wrote, and once a second where the run stands."""
        now = time.monotonic()
        if self._reader and now >= self._read_at:
            self._read_at = now + (READ_SECONDS if doing else SHOW_SECONDS)
            for event in self._reader.poll():
                self.tell(event)
            while self._ended_workers and now > self._ended_workers[0][0] + KEEP_OUTPUT_SECONDS:
                self._reader.forget(self._ended_workers.pop(0)[1])
        if self._listeners and now >= self._show_at:
            self._show_at = now + SHOW_SECONDS
            ended = {pid for _, pid in self._ended_workers}
            workers: tuple[WorkerDoing, ...] = self._reader.now(ended) if self._reader else ()
            self.tell(self.tally.progress(now, doing, workers))

    def close(self, last: Event, patient: Callable[[], bool], in_a_hurry: bool) -> None:
        """Tell the rest, let callbacks run to their end while the caller is patient, and remove the workers' output."""
        if self._reader:
            for event in self._reader.finish():
                self.tell(event)
            self._reader.close()
        self.tell(last)
        self._callers.end()
        while not self._callers.join(LOOK_SECONDS) and patient():
            pass
        self._tellers.end()
        self._tellers.join(IN_A_HURRY_SECONDS if in_a_hurry else PATIENCE_SECONDS)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def abandon(self) -> None:
        """The run could not begin: there is nothing to tell."""
        self._callers.end()
        self._tellers.end()
        if self._reader:
            self._reader.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


# Who made a folder is in its name, with the pid's namespace: another container's runners may share this folder.
_PREFIX = f"pooltable-{''.join(filter(str.isdigit, identity.pid_namespace()))}-"


def own_folder() -> str:
    """A new temporary folder; should this program be killed, the next one removes it."""
    _sweep()
    return tempfile.mkdtemp(prefix=f"{_PREFIX}{identity.own_pid()}-{identity.started()}-")


def _sweep() -> None:
    """Remove the folders of runners that were killed before they could do it themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid, _, rest = folder.name.removeprefix(_PREFIX).partition("-")
        if pid.isdigit() and not identity.lives(int(pid), rest.partition("-")[0]):
            shutil.rmtree(folder, ignore_errors=True)
