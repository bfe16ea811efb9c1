"""The progress of a `map` on stderr while it runs: a bar on a terminal, a line every few seconds elsewhere.

    map, imap  -- done() -->  Bar, a thread that looks a few times a second  -->  Rich, else tqdm, else plain lines

The calls do no more than without it: what it reads is counted anyway.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from time import monotonic
from typing import Any, Protocol

_BAR_SECONDS = 0.1
_LINE_SECONDS = 5.0


class Bar:
    """Shows `done()` of `total` until `finish` is called or `ended()` says so; `total` may be unknown."""

    def __init__(
        self,
        label: str,
        done: Callable[[], int],
        total: Callable[[], int | None],
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._label = label
        self._done = done
        self._total = total
        self._ended = ended
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pooltable-bar", daemon=True)
        self._thread.start()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Show how it ended, and nothing more afterwards."""
        self._stop.set()
        self._thread.join()

    def drop(self) -> None:
        """The same, for a finalizer, which must not wait."""
        self._stop.set()

    def _run(self) -> None:
        # Whatever is wrong with stderr, or with a library that draws on it, is no reason for a map to fail.
        with suppress(Exception):
            display = _display(self._label, self._total())
            while not (self._stop.wait(display.seconds) or self._ended()):
                display.show(self._done(), self._total())
            display.end(self._done(), self._total())


class _Display(Protocol):
    seconds: float

    def show(self, done: int, total: int | None) -> None: ...
    def end(self, done: int, total: int | None) -> None: ...


def _display(label: str, total: int | None) -> _Display:
    if sys.stderr.isatty():
        # By name: a pool needs neither, and takes what is there.
        with suppress(ImportError):
            return _Rich(label, total)
        with suppress(ImportError):
            return _Tqdm(label, total)
    return _Lines(label)


class _Rich:
    seconds = _BAR_SECONDS

    def __init__(self, label: str, total: int | None) -> None:
        rich = import_module("rich.progress")
        console = import_module("rich.console").Console(stderr=True)
        self._bar: Any = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            # What the program prints goes above the bar, but never to stderr if it was to go to a file.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(label, total=total)
        self._bar.start()

    def show(self, done: int, total: int | None) -> None:
        self._bar.update(self._task, completed=done, total=total)
        self._bar.refresh()

    def end(self, done: int, total: int | None) -> None:
        self.show(done, total)
        self._bar.stop()


class _Tqdm:
    seconds = _BAR_SECONDS

    def __init__(self, label: str, total: int | None) -> None:
        self._bar: Any = import_module("tqdm").tqdm(desc=label, total=total, file=sys.stderr, mininterval=0)

    def show(self, done: int, total: int | None) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def end(self, done: int, total: int | None) -> None:
        self.show(done, total)
        self._bar.close()


class _Lines:
    seconds = _LINE_SECONDS

    def __init__(self, label: str) -> None:
        self._label = label
        self._began = monotonic()

    def show(self, done: int, total: int | None) -> None:
        seconds = monotonic() - self._began
        of_all = f"/{total} ({100 * done // total}%)" if total else ""
        left = f", {_clock((total - done) * seconds / done)} left" if total and 0 < done < total else ""
        print(f"{self._label}: {done}{of_all} in {_clock(seconds)}{left}", file=sys.stderr, flush=True)

    end = show


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def label_of(progress: bool | str, function: Callable[..., Any]) -> str:
    """What stands before the bar: the text that was given, or the function's name."""
    return progress if isinstance(progress, str) else getattr(function, "__name__", type(function).__name__)
