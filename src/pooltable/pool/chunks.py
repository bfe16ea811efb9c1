"""Several calls of one function as one: what `map` sends to a worker.

A chunk that goes well returns the plain list of its values. When an item raises, the others still run, and the chunk
returns a `Mixed` that keeps each item's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import starmap
from typing import Any


class Mixed:
    """The values of a chunk of which some items raised; `errors` has those, described, by position."""

    __slots__ = ("errors", "values")

    def __init__(self, values: list[Any], errors: dict[int, tuple[Any, ...]]) -> None:
        self.values = values
        self.errors = errors

    def __reduce__(self) -> tuple[Any, ...]:
        return Mixed, (self.values, self.errors)


def call_each(function: Callable[[Any], Any], items: tuple[Any, ...]) -> list[Any] | Mixed:
    """`function(item)` for each item."""
    return _run(map, function, items)


def call_each_unpacked(function: Callable[..., Any], items: tuple[Iterable[Any], ...]) -> list[Any] | Mixed:
    """`function(*item)` for each item."""
    return _run(starmap, function, items)


def _run(
    apply: Callable[..., Iterable[Any]], function: Callable[..., Any], items: tuple[Any, ...]
) -> list[Any] | Mixed:
    values: list[Any] = []
    errors: dict[int, tuple[Any, ...]] = {}
    while True:
        try:
            # `extend` keeps what came before the item that raised, so the length of the list tells which one it was.
            values.extend(apply(function, items[len(values) :]))
            return Mixed(values, errors) if errors else values
        except BaseException as error:
            from pooltable.pool.worker import describe

            errors[len(values)] = describe(error, skip=2)
            values.append(None)
            del error
