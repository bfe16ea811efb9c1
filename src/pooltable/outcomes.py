"""How a call ended, as a value: the pool makes outcomes, the table judges them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Returned:
    """The function returned `value`; an exception object that was returned is a value like any other."""

    value: object


@dataclass(frozen=True, slots=True)
class Raised:
    """The call ended with `error`, raised by the function or told of it: lost worker, time limit, cancelled."""

    error: BaseException


Outcome = Returned | Raised
