"""How a call ended, and how a row did, as values: a worker makes them, the table judges them.

    task returns --> Stored: what its row's columns are to hold, converted already
         raises  --> Failure: the error in words

Neither holds anything of the task's own that was rebuilt. A value or an error that a callback is to get travels along
as its pickle, and is rebuilt by who asks for it.
"""

from __future__ import annotations

import pickle
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pooltable.errors import CannotStore, Fail, Later, WorkerLost, WorkerStartError, describe, shortened


@dataclass(frozen=True, slots=True)
class Returned:
    """The function returned `value`; an exception object that was returned is a value like any other."""

    value: object


@dataclass(frozen=True, slots=True)
class Raised:
    """The call ended with `error`, raised by the function or told of it: lost worker, time limit, cancelled."""

    error: BaseException


Outcome = Returned | Raised


class Pickled:
    """A value of a task's own on its way to a callback."""

    __slots__ = ("_buffers", "_data")

    def __init__(self, value: object, dumps: Any = None) -> None:
        self._buffers: list[Any] = []
        self._data: bytes = (
            pickle.dumps(value, 5, buffer_callback=self._buffers.append) if dumps is None else dumps(value)
        )

    def load(self) -> Any:
        """The value, rebuilt here and now; raises whatever that raises."""
        return pickle.loads(self._data, buffers=self._buffers)


class Stored(NamedTuple):
    """The task returned, and these are the columns to write and their values. `value` is what a callback gets: itself,
    or Pickled. `dropped`: the task returned a value that has nowhere to go."""

    columns: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    value: Any = None
    dropped: bool = False


NOTHING = Stored()
DROPPED = Stored(dropped=True)

# raised: by the task, or the time limit. fail, later: the task says so. unstorable: its value. lost: its worker died.
# cancelled: the call never ran, or was ended because the runner stops.
How = Literal["raised", "fail", "later", "unstorable", "lost", "cancelled"]


class Failure(NamedTuple):
    """The task did not return: the error in words, as `describe` puts it, and `how` it counts. `seconds`: how long a
    Later puts the row off. `error` is what an error callback gets: itself, or as a worker describes it."""

    kind: str
    reason: str
    detail: str
    how: How = "raised"
    seconds: float = 0.0
    error: Any = None


CANCELLED = Failure("CancelledError", "", "", "cancelled")

RowOutcome = Stored | Failure

_HOW: tuple[tuple[tuple[type[BaseException], ...], How], ...] = (
    ((CancelledError, WorkerStartError), "cancelled"),
    ((Later,), "later"),
    ((Fail,), "fail"),
    ((CannotStore,), "unstorable"),
    ((WorkerLost,), "lost"),
)


def failure_of(error: BaseException, carried: Any = None) -> Failure:
    """The error in words; `carried` is what an error callback gets."""
    how: How = next((how for kinds, how in _HOW if isinstance(error, kinds)), "raised")
    kind, reason, detail = describe(error)
    if isinstance(error, Later):
        return Failure(kind, shortened(str.__str__(error.reason)), detail, how, float(error.seconds), carried)
    return Failure(kind, reason, detail, how, 0.0, carried)
