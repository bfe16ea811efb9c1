"""What a task returned, as values that its row's columns can hold.

SQLite keeps 'abc' in an INTEGER column and a NumPy number as bytes, without a word, and MySQL may cut what is too long:
so types are checked here, for every database alike. What cannot be held raises CannotStore, which names column and
remedy.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping as MappingOf
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from sqlalchemy.sql import sqltypes

from pooltable.errors import CannotStore, MappingError
from pooltable.table.mapping import Column, Mapping

Stored = tuple[tuple[str, ...], tuple[Any, ...]]  # names of columns, and their values
NOTHING: Stored = ((), ())

_LARGEST = 2**63
_FAR_DATE = re.compile(r"^-?infinity$|^\d{5,}-| BC$")  # as PostgreSQL writes it


class Converter:
    """Turns what tasks return into columns and values. `nan` and `infinity`: whether this database holds them."""

    def __init__(self, mapping: Mapping, *, nan: bool, infinity: bool, dates_as_text: bool) -> None:
        self._write = {column.name: column for column in mapping.write}
        self._result = mapping.result
        self._nan = nan
        self._infinity = infinity
        self._dates_as_text = dates_as_text

    @property
    def stores(self) -> bool:
        """Whether a task's value goes anywhere."""
        return bool(self._write) or self._result is not None

    def __call__(self, value: object) -> Stored:
        """The columns and values to write for what a task returned. Raises CannotStore."""
        if value is None or not (self._write or self._result):
            return NOTHING
        if isinstance(value, MappingOf) and self._write:
            return self._from_mapping(value)
        if self._result is not None:
            return (self._result.name,), (self.one(self._result, self._as_result(value)),)
        if len(self._write) == 1:
            name, column = next(iter(self._write.items()))
            return (name,), (self.one(column, value),)
        raise CannotStore(
            f"the task returned {_described(value)}; with several columns to write it must return a mapping of"
            f" {', '.join(self._write)}"
        )

    def _from_mapping(self, value: MappingOf[Any, Any]) -> Stored:
        found = {name: self.one(self._write[name], part) for name, part in value.items() if name in self._write}
        rest = {name: part for name, part in value.items() if name not in self._write}
        if rest and self._result is None:
            name = next(iter(rest))
            raise CannotStore(
                f"the task returned a value for column {name!r}, which is not among those to write"
                f" ({', '.join(self._write)}); declare it with write=..."
            )
        if rest and self._result is not None:
            found[self._result.name] = self.one(self._result, self._as_result(rest))
        return tuple(found), tuple(found.values())

    def _as_result(self, value: object) -> object:
        value = plain(value)
        assert self._result is not None
        if isinstance(self._result.type, sqltypes.JSON) or isinstance(value, str):
            return value
        return to_json(self._result.name, value)

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
        return self._for_driver(value)

    def _beyond_python(self, text: str) -> bool:
        """Whether it is a date that the database may hold and Python has no value for; such a key goes as text."""
        return self._infinity and not self._dates_as_text and _FAR_DATE.search(text) is not None

    def one(self, column: Column, value: object) -> Any:
        """The value as the driver takes it for that column. Raises CannotStore."""
        value = plain(value)
        if value is None:
            if not column.nullable:
                raise CannotStore(f"column {column.name!r} may not be NULL, and the task returned None for it")
            return None
        checked = _check_for(column.type)(column, value)
        if isinstance(checked, float) and not (math.isfinite(checked) or self._holds(checked)):
            raise CannotStore(f"column {column.name!r} cannot hold {checked} here; return None for what is not known")
        if column.bind is not None and checked is value:
            return column.bind(value)
        return self._for_driver(checked)

    def _holds(self, value: float) -> bool:
        return self._nan if math.isnan(value) else self._infinity

    def _for_driver(self, value: Any) -> Any:
        if self._dates_as_text:
            if isinstance(value, datetime):
                return value.isoformat(" ")
            if isinstance(value, (date, time)):
                return value.isoformat()
            if isinstance(value, (Decimal, UUID)):
                return str(value)
        return value


def plain(value: Any) -> Any:
    """A NumPy scalar, a 0-d array or tensor as the Python value it stands for; an Enum member of text or number as
    that."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", ()) == ():
        return item()
    return value


def to_json(name: str, value: object) -> str:
    try:
        text = json.dumps(value, default=_json_default, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CannotStore(f"column {name!r}: {_described(value)} cannot be written as JSON: {error}") from error
    if "\\u0000" in text:
        raise CannotStore(f"column {name!r}: the JSON holds a NUL character, which databases refuse")
    return _checked_text(name, text)


def _json_default(value: Any) -> Any:
    value = plain(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    if isinstance(value, (bool, int, float, str, list, dict)) or value is None:
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _checked_text(name: str, text: str) -> str:
    if "\0" in text:
        raise CannotStore(
            f"column {name!r}: the text holds a NUL character, which databases refuse; remove it, or use a column for"
            " bytes"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CannotStore(
            f"column {name!r}: the text is not valid Unicode ({error.reason} at {error.start}); decode with"
            " errors='replace'"
        ) from error
    return text


def _described(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = "(its __repr__ raised)"
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{type(value).__name__} {text}"


def _wrong(column: Column, value: object, wanted: str) -> CannotStore:
    return CannotStore(
        f"column {column.name!r} is {column.type} and holds {wanted}; the task returned {_described(value)}"
    )


# ---- one check for each kind of column


def _integer(column: Column, value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise _wrong(column, value, "whole numbers")
    if not -_LARGEST <= value < _LARGEST:
        raise CannotStore(f"column {column.name!r}: {_described(value)} is too large for a whole number of 64 bits")
    return int(value)


def _number(column: Column, value: object) -> object:
    if isinstance(value, Decimal):
        if not value.is_finite():
            return float(value)
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(column, value, "numbers")
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST and isinstance(column.type, sqltypes.Float):
        return float(value)
    return value


def _boolean(column: Column, value: object) -> object:
    if value not in (0, 1):
        raise _wrong(column, value, "true and false")
    return bool(value)


def _text(column: Column, value: object) -> object:
    if isinstance(value, (int, float, Decimal, UUID, date, time)) and not isinstance(value, bool):
        value = str(value)  # nothing is lost, and it is what the driver would have done
    if not isinstance(value, str):
        raise _wrong(column, value, "text")
    length = getattr(column.type, "length", None)
    if length is not None and len(value) > length:
        raise CannotStore(f"column {column.name!r} is {column.type}; the task returned {len(value)} characters")
    return _checked_text(column.name, str(value))


def _enum(column: Column, value: object) -> object:
    assert isinstance(column.type, sqltypes.Enum)
    name = value.name if isinstance(value, Enum) and value.name in column.type.enums else value
    if name not in column.type.enums:
        raise _wrong(column, value, f"one of {', '.join(map(str, column.type.enums))}")
    return name


def _bytes(column: Column, value: object) -> object:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise _wrong(column, value, "bytes")
    return bytes(value)


def _moment(column: Column, value: object) -> object:
    return _parsed(column, value, datetime, "dates with a time", alternative=date)


def _date(column: Column, value: object) -> object:
    return _parsed(column, value, date, "dates")


def _time(column: Column, value: object) -> object:
    return _parsed(column, value, time, "times of day")


def _parsed(column: Column, value: object, kind: Any, wanted: str, alternative: Any = None) -> object:
    if isinstance(value, kind) or (alternative is not None and isinstance(value, alternative)):
        return value
    if isinstance(value, str):
        try:
            return kind.fromisoformat(value)
        except ValueError:
            pass
    raise _wrong(column, value, wanted)


def _uuid(column: Column, value: object) -> object:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except ValueError:
        raise _wrong(column, value, "UUIDs") from None


def _json(column: Column, value: object) -> object:
    return to_json(column.name, value)


def _anything(column: Column, value: object) -> object:
    if isinstance(value, str):
        return _checked_text(column.name, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _integer(column, value)
    if isinstance(value, (float, bool, bytes, datetime, date, time, Decimal, UUID, list, tuple)):
        return value
    raise _wrong(column, value, "plain values")


_CHECKS: list[tuple[type[Any], Callable[[Column, object], object]]] = [
    (sqltypes.Enum, _enum),
    (sqltypes.Boolean, _boolean),
    (sqltypes.Integer, _integer),
    (sqltypes.Uuid, _uuid),
    (sqltypes.JSON, _json),
    (sqltypes.Numeric, _number),
    (sqltypes.Float, _number),
    (sqltypes.String, _text),
    (sqltypes._Binary, _bytes),
    (sqltypes.DateTime, _moment),
    (sqltypes.Date, _date),
    (sqltypes.Time, _time),
]


def _check_for(kind: Any) -> Callable[[Column, object], object]:
    for known, check in _CHECKS:
        if isinstance(kind, known):
            return check
    return _anything


def cleaned(text: str, limit: int = 16384) -> str:
    """The text as every database takes it: NULs and lone surrogates written out, the middle left out where it is too
    long."""
    text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
