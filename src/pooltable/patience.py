"""Asks the database, and bears it being away: answers None meanwhile and tries again, with growing pauses.

It also says how long one answer may take, so that a server which is silent, or kept locked by somebody, holds nobody up
who asks to stop. A verb ends early by failing as it does when its connection is lost, never by an exception that comes
from outside in the middle of a commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from pooltable.errors import DatabaseUnavailable
from pooltable.events import DatabaseAway, DatabaseBack, Event
from pooltable.pace import Pace, Step
from pooltable.signals import StopRequests

Answer = TypeVar("Answer")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

# How long one answer may take: at least so many seconds, however short the lease, and after a request to stop now.
LEAST_SECONDS = 10.0
HURRIED_SECONDS = 3.0
# Silence looks the same as a statement that takes long, so each answer that did not come in time makes the next bound
# twice as long, up to this: a slow server gets through in the end. After so many seconds in which every answer came
# within the first bound, that one holds again.
MOST_SECONDS = 600.0
CALM_SECONDS = 60.0


class Patience:
    """Bears a database that is away as long as the pace says; `tell` hears when it goes and comes back."""

    def __init__(self, pace: Pace, requests: StopRequests, tell: Callable[[Event], None]) -> None:
        self.retry_at: float | None = None  # while it is away: when it is asked again
        self._pace = pace
        self._requests = requests
        self._tell = tell
        self._away_since = 0.0
        self._pause = FIRST_PAUSE
        self._first_bound = self._bound = max(pace.lease, LEAST_SECONDS)
        self._calm_since: float | None = None  # since when every answer has come within the first bound

    def bound(self) -> float:
        """How many seconds one answer may take, as things stand. From any thread."""
        if self._requests.count >= Step.LEAVE:
            return 0.0
        return HURRIED_SECONDS if self._is_hurried else self._bound

    @property
    def _is_hurried(self) -> bool:
        """Whether a stop has come as far as its second step, also while the loop waits here and does not know yet."""
        since = self._requests.since
        late = since is not None and time.monotonic() >= since + self._pace.grace
        return late or self._requests.count >= Step.NOW

    def ask(self, verb: Callable[..., Answer], *args: Any) -> Answer | None:
        """What the database answers; None while it is away, and when a third request to stop came meanwhile.

        Raises DatabaseUnavailable when the patience is over.
        """
        now = time.monotonic()
        if self.retry_at is not None and now < self.retry_at:
            return None
        try:
            answer = verb(*args)
        except DatabaseUnavailable as error:
            self._calm_since = None
            if time.monotonic() - now >= self._bound:
                self._bound = max(self._bound, min(2 * self._bound, MOST_SECONDS))
            if self._requests.count >= Step.LEAVE:
                return None
            if self.retry_at is None:
                self._away_since, self._pause = now, FIRST_PAUSE
                self._tell(DatabaseAway(str(error)))
            # Who asks to stop now is not made to wait for a database that is away.
            wait = 0.0 if self._is_hurried else self._pace.db_wait
            if wait is not None and now >= self._away_since + wait:
                raise
            self.retry_at = time.monotonic() + self._pause
            self._pause = min(LONGEST_PAUSE, self._pause * 2)
            return None
        if self.retry_at is not None:
            self.retry_at = None
            self._tell(DatabaseBack(time.monotonic() - self._away_since))
        if self._bound > self._first_bound:
            self._calm_down(now)
        return answer

    def _calm_down(self, began: float) -> None:
        """An answer has come that was asked for at `began`."""
        now = time.monotonic()
        if now - began >= self._first_bound:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= CALM_SECONDS:
            self._bound = self._first_bound


def at_the_start(
    verb: Callable[[], Answer],
    seconds: float | None,
    tell: Callable[[Event], None],
    rest: Callable[[float], object],
    is_over: Callable[[], bool] = lambda: False,
) -> Answer:
    """What the database answers before a run begins. One that is away is waited for, up to so many `seconds`; None: not
    at all, because nobody has seen yet that it can be reached.

    `rest` waits between two tries; nothing is waited for any more once it `is_over`.
    """
    began, pause, away = time.monotonic(), FIRST_PAUSE, False
    while True:
        try:
            answer = verb()
        except DatabaseUnavailable as error:
            left = 0.0 if seconds is None else began + seconds - time.monotonic()
            if left <= 0 or is_over():
                if not away:
                    raise
                raise DatabaseUnavailable(f"{error}; the run has waited {seconds:g} s for it") from error
            if not away:
                away = True
                tell(DatabaseAway(str(error), begun=False))
            rest(min(pause, left))
            pause = min(LONGEST_PAUSE, pause * 2)
        else:
            if away:
                tell(DatabaseBack(time.monotonic() - began))
            return answer
