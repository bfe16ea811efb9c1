"""Asks the database, and bears it being away: answers None meanwhile and tries again, with growing pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from pooltable.errors import DatabaseUnavailable
from pooltable.events import DatabaseAway, DatabaseBack, Event
from pooltable.signals import StopRequests

Answer = TypeVar("Answer")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


class Patience:
    """Bears a database that is away for `seconds`, None without end; `tell` hears when it goes and comes back."""

    def __init__(self, seconds: float | None, requests: StopRequests, tell: Callable[[Event], None]) -> None:
        self.seconds = seconds
        self.retry_at: float | None = None  # while it is away: when it is asked again
        self._requests = requests
        self._tell = tell
        self._away_since = 0.0
        self._pause = FIRST_PAUSE

    def ask(self, verb: Callable[..., Answer], *args: Any) -> Answer | None:
        """What the database answers; None while it is away, and when a second request to stop came meanwhile.

        Raises DatabaseUnavailable when the patience is over.
        """
        now = time.monotonic()
        if self.retry_at is not None and now < self.retry_at:
            return None
        try:
            # A table that somebody else keeps locked is waited for, longer than who asks to stop now can wait.
            with self._requests.interrupting(2):
                answer = verb(*args)
        except KeyboardInterrupt:
            if self._requests.count < 2:
                raise
            return None
        except DatabaseUnavailable as error:
            if self.retry_at is None:
                self._away_since, self._pause = now, FIRST_PAUSE
                self._tell(DatabaseAway(str(error)))
            if self.seconds is not None and now >= self._away_since + self.seconds:
                raise
            self.retry_at = time.monotonic() + self._pause
            self._pause = min(LONGEST_PAUSE, self._pause * 2)
            return None
        if self.retry_at is not None:
            self.retry_at = None
            self._tell(DatabaseBack(time.monotonic() - self._away_since))
        return answer
