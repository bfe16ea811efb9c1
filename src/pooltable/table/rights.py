"""The rights that a run needs on a server, each with a statement that does nothing and is refused without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pooltable.table.database import Connection
from pooltable.table.dialects import Trouble
from pooltable.table.statements import Statements


class Right(NamedTuple):
    """A right as GRANT names it, on which table, and a statement that is refused without it."""

    what: str
    on: str
    sql: str


def needed(s: Statements, entries: bool) -> Iterator[Right]:
    """What a run needs on the user's table, and on the side tables if they are there (`entries`)."""
    m, quote = s.mapping, s.dialect.quote
    read = ", ".join(column.sql for column in (*m.key, m.status, *m.columns))
    yield Right("SELECT", s.t, f"EXPLAIN SELECT {read} FROM {s.t} WHERE 1 = 0")
    for column in (m.status, *m.write, *((m.result,) if m.result else ())):
        sql = f"EXPLAIN UPDATE {s.t} SET {column.bare} = NULL WHERE 1 = 0"
        yield Right(f"UPDATE ({column.bare})", s.t, sql)
    if not entries:
        return
    for table, name in (
        (s.names.jobs, quote("job")),
        (s.names.runners, quote("id")),
        (s.r, "number"),
        (s.e, s.names.key[0]),
    ):
        yield Right("SELECT", table, f"EXPLAIN SELECT {name} FROM {table} WHERE 1 = 0")
        yield Right("INSERT", table, f"EXPLAIN INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0")
        yield Right("UPDATE", table, f"EXPLAIN UPDATE {table} SET {name} = NULL WHERE 1 = 0")
    yield deleting(s.e)
    yield deleting(s.r)


def deleting(table: str) -> Right:
    return Right("DELETE", table, f"EXPLAIN DELETE FROM {table} WHERE 1 = 0")


def held(c: Connection, right: Right) -> bool:
    """Whether this role has the right. A refusal spoils the transaction that it comes in."""
    try:
        c.all(right.sql)
    except c.dialect.errors as refused:
        trouble = c.dialect.trouble(refused, c.raw)
        if trouble not in (Trouble.OTHER, Trouble.REFUSED):
            raise
        # A refusal of the value, not of the right, where a server looks at it this early.
        return trouble is Trouble.REFUSED
    return True
