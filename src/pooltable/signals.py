"""Stop requests: signals and `stop()` are noted here and wake the loop, which acts on them.

A handler does nothing but note and wake: it may interrupt the main thread in the middle of a commit or a log write.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

# A closed terminal ends a run as a polite kill does; without a handler it would end it as kill -9 does.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave_to_main_thread() -> None:
    """Called first in a thread of ours: signals are the main thread's.

    A signal that the kernel gives to another thread is noted, but does not end what the main thread waits for.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


@contextmanager
def open_to_signals() -> Iterator[None]:
    """For the user's code in such a thread: a process that it starts inherits what is blocked, and no SIGTERM would end
    it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


class StopRequests:
    """Counts requests to stop; `wake` must be safe to call from a signal handler (it may interrupt itself).

    As a context manager it handles SIGINT, SIGTERM and SIGHUP, in the main thread only, and gives the handlers back
    after.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._reasons: list[str] = []  # appended to from any thread, and by handlers that interrupt one
        self._interrupt_from: int | None = None
        self.since: float | None = None  # when the first came, by the monotonic clock
        self._wake = wake
        self._former: dict[int, object] = {}

    @property
    def count(self) -> int:
        return len(self._reasons)

    @property
    def reason(self) -> str:
        """Who asked last."""
        return self._reasons[-1] if self._reasons else ""

    def request(self, reason: str) -> None:
        if self.since is None:
            self.since = time.monotonic()
        self._reasons.append(reason)
        self._wake()

    @contextmanager
    def interrupting(self, number: int) -> Iterator[None]:
        """While inside, the signal that is request `number`, and each one after it, raises KeyboardInterrupt there.

        For what may take long in the main thread, such as a row that runs in it. Not for what must not break off in the
        middle.
        """
        before, self._interrupt_from = self._interrupt_from, number
        try:
            yield
        finally:
            self._interrupt_from = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.request(signal.Signals(number).name)
        if self._interrupt_from is not None and self.count >= self._interrupt_from:
            raise KeyboardInterrupt

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                former = signal.getsignal(number)
                # nohup and shells' background jobs ignore a signal on purpose.
                if former is not signal.SIG_IGN and former is not None:
                    self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)  # type: ignore[arg-type]
        self._former.clear()
