"""Inserts rows into the user's table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping as MappingOf, Sequence
from typing import Any

from pooltable.errors import MappingError
from pooltable.table.database import Connection
from pooltable.table.statements import Statements
from pooltable.table.values import Converter


def insert_rows(c: Connection, s: Statements, converter: Converter, rows: Sequence[MappingOf[str, Any]]) -> int:
    """Inserts the rows, with the PENDING word where they name no status; their number."""
    known = {column.name: column for column in s.mapping.rows}
    status, pending = s.mapping.status, s.mapping.words.pending
    groups: defaultdict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        if not isinstance(row, MappingOf):
            raise MappingError(f"table {s.mapping.name!r}: a row to add is a mapping of columns to values, not {row!r}")
        for name in row:
            if name not in known:
                raise MappingError(f"table {s.mapping.name!r} has no column {name!r}; it has {', '.join(known)}")
        whole = {status.name: pending, **row}
        values = tuple(
            value if name == status.name else converter.one(known[name], value) for name, value in whole.items()
        )
        groups[tuple(whole)].append(values)
    for names, values_of in groups.items():
        columns = ", ".join(known[name].bare for name in names)
        marks = ", ".join(s.value(known[name]) for name in names)
        c.many(f"INSERT INTO {s.t} ({columns}) VALUES ({marks})", values_of)
    return len(rows)
