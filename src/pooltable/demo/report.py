"""What a demonstration says: lines on stderr while it runs, the outcome on stdout at its end."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pooltable.demo import clips
from pooltable.demo.accident import Kill
from pooltable.demo.stage import Video
from pooltable.events import (
    Event,
    Progressed,
    RowEnd,
    RowsClaimed,
    RowsFinished,
    RowsRescued,
    RunStarted,
    Stopping,
    WorkerReady,
)
from pooltable.text import counted, one_line

LINE_EVERY = 2.0  # seconds
ENOUGH = 0.95  # of the captions
FEWEST_TO_TELL = 10  # rows from which on a rate says something


def say(text: str) -> None:
    """One line for the person who watches."""
    print(one_line(text), file=sys.stderr, flush=True)


class Counter:
    """Says how far something with a known number of steps is, every two seconds."""

    def __init__(self, doing: str, total: int) -> None:
        self._doing = doing
        self._total = total
        self._due = time.monotonic() + LINE_EVERY

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + LINE_EVERY
            say(f"{self._doing}: {count} of {self._total}")


class Watch:
    """A listener that words what happens in a run and measures how fast it went."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._due = 0.0
        self._first_claim: float | None = None
        self._last_ready = 0.0
        self._loads: list[float] = []
        self.accident = False
        self._ends: list[float] = []

    @property
    def done(self) -> int:
        """Rows that ended DONE."""
        return len(self._ends)

    @property
    def rate(self) -> float:
        """Rows that ended DONE, a second, from the first claim to the last end."""
        if self._first_claim is None or not self._ends or self._ends[-1] <= self._first_claim:
            return 0.0
        return len(self._ends) / (self._ends[-1] - self._first_claim)

    @property
    def full_rate(self) -> float:
        """The same while every worker was at work: from the last one's start on; 0 if that was too short to tell."""
        ends = [end for end in self._ends if end > self._last_ready]
        if len(ends) < FEWEST_TO_TELL or ends[-1] <= ends[0]:
            return 0.0
        return (len(ends) - 1) / (ends[-1] - ends[0])

    @property
    def loading(self) -> float:
        """Seconds that a worker took to start and to load the model, on average."""
        return sum(self._loads) / len(self._loads) if self._loads else 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                processes = "1 process" if event.processes == 1 else f"{event.processes} processes"
                say(f"running {event.pending} of {self._total} rows in {processes}; each loads the model first")
            case WorkerReady():
                self._last_ready = time.monotonic()
                self._loads.append(event.seconds)
                say(f"worker {event.worker} (process {event.pid}) is ready after {event.seconds:.1f} s")
            case RowsClaimed() if self._first_claim is None:
                self._first_claim = time.monotonic()
            case RowsFinished():
                for row in event.rows:
                    self._ended(row)
            case RowsRescued():
                say(f"{counted(event.pending, 'row')} of a runner that is gone: PENDING again")
            case Progressed() if time.monotonic() >= self._due:
                self._due = time.monotonic() + LINE_EVERY
                say(f"{event.done} done, {event.failed} failed, {event.doing} running, {event.pending} waiting")
            case Stopping(step="drain"):
                say(f"{event.reason}: stopping, {counted(event.running, 'row')} may end within {event.grace:g} s")

    def _ended(self, row: RowEnd) -> None:
        if row.end == "done":
            self._ends.append(time.monotonic())
        elif row.end == "failed":
            say(f"row {row.key[0]} FAILED: {row.reason}")
        elif row.lost:
            self.accident = True
            say(f"row {row.key[0]} is PENDING again: {row.reason}")


@dataclass(frozen=True)
class Speed:
    """What was measured, in clips a second; 0 is unknown.

    `rate` is that of the whole run of `rows` clips, `full` that of its part in which all `processes` were at work, and
    `alone` that of one process, over `sample` of the same clips. `loading`: the seconds until a worker was ready.
    `accident`: a worker was killed in this run, and not in an earlier one that it goes on with.
    """

    processes: int
    cores: int
    loading: float
    accident: bool
    rows: int
    rate: float
    full: float
    sample: int
    alone: float


@dataclass(frozen=True)
class Verdict:
    """What a look at the table after the run found; `attempts` and `reasons` are those of pooltable's own notes."""

    videos: tuple[Video, ...]
    attempts: dict[int, int]
    reasons: dict[int, str]
    kill: Kill | None

    @property
    def compared(self) -> list[Video]:
        return [video for video in self.videos if video.id != clips.BROKEN]

    @property
    def misread(self) -> list[Video]:
        return [video for video in self.compared if not alike(video.caption, clips.caption_of(video.id))]

    @property
    def captions_match(self) -> bool:
        return len(self.misread) <= (1 - ENOUGH) * len(self.compared)

    @property
    def failed(self) -> list[int]:
        return [video.id for video in self.videos if video.status == "FAILED"]

    @property
    def broken_one_failed(self) -> bool:
        return self.failed == [clips.BROKEN]

    @property
    def killed_one_came_through(self) -> bool:
        """DONE on the attempt after the killed one: the second, unless the runner itself was killed before."""
        if self.kill is None:
            return False
        status = {video.id: video.status for video in self.videos}.get(self.kill.row)
        return status == "DONE" and self.attempts.get(self.kill.row) == self.kill.attempt + 1

    @property
    def good(self) -> bool:
        return self.captions_match and self.broken_one_failed and self.killed_one_came_through


def alike(read: str | None, rendered: str) -> bool:
    """Whether a caption was read as it was rendered; spaces, and O for 0, are forgiven."""
    return read is not None and _plain(read) == _plain(rendered)


def _plain(caption: str) -> str:
    return "".join(caption.split()).upper().replace("O", "0")


def print_verdict(verdict: Verdict, speed: Speed) -> None:
    """The outcome as a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(_outcome(verdict), style="bold")
    table = Table(title="What became of the rows", title_justify="left", show_lines=True)
    table.add_column("", max_width=24)
    table.add_column("expected", max_width=20)
    table.add_column("found", ratio=1, overflow="fold")
    for good, what, expected, found in _lines(verdict):
        word, style = ("ok", "green") if good else ("NOT OK", "bold red")
        table.add_row(what, expected, Text(f"{word}: {found}", style=style))
    table.add_row("speed", "", _speed(speed))
    console.print(table)


def _lines(verdict: Verdict) -> list[tuple[bool, str, str, str]]:
    return [
        (verdict.captions_match, "captions", f"at least {ENOUGH:.0%} as rendered", _captions(verdict)),
        (verdict.broken_one_failed, f"row {clips.BROKEN}, not a video", "the only one FAILED", _failures(verdict)),
        (verdict.killed_one_came_through, *_killed(verdict)),
    ]


def _outcome(verdict: Verdict) -> str:
    """What the demonstration has shown, in one sentence."""
    done = sum(video.status == "DONE" for video in verdict.videos)
    failed, count = len(verdict.failed), len(verdict.videos)
    open_ = count - done - failed
    rows = f"{open_} of {count} rows have not ended" if open_ else f"nothing was lost: all {count} rows ended"
    kill = f"one worker was killed in the middle of row {verdict.kill.row}" if verdict.kill else "no worker was killed"
    again = ", which another worker ran again" if verdict.killed_one_came_through else ""
    return f"{rows}, {done} DONE and {failed} FAILED; {kill}{again}"


def _captions(verdict: Verdict) -> str:
    lines = [f"{len(verdict.compared) - len(verdict.misread)} of {len(verdict.compared)}"]
    right = [video for video in verdict.compared if video not in verdict.misread]
    lines += [
        f"row {video.id} is {video.status}, reads {video.caption!r}, rendered {clips.caption_of(video.id)!r}"
        for video in [*right[:2], *verdict.misread[:10]]
    ]
    return "\n".join(lines)


def _failures(verdict: Verdict) -> str:
    known = verdict.reasons.get
    found = [f"row {number} FAILED: {one_line(known(number, 'no reason is known'))}" for number in verdict.failed[:10]]
    return "\n".join(found) or "no row is FAILED"


def _killed(verdict: Verdict) -> tuple[str, str, str]:
    kill = verdict.kill
    if kill is None:
        return "the killed worker's row", "DONE on the next attempt", "no worker was killed"
    status = {video.id: video.status for video in verdict.videos}.get(kill.row, "not in the table")
    return (
        f"row {kill.row}, whose worker was killed (SIGKILL) on attempt {kill.attempt}",
        f"DONE on attempt {kill.attempt + 1}",
        f"{status} on attempt {verdict.attempts.get(kill.row, 0)}",
    )


def _speed(speed: Speed) -> str:
    if not speed.rate:
        return "nothing was left to run"
    whole = f"{speed.rate:.1f} clips/s from the first claim of {speed.rows} clips to the last end"
    if speed.accident:
        whole += (
            ", with the accident: the killed worker's clip was read twice, and the worker in its place had to start and"
            f" load the model, which takes {speed.loading:.1f} s"
        )
    if not speed.alone:
        return f"{whole}\ntoo few clips were left to compare it with one process"
    best = speed.full or speed.rate
    what = "with the accident" if speed.accident and not speed.full else "without the accident"
    most = min(speed.processes, speed.cores)
    cores = "1 core" if speed.cores == 1 else f"{speed.cores} cores"
    processes = "1 process" if speed.processes == 1 else f"{speed.processes} processes"
    times = (
        f"{best / speed.alone:.1f} times as fast as one process, {what}: {best:.1f} clips/s in {processes},"
        f" {speed.alone:.1f} in one ({speed.sample} of the clips, half before and half after the run)"
    )
    limit = f"{most} times is the most that {processes} can reach on {cores}, with nothing else at work on them"
    return "\n".join([times, limit, whole])


def print_captions(videos: list[Video], reasons: dict[int, str], folder: Path) -> None:
    """The captions of the user's own videos on stdout; what failed and why on stderr."""
    for video in videos:
        path = Path(video.content)
        name = path.relative_to(folder) if path.is_relative_to(folder) else path
        if video.status == "DONE":
            print(one_line(f"{name}: {video.caption or '(no caption found)'}"))
        elif video.status == "FAILED":
            say(f"{name}: FAILED: {reasons.get(video.id, 'no reason is known')}")
