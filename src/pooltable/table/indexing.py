"""Makes the index that claims need over the user's table, while others write to it where the database can do that."""

from __future__ import annotations

from pooltable.errors import DatabaseError, MappingError
from pooltable.table import schema
from pooltable.table.database import Connection
from pooltable.table.looking import Looker
from pooltable.table.statements import Statements


def make_index(c: Connection, s: Statements, looker: Looker) -> str | None:
    """Its SQL; None where one was there already. Outside a transaction."""
    m, d = s.mapping, s.dialect
    if m.order.columns is None:
        raise MappingError(
            f"no index serves claims of {m.name!r} in the order {m.order.sql}: order by columns that are NOT NULL"
        )
    if looker.index_sql(c) is None:
        return None
    name = schema.claim_index_name(s.job)
    there = [index for index in d.indexes(c, m) if index.name == name]
    drop = d.drop_index(m, name)
    # One that is not valid is there for IF NOT EXISTS, and of no use to anybody.
    if any(not index.valid for index in there):
        raise DatabaseError(
            f"the index {name!r} is there but not valid: it is being built, or its build was interrupted; if nobody"
            f" builds it now, run this, and then again: {drop}"
        )
    # Ours, but made for another status column, word or order.
    if there:
        c.run(d.text(drop))
    sql = schema.claim_index(m, s.job, d)
    c.run(sql)
    return d.plain(sql)
