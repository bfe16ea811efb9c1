"""How long a run's own work took: from its first claim to its last finish, without the start of its processes."""

from __future__ import annotations

import time

from pooltable.events import Event, RowsClaimed, RowsFinished


class Span:
    """A listener of a run; `seconds` afterwards."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._ended = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, RowsClaimed) and self._began is None:
            self._began = time.perf_counter() - event.seconds
        elif isinstance(event, RowsFinished):
            self._ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        if self._began is None:
            raise SystemExit("the run claimed nothing")
        return self._ended - self._began
