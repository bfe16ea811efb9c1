"""Runs the user's callbacks and listeners in order on a thread of their own, so that a slow one delays nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from pooltable.signals import leave_to_main_thread


class Aside:
    """One thread that calls what it is given, in order; `failed` hears of what raised."""

    def __init__(self, name: str, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._todo: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., object], *args: Any) -> None:
        self._todo.put((function, args))

    def end(self, seconds: float | None) -> bool:
        """Let what is waiting run to its end; False if it did not within so many seconds."""
        self._todo.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        leave_to_main_thread()
        while (todo := self._todo.get()) is not None:
            function, args = todo
            try:
                function(*args)
            except Exception as error:
                self._failed(error)
