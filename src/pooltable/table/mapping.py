"""Which column of the user's table plays which role, checked against the real table.

    name, Table or class  --reflect-->  columns, keys  --check-->  Mapping

A Mapping holds what the statements need: columns with their quoted names, the status words, scope and order. What a
named table gives to tasks is what the driver gives; a SQLAlchemy Table or mapped class gives what its types say.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import sqltypes

from pooltable.errors import MappingError
from pooltable.table.decorated import Inner, inner_of
from pooltable.table.dialects import Dialect
from pooltable.table.states import Words


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the user's table: `sql` is its name as the statements say it, qualified by the table's."""

    name: str
    type: sa.types.TypeEngine[Any]
    nullable: bool
    bare: str  # quoted, for SET and lists of columns
    sql: str  # quoted and qualified, for everything else
    read: Callable[[Any], Any] | None = None  # what the driver gives -> what the task gets
    bind: Callable[[Any], Any] | None = None  # what the user has -> what the driver takes
    inner: Inner | None = None  # what is left of the type without the user's own decorators
    cast: str = ""  # the type's own name, where values must be cast to it


@dataclass(frozen=True, slots=True)
class Order:
    """In which order waiting rows are claimed.

    `columns` with `descending` is the order by plain columns, the key last, from which a cursor can go on; None where
    the order is some other expression, and each claim looks from the start.
    """

    sql: str
    columns: tuple[Column, ...] | None
    descending: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Mapping:
    """The user's table as pooltable sees it."""

    schema: str | None
    name: str
    sql: str  # the table's quoted, qualified name
    key: tuple[Column, ...]
    status: Column
    columns: tuple[Column, ...]  # what the task gets after the key
    write: tuple[Column, ...]
    result: Column | None
    words: Words
    where: str  # "" or the scope as SQL
    order: Order
    rows: tuple[Column, ...]  # every column, for adding rows
    integer_key: bool  # the key is one whole number that the database itself keeps so

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(column.name for column in (*self.key, *self.columns))


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, not yet checked."""

    table: Any
    columns: Sequence[str] | None
    key: str | Sequence[str] | None
    status: str
    words: Words
    write: Sequence[str]
    result: str | None
    order_by: Any
    where: Any


def reflect(connection: sa.Connection, request: Request, dialect: Dialect, database: str) -> Mapping:
    """The mapping, checked against the table as it is. Raises MappingError with the remedy."""
    inspector = sa.inspect(connection)
    declared = _declared(request.table)
    schema, name = _find(inspector, request.table, declared, database)
    table = _Table(connection, dialect, dialect.home(connection, schema, name), name, declared)
    key = _key(table, request.key)
    status = table.column(request.status, "status")
    write = _listed(table, request.write, "write")
    result = table.column(request.result, "result") if request.result is not None else None
    for column in (*write, *((result,) if result else ())):
        if column is status or column in key:
            raise MappingError(
                f"{table}: column {column.name!r} is the {'status' if column is status else 'key'}; a task's result"
                " cannot be written there"
            )
        if column.name in table.computed:
            raise MappingError(
                f"{table}: column {column.name!r} is computed by the database; a task's result cannot be written there"
            )
    if status in key:
        raise MappingError(
            f"{table}: the status column {status.name!r} is part of the key; give a key that stays the same: key=..."
        )
    if request.columns is None:
        roles = {status.name, *(column.name for column in (*key, *write)), *((result.name,) if result else ())}
        columns = tuple(column for column in table.columns.values() if column.name not in roles)
    else:
        columns = tuple(column for column in _listed(table, request.columns, "columns") if column not in key)
    words = check_words(request.words, status, str(table))
    return Mapping(
        schema=table.schema,
        name=name,
        sql=table.sql,
        key=key,
        status=status,
        columns=columns,
        write=write,
        result=result,
        words=words,
        where=_where(request.where, dialect),
        order=_order(request.order_by, table, key, dialect),
        rows=tuple(table.columns.values()),
        integer_key=len(key) == 1 and table.primary == (key[0].name,) and str(key[0].type) == "INTEGER",
    )


# ---- finding the table


def _declared(table: Any) -> sa.Table | None:
    if isinstance(table, str):
        return None
    if not isinstance(table, sa.Table):
        table = getattr(table, "__table__", table)
    if not isinstance(table, sa.Table):
        raise MappingError(f"{table!r} is neither a table's name nor a SQLAlchemy Table nor a mapped class")
    return table


def _find(inspector: sa.Inspector, asked: Any, declared: sa.Table | None, database: str) -> tuple[str | None, str]:
    if declared is not None:
        candidates = [(declared.schema, str(declared.name))]
    else:
        candidates = [(None, asked)]
        if "." in asked:
            schema, name = asked.split(".", 1)
            candidates.append((schema, name))
    for schema, name in candidates:
        if inspector.has_table(name, schema=schema):
            if name in inspector.get_view_names(schema=schema):
                raise MappingError(f"{name!r} is a view; give the table under it, with where=... for the rows you mean")
            return schema, name
    schema, name = candidates[-1]
    names = [n for n in inspector.get_table_names(schema=schema) if not n.startswith("pooltable_")]
    shown = f"{schema}.{name}" if schema else name
    raise MappingError(f"table {shown!r} is not in {database}; {_there_is(name, names, 'it has no tables')}")


def _there_is(name: str, names: Iterable[str], nothing: str) -> str:
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"there is {close[0]!r}"
    if not known:
        return nothing
    more = "" if len(known) <= 8 else f" and {len(known) - 8} more"
    return f"there are {', '.join(repr(n) for n in known[:8])}{more}"


class _Table:
    """The table as the database describes it."""

    def __init__(
        self, connection: sa.Connection, dialect: Dialect, schema: str | None, name: str, declared: sa.Table | None
    ) -> None:
        inspector = sa.inspect(connection)
        self.schema, self.name = schema, name
        quote = dialect.quote
        self.sql = f"{quote(schema)}.{quote(name)}" if schema else quote(name)
        self.columns: dict[str, Column] = {}
        self.computed: set[str] = set()
        for found in inspector.get_columns(name, schema=schema):
            column_name = dialect.reflected(str(found["name"]))
            if found.get("computed"):
                self.computed.add(column_name)
            kind = found["type"]
            read = bind = inner = None
            if declared is not None and column_name in declared.c:
                kind = declared.c[column_name].type
                implementation = kind.dialect_impl(dialect.sqlalchemy)
                read = implementation.result_processor(dialect.sqlalchemy, _type_code(kind))
                bind = implementation.bind_processor(dialect.sqlalchemy)
                inner = inner_of(implementation, dialect.sqlalchemy)
            self.columns[column_name] = Column(
                name=column_name,
                type=kind,
                nullable=bool(found["nullable"]),
                bare=quote(column_name),
                sql=f"{quote(name)}.{quote(column_name)}",
                read=read,
                bind=bind,
                inner=inner,
            )
        constraint = inspector.get_pk_constraint(name, schema=schema)
        # Those of few columns first.
        self.unique = sorted(dict.fromkeys(dialect.unique_keys(connection, schema, name)), key=len)
        self.primary = tuple(dialect.reflected(str(column)) for column in (constraint.get("constrained_columns") or ()))

    def __str__(self) -> str:
        return f"table {self.name!r}"

    def column(self, name: str, role: str) -> Column:
        if name in self.columns:
            return self.columns[name]
        same = [known for known in self.columns if known.lower() == str(name).lower()]
        if len(same) == 1:
            return self.columns[same[0]]
        remedy = f"; name yours with --{role} or {role}=..." if role in ("status", "key") else ""
        raise MappingError(
            f"{self} has no column {name!r} for {role}; {_there_is(str(name), self.columns, 'it has none')}{remedy}"
        )


def _type_code(kind: Any) -> int:
    """The code under which psycopg gives numbers: SQLAlchemy's types for numbers ask for it, the others do not."""
    return 701 if isinstance(kind, sqltypes.Float) else 1700


# ---- the key

_INEXACT = (sqltypes.Float, sqltypes.Double, sqltypes.REAL)
_NO_KEY = (sqltypes.JSON, sqltypes.ARRAY, sqltypes.Interval)


def _key(table: _Table, asked: str | Sequence[str] | None) -> tuple[Column, ...]:
    unique = table.unique
    if asked is not None:
        names = (asked,) if isinstance(asked, str) else tuple(asked)
        key = tuple(table.column(name, "key") for name in names)
        if not key:
            raise MappingError(f"{table}: key=() names no column")
        wanted = {column.name for column in key}
        if wanted != set(table.primary) and wanted not in [set(columns) for columns in unique]:
            raise MappingError(
                f"{table}: nothing keeps {', '.join(sorted(wanted))} unique, so it cannot be the key; "
                f"make a unique index over it, or give a key that has one"
            )
    elif table.primary:
        key = tuple(table.columns[name] for name in table.primary)
    else:
        exact = [columns for columns in unique if not any(table.columns[name].nullable for name in columns)]
        if not exact:
            nullable = f"; {', '.join(unique[0])} is unique, but may be NULL: make it NOT NULL" if unique else ""
            raise MappingError(
                f"{table} has neither a primary key nor a unique key, so no row of it can be told from"
                f" another{nullable or '; give it one, for example a column id INTEGER PRIMARY KEY'}"
            )
        key = tuple(table.columns[name] for name in exact[0])
    for column in key:
        if isinstance(column.type, _INEXACT):
            raise MappingError(
                f"{table}: key column {column.name!r} is {column.type}, and such numbers do not compare exactly; use a"
                " whole number, text or UUID"
            )
        if isinstance(column.type, _NO_KEY):
            raise MappingError(
                f"{table}: key column {column.name!r} is {column.type}, which cannot be a key; use a whole number, text"
                " or UUID"
            )
        if column.nullable and column.name not in table.primary:
            raise MappingError(
                f"{table}: key column {column.name!r} may be NULL, and NULL is equal to nothing; make it NOT NULL"
            )
    return key


def _listed(table: _Table, names: Sequence[str], role: str) -> tuple[Column, ...]:
    if isinstance(names, str):
        names = (names,)
    return tuple(dict.fromkeys(table.column(name, role) for name in names))


# ---- the status words


def check_words(words: Words, status: Column, table: str) -> Words:
    """The words as values of the status column. Raises MappingError where the column cannot hold them."""
    return Words(**{name: _word(name, word, status, table) for name, word in words.items()})


def _word(name: str, word: Any, status: Column, table: str) -> Any:
    kind = status.type
    what = f"{table}: the {name} word {'NULL' if word is None else repr(word)}"
    if word is None:
        if not status.nullable:
            raise MappingError(f"{what} cannot be in {status.name!r}, which is NOT NULL")
        return None
    if isinstance(kind, sqltypes.Enum):
        value = word
        if isinstance(word, Enum) and status.bind is not None:
            value = status.bind(word)
        if value not in kind.enums:
            raise MappingError(
                f"{what} is not one of the values of {status.name!r}: {', '.join(map(str, kind.enums))}; name yours"
                f" with {name}=..."
            )
        return value
    if isinstance(word, Enum):
        word = word.value
    if isinstance(kind, sqltypes.Integer):
        if isinstance(word, str) and re.fullmatch(r"-?\d+", word.strip()):
            return int(word)
        if not isinstance(word, int):
            raise MappingError(
                f"{what} cannot be in {status.name!r}, which is {kind}; give whole numbers: Words(0, 1, 2, 3)"
            )
        return int(word)
    if isinstance(kind, sqltypes.String):
        text = str(word)
        if kind.length is not None and len(text) > kind.length:
            raise MappingError(f"{what} is longer than {status.name!r} can hold, which is {kind}")
        return text
    if isinstance(kind, (sqltypes.NullType, sqltypes.Numeric)) or isinstance(word, (int, str)):
        return word
    raise MappingError(f"{what} cannot be in {status.name!r}, which is {kind}")


# ---- scope and order


def _where(where: Any, dialect: Dialect) -> str:
    if where is None:
        return ""
    return dialect.text(where) if isinstance(where, str) else dialect.compiled(where)


_IDENTIFIER = r"""(?:[A-Za-z_]\w*|"(?:[^"]|"")+"|`(?:[^`]|``)+`)"""
_PART = re.compile(
    rf"\s*(?P<name>{_IDENTIFIER}(?:\.{_IDENTIFIER}){{0,2}})(?:\s+(?P<direction>asc|desc))?\s*", re.IGNORECASE
)
_NAME = re.compile(r'"(?:[^"]|"")+"|`(?:[^`]|``)+`|[^."`]+')


def _order(order_by: Any, table: _Table, key: tuple[Column, ...], dialect: Dialect) -> Order:
    asked = [] if order_by is None else list(order_by) if isinstance(order_by, (list, tuple)) else [order_by]
    texts = [dialect.text(part) if isinstance(part, str) else dialect.compiled(part) for part in asked]
    read = [_simple(part, table) for part in _split(", ".join(texts))]
    parts = [part for part in read if part is not None]
    if len(parts) < len(read):
        missing = ", ".join(column.sql for column in key)
        return Order(sql=f"{', '.join(texts)}, {missing}", columns=None)
    # Keys go the way the order goes, so that one index serves all of it, read in either direction.
    down = bool(parts) and all(descending for _, descending in parts)
    known = {column.name for column, _ in parts}
    parts += [(column, down) for column in key if column.name not in known]
    sql = ", ".join(f"{column.sql} DESC" if descending else column.sql for column, descending in parts)
    key_names = {column.name for column in key}
    if any(column.nullable and column.name not in key_names for column, _ in parts):
        return Order(sql=sql, columns=None)
    return Order(
        sql=sql, columns=tuple(column for column, _ in parts), descending=tuple(descending for _, descending in parts)
    )


def _split(text: str) -> list[str]:
    """The parts of an ORDER BY, at the commas that are in no bracket and no quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"`":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]


def _simple(part: str, table: _Table) -> tuple[Column, bool] | None:
    found = _PART.fullmatch(part)
    if not found:
        return None
    last = _NAME.findall(found["name"])[-1]
    name = last[1:-1].replace(last[0] * 2, last[0]).replace("%%", "%") if last[0] in '"`' else last
    column = table.columns.get(name) or next((c for n, c in table.columns.items() if n.lower() == name.lower()), None)
    return None if column is None else (column, (found["direction"] or "").lower() == "desc")


def with_casts(mapping: Mapping, casts: dict[str, str]) -> Mapping:
    """The mapping with the types' own names, for the database that wants its values cast to them."""

    def cast(columns: tuple[Column, ...]) -> tuple[Column, ...]:
        return tuple(replace(column, cast=casts.get(column.name, "")) for column in columns)

    order = mapping.order
    return replace(
        mapping,
        key=cast(mapping.key),
        columns=cast(mapping.columns),
        write=cast(mapping.write),
        result=cast((mapping.result,))[0] if mapping.result else None,
        status=cast((mapping.status,))[0],
        rows=cast(mapping.rows),
        order=replace(order, columns=cast(order.columns) if order.columns is not None else None),
    )
