"""Several calls of one function as one: what `map` sends to a worker.

A chunk that goes well returns the plain list of its values. When an item raises, the others still run, and the chunk
returns a `Mixed` that keeps each item's own error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, starmap
from time import perf_counter
from typing import Any

from pooltable.pool import forked

# A part of a chunk takes about so many seconds, unless it is one item: much less than it takes to fork.
_PART = 10e-6


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
    own = forked.own()
    values: list[Any] = []
    errors: dict[int, tuple[Any, ...]] = {}
    for part in _parts(items):
        while True:
            try:
                # `extend` keeps what came before the item that raised, so the length of the list tells which one it
                # was.
                values.extend(apply(function, part))
                break
            except BaseException as error:
                if not own[0]:
                    forked.leave(error)
                from pooltable.pool.worker import describe

                errors[len(values)] = describe(error, skip=2)
                values.append(None)
                del error
        if not own[0]:
            forked.leave(None)
    return Mixed(values, errors) if errors else values


def _parts(items: tuple[Any, ...]) -> Iterator[Iterator[Any]]:
    """The items in parts, each to be used up before the next.

    A copy of this process that an item has forked off gets no more of them; one that Python is not told of gets the
    rest of the part, so an item that takes long enough to fork is alone in its part.
    """
    _left[:] = items
    left = iter(_left)
    size, given = 1, 0
    try:
        while given < len(items):
            began = perf_counter()
            yield islice(left, size)
            given += size
            seconds = perf_counter() - began
            if seconds < _PART:
                size *= 2
            elif seconds > 4 * _PART:
                size = 1
    finally:
        _left.clear()


_left: list[Any] = []  # of the chunk that runs in this process
os.register_at_fork(after_in_child=_left.clear)
