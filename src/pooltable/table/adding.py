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
    before = _keyless(c, s)
    for names, values_of in groups.items():
        columns = ", ".join(known[name].bare for name in names)
        marks = ", ".join(s.value(known[name]) for name in names)
        c.many(f"INSERT INTO {s.t} ({columns}) VALUES ({marks})", values_of)
    # Looked at afterwards, because a default or a trigger may have given the key.
    if keyless := _keyless(c, s) - before:
        key = ", ".join(column.name for column in s.mapping.key)
        raise MappingError(
            f"table {s.mapping.name!r}: {keyless} of {len(rows)} rows would have NULL for the key {key}, and no run"
            " could take them; give each row its key; nothing was added"
        )
    return len(rows)


def _keyless(c: Connection, s: Statements) -> int:
    """How many rows have NULL in their key, which only SQLite allows."""
    if not s.lacks_key:
        return 0
    return int(c.all(f"SELECT count(*) FROM {s.t} WHERE {s.lacks_key.removeprefix(' AND ')}")[0][0])
