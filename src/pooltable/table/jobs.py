"""The row of a job in `pooltable_job`: which table, key and words it means, so that two runners mean the same."""

from __future__ import annotations

import json
from typing import Any

from pooltable.errors import MappingError
from pooltable.table import schema
from pooltable.table.database import Connection
from pooltable.table.statements import Statements


def enter(c: Connection, s: Statements) -> None:
    """Makes the job's row, or checks that it means the same. Raises MappingError where it does not."""
    facts = _facts(s)
    if _found(c, s, facts) is None:
        names = ", ".join(map(s.dialect.quote, ("job", *facts)))
        marks = ", ".join([s.mark] * (len(facts) + 1))
        s.dialect.insert_once(c, s.names.jobs, names, marks, (s.job, *facts.values()))
    different = difference(c, s)
    if different:
        raise MappingError(different)


def difference(c: Connection, s: Statements) -> str | None:
    """In what the job's row differs from this mapping, with the remedy; None where it does not, or is not there."""
    facts = _facts(s)
    for (name, wanted), there in zip(facts.items(), _found(c, s, facts) or facts.values(), strict=True):
        if there == wanted:
            continue
        if name == "version":
            return (
                f"the job {s.job!r} was set up by another version of pooltable: its side tables are of form {there},"
                f" and this version works with form {wanted}; use the version that the other runners have"
            )
        return (
            f"the job {s.job!r} is known here with {name} {there!r}, and this is {wanted!r}; use the same"
            " mapping, or name another job: job=... (--job)"
        )
    return None


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


def _found(c: Connection, s: Statements, facts: dict[str, Any]) -> tuple[Any, ...] | None:
    names = ", ".join(map(s.dialect.quote, facts))
    return c.first(f"SELECT {names} FROM {s.names.jobs} WHERE {s.dialect.quote('job')} = {s.mark}", (s.job,))
