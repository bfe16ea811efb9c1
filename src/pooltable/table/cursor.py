"""Where in the order of waiting rows the next claim looks."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from pooltable.events import Key
from pooltable.table.database import Connection
from pooltable.table.statements import Statements

# One look from the start may take a twentieth of the time, if it is slow.
REST = 20
QUICK = 0.005


class Cursor:
    """A position in the order of waiting rows, so that a claim does not look again at rows under back-off or locked
    elsewhere.

    Rows before it that became PENDING meanwhile (released, requeued, committed late) are found when it is rewound: when
    a claim comes back short, and at every poll; more seldom where a look from the start is slow.
    """

    def __init__(self, poll: float) -> None:
        self._poll = poll
        self._position: tuple[Any, ...] | None = None
        self._rewound_at = 0.0
        self._costs: deque[float] = deque(maxlen=4)
        self._rest = 0.0

    def rewind(self) -> None:
        self._position = None

    def next(self, c: Connection, s: Statements, room: int) -> list[Key]:
        """Up to `room` waiting rows, locked where the database locks rows."""
        width = s.width
        if not s.behind:
            return [row[:width] for row in s.waiting(c, room, None)]
        rested = time.monotonic() - self._rewound_at
        if self._position is None or rested >= max(self._poll, self._rest):
            found = self._from_start(c, s, room)
        else:
            found = s.waiting(c, room, self._position)
            if len(found) < room and rested >= self._rest:
                known = {row[:width] for row in found}
                again = self._from_start(c, s, room)
                others = [row for row in again if row[:width] not in known]
                found = [*found, *others[: room - len(found)]]
        if len(found) == room:
            self._position = found[-1][width:]
        else:
            # All were looked at, also those under back-off: what comes next stands behind the last of all. Where a look
            # from the start is quick, the next claim takes it at once, and one statement does instead of three.
            self._position = s.end_of_order(c) if self._rest else None
        return [row[:width] for row in found]

    def waits(self, c: Connection, s: Statements) -> bool:
        """Whether a row waits that the next claim would look at; nothing is locked."""
        behind = self._position if self._rest and s.behind else None
        return s.waits(c, behind)

    def _from_start(self, c: Connection, s: Statements, room: int) -> list[tuple[Any, ...]]:
        began = time.monotonic()
        found = s.waiting(c, room, None)
        self._rewound_at = time.monotonic()
        # The shortest of the last few is what a look costs: on a busy machine the others had to wait.
        self._costs.append(self._rewound_at - began)
        cost = min(self._costs)
        self._rest = 0.0 if cost < QUICK else cost * REST
        return found
