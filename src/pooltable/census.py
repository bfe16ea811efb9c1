"""Counts what is waiting, now and then, for the progress that is shown.

On a thread of its own and over a connection of its own: in a large table a count takes seconds, and rows end meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pooltable.aside import Aside

EVERY_SECONDS = 30.0
REST = 100  # times as long as a count took is the least pause before the next


class Census:
    """`count` is asked, and `saw` told the number and when that was, by the monotonic clock."""

    def __init__(self, count: Callable[[], int], saw: Callable[[int, float], None]) -> None:
        self._count = count
        self._saw = saw
        self._aside: Aside | None = None
        self._next = time.monotonic() + EVERY_SECONDS

    def take_if_due(self) -> None:
        """Count again, if it is time; does not wait for it."""
        if time.monotonic() < self._next:
            return
        self._next = float("inf")
        if self._aside is None:
            # That the database is away is noticed, and told, by those who cannot do without it.
            self._aside = Aside("pooltable-census", lambda error: None)
        self._aside.call(self._take)

    def end(self) -> None:
        if self._aside is not None:
            self._aside.end()

    def _take(self) -> None:
        began = done = time.monotonic()
        try:
            count = self._count()
            done = time.monotonic()
            self._saw(count, done)
        finally:
            self._next = done + max(EVERY_SECONDS, REST * (done - began))
