"""Values and errors whose own methods hang, or raise what ends a program, wherever they are asked or rebuilt."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any

from pooltable import Later
from pooltable.rows import Row
from tests.runner.missions import note, notes


def hang() -> Any:
    note("hangs")
    time.sleep(60)


def interrupt() -> Any:
    raise KeyboardInterrupt("not by any person")


def fork() -> Any:
    """The child comes back; says by what exit code it ended."""
    child = os.fork()
    if child:
        return f"exit code {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"
    return "from the child"


def hang_in_the_runner() -> Any:
    while multiprocessing.parent_process() is None and not notes().with_name("go").exists():
        time.sleep(0.01)
    return "rebuilt"


class Rebuilt:
    """A value that calls a function when it is rebuilt."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __reduce__(self) -> Any:
        return self.function, ()


class RebuiltError(Exception):
    def __init__(self, function: Any) -> None:
        super().__init__("its message")
        self.function = function

    def __reduce__(self) -> Any:
        return self.function, ()


class Item:
    """Looks like a number of NumPy's."""

    shape = ()

    def __init__(self, function: Any) -> None:
        self.item = function


class Repr:
    def __repr__(self) -> str:
        return str(hang())


class StrError(Exception):
    def __init__(self, function: Any) -> None:
        self.function = function

    def __str__(self) -> str:
        return str(self.function())


class Text(str):
    """A text that is none of Python's own."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return hang, ()


class TextError(Exception):
    def __str__(self) -> str:
        return Text("said by itself")


class Someday(Later):
    def __init__(self) -> None:
        super().__init__(1)
        self.seconds = "some day"  # type: ignore[assignment]


def by_content(row: Row) -> Any:
    """Returns or raises what the row says."""
    match row.content:
        case "result hangs":
            return Rebuilt(hang)
        case "result interrupts":
            return Rebuilt(interrupt)
        case "result hangs in the runner":
            return Rebuilt(hang_in_the_runner)
        case "error hangs":
            raise RebuiltError(hang)
        case "error interrupts":
            raise RebuiltError(interrupt)
        case "item hangs":
            return Item(hang)
        case "item interrupts":
            return Item(interrupt)
        case "repr hangs":
            return Repr()
        case "str hangs":
            raise StrError(hang)
        case "str interrupts":
            raise StrError(interrupt)
        case "task forks":
            return fork()
        case "item forks":
            return Item(fork)
        case "str forks":
            raise StrError(fork)
        case "later, nobody knows when":
            raise Someday
        case "text":
            return Text("a caption")
        case "text error":
            raise TextError
    return "fine"


def many(rows: list[Row]) -> list[Any]:
    found: list[Any] = []
    for row in rows:
        try:
            found.append(by_content(row))
        except Exception as error:
            found.append(error)
    return found
