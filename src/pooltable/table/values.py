"""Values of the user's columns: what a column can hold, and what the driver takes for it.

Mapping --> Store, which converts in the worker what a task returned (conversion.py)
        --> here: keys that people type, rows that are added, and types with a way of their own to the driver
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.sql import sqltypes

from pooltable.errors import CannotStore, MappingError, describe, shortened
from pooltable.table.conversion import Form, Limits, Store, fitted, for_driver, plain
from pooltable.table.decorated import Decorated
from pooltable.table.mapping import Column, Mapping

# The first that fits; an ENUM is also text.
_KINDS: tuple[tuple[type[Any], str], ...] = (
    (sqltypes.Enum, "enum"),
    (sqltypes.Boolean, "boolean"),
    (sqltypes.Integer, "integer"),
    (sqltypes.Uuid, "uuid"),
    (sqltypes.JSON, "json"),
    (sqltypes.Numeric, "number"),
    (sqltypes.Float, "number"),
    (sqltypes.String, "text"),
    (sqltypes._Binary, "bytes"),
    (sqltypes.DateTime, "moment"),
    (sqltypes.Date, "date"),
    (sqltypes.Time, "time"),
)
_FAR_DATE = re.compile(r"^-?infinity$|^\d{5,}-| BC$")  # as PostgreSQL writes it


def form_of(column: Column) -> Form:
    """What must be known of a column to convert a value for it."""
    kind = column.type
    name = next((name for known, name in _KINDS if isinstance(kind, known)), "anything")
    try:
        shown = str(kind)
    except Exception:
        shown = type(kind).__name__  # SQLAlchemy has no words for some types without a database
    return Form(
        name=column.name,
        kind=name,
        shown=shown,
        nullable=column.nullable,
        length=getattr(kind, "length", None) if name == "text" else None,
        choices=tuple(map(str, kind.enums)) if isinstance(kind, sqltypes.Enum) else (),
        inexact=isinstance(kind, sqltypes.Float),
        # What is written as JSON is text already.
        bound=column.bind is not None and name != "json",
    )


def _taking_form(column: Column) -> Form:
    """That of a column which takes what a task returns. What the user's own type does is done where the task runs; here
    only where it cannot travel."""
    inner = column.inner
    if inner is None:
        return form_of(column)
    own = Decorated(inner.decorators, inner.dialect)
    if not own.travels:
        return form_of(column)
    return replace(form_of(replace(column, type=inner.type, bind=inner.bind)), own=own)


def _binding(column: Column, form: Form) -> Callable[[Any], Any] | None:
    """The way to the driver that is left for the runner."""
    return column.bind if form.own is None or column.inner is None else column.inner.bind


class Converter:
    """Values of this table's columns as its database takes them."""

    def __init__(self, mapping: Mapping, limits: Limits) -> None:
        self._columns = {column.name: column for column in mapping.rows}
        self._forms: dict[str, Form] = {}
        self._limits = limits
        write = {column.name: _taking_form(column) for column in mapping.write}
        result = _taking_form(mapping.result) if mapping.result is not None else None
        # What turns a task's value into those of its columns; None where they have none.
        self.store = Store(write, result, limits) if write or result else None
        taking = (*write.values(), *((result,) if result else ()))
        self._bound = {form.name: _binding(self._columns[form.name], form) for form in taking if form.bound}

    def _form(self, column: Column) -> Form:
        form = self._forms.get(column.name)
        if form is None:
            form = self._forms[column.name] = form_of(column)
        return form

    def one(self, column: Column, value: object) -> Any:
        """The value as the driver takes it for that column. Raises CannotStore."""
        form = self._form(column)
        checked = fitted(form, value, self._limits)
        return column.bind(checked) if form.bound and column.bind is not None and checked is not None else checked

    def bound(self, names: Sequence[str], values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Values that the `store` made, as the driver takes them: some types have a way of their own, which is part of
        this program and needs SQLAlchemy. Raises CannotStore where that raises."""
        if not self._bound or self._bound.keys().isdisjoint(names):
            return values
        return tuple(self._bind(name, value) for name, value in zip(names, values, strict=True))

    def _bind(self, name: str, value: Any) -> Any:
        bind = self._bound.get(name)
        if value is None or bind is None:
            return value
        try:
            return bind(value)
        except Exception as error:
            raise CannotStore(f"column {name!r}: the value cannot be stored: {describe(error).reason}") from error

    def key_part(self, column: Column, value: Any) -> Any:
        """A part of a key that a person typed or a program has, as the driver takes it. Raises MappingError."""
        value = plain(value)
        if isinstance(column.type, sqltypes.Integer) and isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                raise MappingError(f"key column {column.name!r} is a whole number, not {value!r}") from None
        if isinstance(value, str):
            for kind, parse in (
                (sqltypes.Uuid, UUID),
                (sqltypes.DateTime, datetime.fromisoformat),
                (sqltypes.Date, date.fromisoformat),
            ):
                if isinstance(column.type, kind):
                    try:
                        value = parse(value)
                    except ValueError:
                        if kind is not sqltypes.Uuid and self._beyond_python(value):
                            return value
                        raise MappingError(
                            f"key column {column.name!r} is {column.type}, and {value!r} is none"
                        ) from None
        if column.bind is not None and not isinstance(value, str):
            return column.bind(value)
        return for_driver(value, self._limits)

    def _beyond_python(self, text: str) -> bool:
        """Whether it is a date that the database may hold and Python has no value for; such a key goes as text."""
        return self._limits.infinity and not self._limits.dates_as_text and _FAR_DATE.search(text) is not None


def cleaned(text: str, limit: int = 16384) -> str:
    """The text as every database takes it: NULs and lone surrogates written out, the middle left out where it is too
    long."""
    text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    return shortened(text, limit)
