"""Runs the user's callbacks and listeners in order on a thread of their own, so that a slow one delays nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from queue import SimpleQueue
from typing import Any

from pooltable.signals import leave_to_main_thread, open_to_signals


class Aside:
    """One thread that calls what it is given, in order; `failed` hears of what raised.

    `signals`: what is called may start processes, which inherit from the thread what signals are blocked.
    """

    def __init__(self, name: str, failed: Callable[[BaseException], None], *, signals: bool = False) -> None:
        self._failed = failed
        self._around = open_to_signals if signals else nullcontext
        self._todo: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., object], *args: Any) -> None:
        self._todo.put((function, args))

    def end(self) -> None:
        """Let what is waiting run to its end, and take no more."""
        self._todo.put(None)

    def join(self, seconds: float) -> bool:
        """Wait for the end; False if it did not come within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        leave_to_main_thread()
        while (todo := self._todo.get()) is not None:
            function, args = todo
            try:
                with self._around():
                    function(*args)
            except BaseException as error:
                # Also one that means to end the program: what waits behind it is called all the same.
                self._failed(error)
