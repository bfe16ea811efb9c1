"""Runs a task that takes many rows at once, and gives each row an end of its own.

    rows --task([row, row, ...])--> [value, value, ...]      one end for each
                        raised  --> its rows, one by one     their own ends count
                  out of memory --> the two halves of it     and smaller batches from then on

The ends of a batch travel as one list. Each is converted by itself, so that a value that cannot be stored is the
trouble of its own row.
"""

from __future__ import annotations

import gc
import linecache
import os
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from itertools import islice
from time import perf_counter
from typing import Any, NamedTuple

from pooltable import tasks
from pooltable.errors import CannotStore, TaskError, WorkerLost, describe
from pooltable.outcomes import CANCELLED, Outcome, Raised, Returned, RowOutcome
from pooltable.pool import forked
from pooltable.rows import Row, key_text
from pooltable.tasks import Attempt, Spec

# A row on its way to a task: values, attempt, idempotency key; as `tasks.run_row` takes them.
Going = tuple[tuple[Any, ...], int, str]
Batch = tuple[Going, ...]


class End(NamedTuple):
    """How one row of a batch ended, None where it returned None; and the seconds it took: its share, where it ran
    together with others."""

    ended: RowOutcome | None
    seconds: float


# ---- in a worker of ours, in a process of somebody else's executor, here


def run_batch(batch: Batch, leaving: Collection[int] = ()) -> list[End]:
    """Run the prepared task on these rows, in this process, unless this worker is one of those to be replaced."""
    spec = tasks.prepared(leaving)
    return _all(batch, CANCELLED, 0.0) if spec is None else run_batch_here(spec, batch)


def run_batch_elsewhere(number: str, spec: bytes, batch: Batch) -> tuple[list[End], float]:
    """How the rows ended and the seconds it took; the first rows of a run to reach a process prepare it."""
    with forked.EndsCopies():
        known = tasks.prepared_elsewhere(number, spec)
        began = perf_counter()
        ends = run_batch_here(known, batch)
        return ends, perf_counter() - began


def run_batch_here(spec: Spec, batch: Batch) -> list[End]:
    """Run the task on these rows, in this thread: together, as far as that works."""
    return _Work(spec).run(batch)


def call(spec: Spec, batch: Batch) -> Sequence[Outcome]:
    """One outcome for each of these rows, from one call of the task; raises what that raises."""
    rows = [Row(spec.fields, values) for values, _, _ in batch]
    attempts = tuple(Attempt(values[: spec.key_size], attempt, key) for values, attempt, key in batch)
    try:
        return tasks.work(lambda given: _outcomes(spec.task, given), rows, attempts)  # type: ignore[no-any-return]
    except (AttributeError, TypeError, ValueError) as error:
        if not _took_it_for_a_row(error, rows):
            raise
        raise TaskError(
            f"{tasks.name_of(spec.task)} seems to be written for one row, and with `batch` it gets a list of rows:"
            " leave out --batch, or have it return a list with one result for each of them"
            f" ({type(error).__name__}: {error})"
        ) from error


def _took_it_for_a_row(error: AttributeError | TypeError | ValueError, rows: list[Row]) -> bool:
    """Whether the list was asked for a column, or was unpacked as if it were a row."""
    text = str(error)
    if isinstance(error, AttributeError):
        return error.obj is rows
    if isinstance(error, ValueError):
        unpacked = text.startswith("not enough values to unpack") and text.endswith(f"got {len(rows)})")
        return unpacked and len(rows) != len(rows[0])
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    source = linecache.getline(frame.f_code.co_filename, line)
    names = [name for name, value in frame.f_locals.items() if value is rows]
    return "must be integers or slices, not str" in text and any(f"{name}[" in source for name in names)


class _Work:
    """One batch at work."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._ruined = False
        self._ran_out = False  # of memory, with several rows
        self._row_ran_out = False  # with one row alone
        self._went_through = 0  # the largest number of rows since then

    def run(self, batch: Batch) -> list[End]:
        fits = self._spec.fits
        size = fits.rows or len(batch)
        ends = [end for at in range(0, len(batch), size) for end in self._part(batch[at : at + size])]
        # A row that is too much by itself says nothing of how many others fit.
        if self._ran_out and not self._row_ran_out:
            fits.rows = self._went_through
        return ends

    def _part(self, batch: Batch) -> list[End]:
        if self._ruined:
            # Not run, so that costs them nothing.
            return _all(batch, CANCELLED, 0.0)
        began = perf_counter()
        error: BaseException
        try:
            outcomes = call(self._spec, batch)
        except BaseException as raised:
            if tasks.is_a_stop(raised):
                raise
            error = raised
        else:
            self._went_through = max(self._went_through, len(batch))
            ended = [_ended(self._spec, outcome) for outcome in outcomes]
            share = (perf_counter() - began) / len(batch)
            return [End(each, share) for each in ended]
        seconds = perf_counter() - began
        self._ruined = tasks.ruins_the_worker(error)
        ran_out = tasks.is_out_of_memory(error)
        if len(batch) == 1:
            self._row_ran_out |= ran_out
            if isinstance(error, MemoryError):
                tasks.recycle()
            return [End(tasks.failed(self._spec, error), seconds)]
        if self._ruined:
            # Who of them did it shows when each runs alone; they would all fail in this process.
            told = describe(error).reason
            return [
                End(
                    tasks.failed(self._spec, WorkerLost(os.getpid(), None, told, self._doing(row))),
                    seconds / len(batch),
                )
                for row in batch
            ]
        # Its traceback holds everything that the task had in memory.
        del error
        if ran_out:
            self._ran_out = True
            gc.collect()
            half = (len(batch) + 1) // 2
            return self._part(batch[:half]) + self._part(batch[half:])
        return [end for row in batch for end in self._part((row,))]

    def _doing(self, row: Going) -> str:
        values, attempt, _ = row
        return f"row {key_text(values[: self._spec.key_size])} (attempt {attempt})"


def _all(batch: Batch, ended: RowOutcome, seconds: float) -> list[End]:
    return [End(ended, seconds / len(batch)) for _ in batch]


def _ended(spec: Spec, outcome: Outcome) -> RowOutcome | None:
    if isinstance(outcome, Raised):
        return tasks.failed(spec, outcome.error)
    try:
        return tasks.kept(spec, outcome.value)
    except BaseException as error:
        if tasks.is_a_stop(error):
            raise
        return tasks.failed(spec, error)


def _outcomes(task: Callable[[Any], Any], rows: list[Row]) -> Sequence[Outcome]:
    """One outcome for each row, from what the task returned for all of them."""
    count = len(rows)
    returned = task(rows)
    if returned is None:
        return [Returned(None)] * count
    values = _listed(returned, count)
    if isinstance(values, str):
        # Whose result is missing is anybody's guess, and a wrong guess would write one row's result into another.
        problem = CannotStore(
            f"{tasks.name_of(task)} returned {values} for {count} rows; a batch function returns a list with one result"
            " for each row, in the same order: None where there is nothing to store, an exception for a row that failed"
        )
        return [Raised(problem)] * count
    return [Raised(tasks.foreign(value)) if isinstance(value, BaseException) else Returned(value) for value in values]


def _listed(returned: Any, count: int) -> list[Any] | str:
    """What was returned as a list of that length, or in words what it is instead."""
    if isinstance(returned, (str, bytes, bytearray, Mapping, Set)) or not hasattr(returned, "__iter__"):
        return f"a {type(returned).__name__}"
    values = list(islice(returned, count + 1))
    if len(values) == count:
        return values
    try:
        length = str(len(returned))
    except TypeError:
        length = "more" if len(values) > count else str(len(values))
    return f"{length} results"
