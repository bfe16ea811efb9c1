"""Deadlines: what is to be done at which time. The I/O thread waits until the earliest one."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from time import monotonic
from typing import Any


class Alarms:
    """A heap of deadlines; `wake` is called when one is set that the I/O thread, asleep, does not know of."""

    __slots__ = ("_heap", "_order", "_sleeps_until", "_wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._sleeps_until = inf
        self._wake = wake

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, when: float, act: Callable[..., None], *about: Any) -> None:
        """Call `act(now, *about)` on the I/O thread at that monotonic time."""
        heappush(self._heap, (when, next(self._order), act, about))
        if when < self._sleeps_until:
            self._wake()

    def pause(self) -> float | None:
        """Seconds to sleep until the earliest deadline, None for ever."""
        if not self._heap:
            self._sleeps_until = inf
            return None
        self._sleeps_until = self._heap[0][0]
        return max(0.0, self._sleeps_until - monotonic())

    def due(self) -> bool:
        """Whether a deadline has passed."""
        return bool(self._heap) and self._heap[0][0] <= monotonic()

    def ring(self, now: float) -> None:
        """Do whatever is due."""
        self._sleeps_until = 0.0  # awake: whoever sets an alarm now need not wake anybody
        while self._heap and self._heap[0][0] <= now:
            _, _, act, about = heappop(self._heap)
            act(now, *about)
