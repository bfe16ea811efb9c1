"""The row of a job in `pooltable_job`: which table, key and words it means, so that two runners mean the same.

no row                    --enter--> this mapping
the same mapping          --enter--> as it is
another, nothing claimed  --enter--> this mapping
another, rows claimed     --enter, again--> this mapping, where no open row is lost by it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pooltable.errors import MappingError
from pooltable.table import schema
from pooltable.table.database import Connection
from pooltable.table.rescue import Rescuer
from pooltable.table.statements import Statements
from pooltable.table.states import word_text

# Entries are keyed by these, so they mean other rows where one of these is another.
_ROWS = frozenset({"schema", "table", "key"})


class Change(NamedTuple):
    """One thing that a job means differently: as its row has it, and as this mapping has it."""

    name: str
    before: Any
    after: Any


def enter(c: Connection, s: Statements, ddl: Callable[[Connection], Sequence[str]], again: bool) -> list[str]:
    """Makes the job's row, or gives it this mapping where it has another; what changed, a line for each.

    Raises MappingError where it may not: with `again` only where open rows would be lost.
    """
    facts = _facts(s)
    if _changes(c, s) is None:
        names = ", ".join(map(s.dialect.quote, ("job", *facts)))
        marks = ", ".join([s.mark] * (len(facts) + 1))
        s.dialect.insert_once(c, s.names.jobs, names, marks, (s.job, *facts.values()))
    if not _changes(c, s):
        return []
    _lock(c, s)
    changes = _changes(c, s)
    if not changes:
        return []
    obstacle = _obstacle(c, s, changes, again)
    if obstacle:
        raise MappingError(obstacle)
    told = [
        f"{change.name} {_told(change.name, change.before)} -> {_told(change.name, change.after)}" for change in changes
    ]
    if _ROWS & {change.name for change in changes}:
        if _claimed(c, s):
            told.append("what was remembered of the rows under their old key is gone")
        c.run(f"DROP TABLE {s.e}")
        c.run(f"DROP TABLE {s.r}")
        for statement in ddl(c):
            c.run(statement)
    sets = ", ".join(f"{s.dialect.quote(change.name)} = {s.mark}" for change in changes)
    values = (*(change.after for change in changes), s.job)
    c.run(f"UPDATE {s.names.jobs} SET {sets} WHERE {s.dialect.quote('job')} = {s.mark}", values)
    return told


def hold(c: Connection, s: Statements) -> None:
    """Raises MappingError where the job means something else by now; nobody changes it before this transaction ends."""
    _lock(c, s)
    changes = _changes(c, s)
    if changes:
        raise MappingError(f"{_difference(s, changes)}, since a moment ago; start again with the same mapping")


def difference(c: Connection, s: Statements) -> str | None:
    """In what the job's row differs from this mapping and would go on to, with the remedy; None where it does not."""
    changes = _changes(c, s)
    return _obstacle(c, s, changes, again=False) if changes else None


def same_rows(c: Connection, s: Statements) -> bool:
    """Whether the job's entries are of the rows that this mapping means."""
    return not any(change.name in _ROWS for change in _changes(c, s) or ())


def known(c: Connection, s: Statements) -> bool:
    """Whether the job is set up with just this mapping."""
    return _changes(c, s) == []


def _facts(s: Statements) -> dict[str, Any]:
    m = s.mapping
    return {
        # First of all, because another version may mean something else by the rest.
        "version": schema.VERSION,
        "schema": m.schema,
        "table": m.name,
        "key": json.dumps([column.name for column in m.key]),
        "status": m.status.name,
        "words": json.dumps([value for _, value in m.words.items()], ensure_ascii=False),
    }


def _changes(c: Connection, s: Statements) -> list[Change] | None:
    """What the job's row has differently; None where there is no row."""
    facts = _facts(s)
    names = ", ".join(map(s.dialect.quote, facts))
    found = c.first(f"SELECT {names} FROM {s.names.jobs} WHERE {s.dialect.quote('job')} = {s.mark}", (s.job,))
    if found is None:
        return None
    both = zip(facts.items(), found, strict=True)
    return [Change(name, there, wanted) for (name, wanted), there in both if there != wanted]


def _lock(c: Connection, s: Statements) -> None:
    # A lease is opened under this lock as well: so whoever changes the job sees its runner, or the runner the change.
    version = s.dialect.quote("version")
    sql = f"UPDATE {s.names.jobs} SET {version} = {version} WHERE {s.dialect.quote('job')} = {s.mark}"
    c.run(sql, (s.job,))


def _obstacle(c: Connection, s: Statements, changes: Sequence[Change], again: bool) -> str | None:
    """What keeps the job from these changes, with the remedy; None where nothing does."""
    if changes[0].name == "version":
        before, after = changes[0].before, changes[0].after
        told = (
            f"the job {s.job!r} was set up by another version of pooltable: its side tables are of form {before}, and"
            f" this version works with form {after}"
        )
        if before > after:
            return f"{told}; use the version that the other runners have"
        return (
            f"{told}. Nothing else is lost: rows keep their status, and those that are DOING can be given back with"
            f" `pooltable release --foreign`. Once no runner works on it, run: DROP TABLE"
            f" {s.dialect.plain(s.names.entries_before)}; DELETE FROM {s.dialect.plain(s.names.jobs)} WHERE"
            f" {s.dialect.plain(s.dialect.quote('job'))} = {s.dialect.plain(s.dialect.literal(s.job))};"
        )
    difference = _difference(s, changes)
    another = "or name another job: job=... (--job)"
    if Rescuer(s, "", 0.0).deaths(c, {}).living - {""}:
        return f"{difference}, and a runner works on it: stop that first, {another}"
    if not _claimed(c, s):
        return None
    if not again:
        return f"{difference}; use the same mapping, change it with `pooltable init --again`, {another}"
    stuck = c.first(f"SELECT count(*) FROM {s.e} WHERE ended = 'stuck'")
    left = sum(s.holders(c).values()) + (stuck[0] if stuck else 0)
    if left and any(_loses_open_rows(change) for change in changes):
        return (
            f"{difference}, and {left} of its rows are open, which would be lost: give them back with the settings"
            f" that they were claimed with (`pooltable release`, `pooltable retry KEY` where one is stuck), {another}"
        )
    return None


def _loses_open_rows(change: Change) -> bool:
    doing = 1  # the place of its word
    if change.name == "words":
        return bool(json.loads(change.before)[doing] != json.loads(change.after)[doing])
    return True


def _claimed(c: Connection, s: Statements) -> bool:
    """Whether this job ever claimed a row."""
    return c.first(f"SELECT 1 FROM {s.r} LIMIT 1") is not None


def _difference(s: Statements, changes: Sequence[Change]) -> str:
    before = " and ".join(f"{change.name} {_told(change.name, change.before)}" for change in changes)
    after = " and ".join(_told(change.name, change.after) for change in changes)
    return f"the job {s.job!r} is known here with {before}, and this is {after}"


def _told(name: str, value: Any) -> str:
    listed = name in ("key", "words")
    return ", ".join(map(word_text, json.loads(value))) if listed else str(value)
