"""The thread that runs users' callbacks, so that a slow or raising one holds up nothing but other callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from pooltable.pool.forked import EndsCopies


class Callbacks:
    """Runs what it is given, one after the other, on a thread of its own that starts when first needed."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.failures = 0

    def run(self, work: Callable[[], None]) -> None:
        self._queue.put(work)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="pooltable-callbacks", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                with EndsCopies():
                    work()
            except BaseException:
                import logging

                self.failures += 1
                logging.getLogger(__name__).exception("a callback raised")
            # Nothing of the last result may be kept alive while this thread waits for the next one.
            del work

    def finish(self) -> None:
        """Run what is left, then end; called when nothing more can come. Waits, unless a callback calls it."""
        thread = self._thread
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join()
