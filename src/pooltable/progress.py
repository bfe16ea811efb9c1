"""The progress of a run on stderr: a live bar on a terminal, a plain line every few seconds elsewhere.

    events --listener--> Picture --lines()--> Live (rich), or a line now and then
    log lines, prints of workers --write()--> above the bar

The picture is what the events say, kept without any I/O. `write` is the only way to stderr while the bar is shown.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pooltable.events import (
    DatabaseAway,
    DatabaseBack,
    Event,
    Paused,
    Progressed,
    RowsClaimed,
    RowsFinished,
    RunEnded,
    RunStarted,
    Stopping,
    Waiting,
    WorkerDoing,
)
from pooltable.logs import seconds_text
from pooltable.rows import key_text
from pooltable.text import counted, for_people, harmless, is_terminal, one_line, short

if TYPE_CHECKING:
    from rich.console import Console, Group

PLAIN_SECONDS = 5.0
MOST_WORKERS = 8
MOST_FAILURES = 3


@dataclass
class Picture:
    """What there is to show; `hear` is told the events, `now` is a clock in seconds."""

    forever: bool = False
    table: str = ""
    state: str = ""
    processes: int = 0
    progress: Progressed | None = None
    heard_at: float = 0.0
    ended: bool = False
    # The newest failure of each kind, the newest kind last: reason, key.
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    failure_counts: Counter[str] = field(default_factory=Counter)

    def hear(self, event: Event, now: float) -> None:
        match event:
            case RunStarted():
                self.table, self.processes = one_line(event.table), event.processes
                self.progress = Progressed(event.pending, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0)
                self.heard_at = now
            case Progressed():
                self.progress, self.heard_at = event, now
            case RowsFinished(rows=rows):
                for end in rows:
                    if end.end in ("failed", "retry"):
                        self.failure_counts[end.kind] += 1
                        self.failures.pop(end.kind, None)
                        self.failures[end.kind] = (end.reason or end.kind, key_text(end.key))
            case RowsClaimed():
                self.state = ""
            case Waiting(seconds=None):
                self.state = "waiting for new rows"
            case Waiting():
                self.state = (
                    f"{counted(event.waiting, 'row is', 'rows are')} due later, the first in"
                    f" {seconds_text(event.seconds or 0)}"
                )
            case Paused():
                self.state = "paused" if event.paused else ""
            case Stopping():
                self.state = "stopping" if event.step == "drain" else "stopping now"
            case DatabaseAway():
                self.state = "the database is away"
            case DatabaseBack():
                self.state = ""
            case RunEnded():
                self.ended = True

    @property
    def total(self) -> int:
        at = self.progress
        return at.pending + at.doing + at.done + at.failed if at else 0

    @property
    def finished(self) -> int:
        return self.progress.done + self.progress.failed if self.progress else 0

    def left_text(self) -> str:
        at = self.progress
        # What is waited for in one of the states takes as long as it takes.
        if self.forever or self.state or not at or at.seconds_left is None:
            return ""
        least, most = (seconds_text(float(f"{seconds:.2g}")) for seconds in at.seconds_left)
        if at.seconds_left[1] < 1:
            return "less than 1 s left"
        if at.seconds_left[0] < at.seconds_left[1] / 10:
            return f"less than {most} left"
        return f"about {least} left" if least == most else f"about {least} to {most} left"

    def plain(self) -> str:
        """Where the run stands, in one line."""
        at = self.progress
        if at is None:
            return "starting"
        parts = [f"{at.done} done" if self.forever else f"{self.finished} of {self.total}"]
        parts += [f"{at.doing} running", f"{at.pending} waiting", f"{at.failed} failed"]
        parts += [f"{at.retried} tried again"] if at.retried else []
        parts += [f"{at.rate:.3g} rows/s"] if at.rate else []
        parts += [text for text in (self.left_text(), self.state) if text]
        return ", ".join(parts)

    def worker_lines(self, now: float, most: int) -> list[str]:
        if self.progress is None:
            return []
        shown = self.progress.workers[:most]
        lines = [f"  worker {doing.worker}  {self._doing_text(doing, now)}" for doing in shown]
        more = len(self.progress.workers) - len(shown)
        return [*lines, f"  and {more} more workers"] if more > 0 else lines

    def _doing_text(self, doing: WorkerDoing, now: float) -> str:
        if doing.key is None:
            return "idle"
        text = f"row {short(key_text(doing.key), 40)}  {seconds_text(doing.seconds + now - self.heard_at)}"
        if doing.done is None:
            return text
        return f"{text}  {doing.done:g}" if doing.total is None else f"{text}  {doing.done:g} of {doing.total:g}"

    def failure_lines(self) -> list[str]:
        newest = reversed(list(self.failures.items())[-MOST_FAILURES:])
        return [
            f"  {self.failure_counts[kind]} x {_named(kind, reason)} (row {short(key, 40)})"
            for kind, (reason, key) in newest
        ]


def _named(kind: str, reason: str) -> str:
    return short(reason if reason.startswith(kind) else f"{kind}: {reason}", 160)


class Progress:
    """A listener that shows where the run stands; a context manager, through which all else is written."""

    def __init__(self, *, forever: bool = False, bar: bool | None = None, seconds: float = PLAIN_SECONDS) -> None:
        self.picture = Picture(forever=forever)
        self._bar = is_terminal(sys.stderr) if bar is None else bar
        self._seconds = seconds
        self._line_at = 0.0
        self._lock = threading.Lock()
        self._live: Any = None
        self._console: Console | None = None

    def __enter__(self) -> Progress:
        if self._bar:
            from rich.console import Console
            from rich.live import Live

            self._console = Console(stderr=True, highlight=False, soft_wrap=True)
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=4,
                transient=True,
                # What callbacks print would tear the bar; a redirected stdout is nobody's terminal and stays as it is.
                redirect_stdout=is_terminal(sys.stdout),
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        with self._lock:
            self.picture.hear(event, now)
            due = not self._bar and isinstance(event, (Progressed, RunEnded)) and now >= self._line_at
            if isinstance(event, RunStarted):
                self._line_at = now + self._seconds
            elif due:
                self._line_at = now + self._seconds
                line = f"{time.strftime('%H:%M:%S')} {self.picture.plain()}"
        if due and not isinstance(event, RunEnded):
            self.write(line)

    def write(self, text: str) -> None:
        """Show a text, made harmless, above the bar where there is one."""
        if self._live is not None and self._console is not None:
            from rich.text import Text

            self._console.print(Text.from_ansi(harmless(text, colours=True)))
        elif sys.stderr is not None:
            sys.stderr.write(for_people(text, sys.stderr) + "\n")
            sys.stderr.flush()

    def _render(self) -> Group:
        from rich.columns import Columns
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        now = time.monotonic()
        with self._lock:
            picture = self.picture
            at = picture.progress
            if at is None:
                return Group(Text("starting"))
            head: Any
            rate = ", ".join(part for part in (f"{at.rate:.3g} rows/s" if at.rate else "", picture.left_text()) if part)
            if picture.forever:
                head = Text(f"{picture.table}  running since {seconds_text(at.seconds)}  {rate}")
            else:
                count = f"{picture.finished}/{picture.total}"
                room = (self._console.width if self._console else 80) - len(f"{picture.table} {count} {rate} ")
                bar = ProgressBar(total=max(1, picture.total), completed=picture.finished, width=max(10, min(40, room)))
                head = Columns([Text(picture.table), bar, Text(count), Text(rate)])
            counts = Text("  ", no_wrap=False, overflow="fold")
            for number, word, style in (
                (at.pending, "waiting", ""),
                (at.doing, "running", "cyan"),
                (at.done, "done", "green"),
                (at.failed, "failed", "red" if at.failed else ""),
                (at.retried, "tried again", "yellow" if at.retried else ""),
                (at.lost, "lost", "yellow" if at.lost else ""),
            ):
                if number or word in ("waiting", "running", "done", "failed"):
                    counts.append(f"{number} {word}  ", style=style)
            counts.append(picture.state, style="bold yellow")
            height = self._console.height if self._console else 24
            workers = picture.worker_lines(now, max(1, min(MOST_WORKERS, height - 8)))
            lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in workers]
            lines += [Text(line, style="red", no_wrap=True, overflow="ellipsis") for line in picture.failure_lines()]
        return Group(head, counts, *lines)
