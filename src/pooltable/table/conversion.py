"""What a task returned, as values that its row's columns can hold; where the task ran, before anything is sent.

    task's value --Store, in the worker, within the row's time--> names of columns, plain values --> the runner's loop

SQLite keeps 'abc' in an INTEGER column and a NumPy number as bytes, without a word, and MySQL may cut what is too long:
so types are checked here, for every database alike. What cannot be held raises CannotStore, which names column and
remedy.

Whatever a value may be, it is asked here and nowhere else. What comes out is of the plain types themselves and of no
class made from one, so that nobody who loads, compares or writes it runs code of the task's. A worker has no
SQLAlchemy: a Form says of a column what must be known of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping as MappingOf
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pooltable.errors import CannotStore, describe

_LARGEST = 2**63
_PLAIN = frozenset({bool, int, float, str, bytes})


@dataclass(frozen=True, slots=True)
class Form:
    """What a column can hold. `kind` names the check; `shown` is its type in words; `choices` are those of an ENUM.

    `own`: what the user's own type makes of a value before it is looked at. `bound`: its type has a way of its own to
    the driver, which takes over from here.
    """

    name: str
    kind: str
    shown: str
    nullable: bool
    length: int | None = None
    choices: tuple[str, ...] = ()
    inexact: bool = False
    bound: bool = False
    own: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a database takes: whether it holds `nan` and `infinity`, and whether its dates are text."""

    nan: bool
    infinity: bool
    dates_as_text: bool

    def holds(self, value: float) -> bool:
        """Whether it takes this number, which is not finite."""
        return self.nan if math.isnan(value) else self.infinity


@dataclass(frozen=True, slots=True)
class Store:
    """Turns what tasks return into names of columns and plain values; it travels to the workers."""

    write: dict[str, Form]
    result: Form | None
    limits: Limits

    def __call__(self, value: object) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """The columns and values to write for what a task returned. Raises CannotStore."""
        if isinstance(value, MappingOf) and self.write:
            return self._from_mapping(value)
        if self.result is not None:
            return (self.result.name,), (fitted(self.result, self._as_result(self.result, value), self.limits),)
        if len(self.write) == 1:
            (form,) = self.write.values()
            return (form.name,), (fitted(form, value, self.limits),)
        raise CannotStore(
            f"the task returned {_described(value)}; with several columns to write it must return a mapping of"
            f" {', '.join(self.write)}"
        )

    def _from_mapping(self, value: MappingOf[Any, Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        found: dict[str, Any] = {}
        rest: dict[Any, Any] = {}
        for name, part in value.items():
            form = self.write.get(name)
            if form is not None:
                found[form.name] = fitted(form, part, self.limits)
            else:
                rest[name] = part
        if rest and self.result is None:
            name = next(iter(rest))
            raise CannotStore(
                f"the task returned a value for column {name!r}, which is not among those to write"
                f" ({', '.join(self.write)}); declare it with write=..."
            )
        if rest and self.result is not None:
            found[self.result.name] = fitted(self.result, self._as_result(self.result, rest), self.limits)
        return tuple(found), tuple(found.values())

    def _as_result(self, form: Form, value: object) -> object:
        value = plain(value)
        if form.kind == "json" or isinstance(value, str):
            return value
        return to_json(form.name, value)


def fitted(form: Form, value: object, limits: Limits) -> Any:
    """The value as the driver takes it for that column. Raises CannotStore."""
    value = plain(value)
    if value is None:
        if not form.nullable:
            raise CannotStore(f"column {form.name!r} may not be NULL, and the task returned None for it")
        return None
    if form.own is not None:
        return _own(form, form.own, value, limits)
    checked = _CHECKS[form.kind](form, value)
    if type(checked) is float and not (math.isfinite(checked) or limits.holds(checked)):
        raise CannotStore(f"column {form.name!r} cannot hold {checked} here; return None for what is not known")
    return checked if form.bound else for_driver(checked, limits)


def _own(form: Form, own: Callable[[Any], Any], value: Any, limits: Limits) -> Any:
    try:
        value = own(value)
    except Exception as error:
        raise CannotStore(f"column {form.name!r}: the value cannot be stored: {describe(error).reason}") from error
    # Of a type that nothing is known of, what it made goes to the driver as it is.
    return value if form.kind == "anything" else fitted(replace(form, own=None), value, limits)


def for_driver(value: Any, limits: Limits) -> Any:
    if limits.dates_as_text:
        if isinstance(value, datetime):
            return value.isoformat(" ")
        if isinstance(value, (date, time)):
            return value.isoformat()
        if isinstance(value, (Decimal, UUID)):
            return str(value)
    return value


def plain(value: Any) -> Any:
    """A NumPy scalar, a 0-d array or tensor as the Python value it stands for."""
    if type(value) in _PLAIN:
        return value
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
    text = str.__str__(text)
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


def _wrong(form: Form, value: object, wanted: str) -> CannotStore:
    return CannotStore(
        f"column {form.name!r} is {form.shown} and holds {wanted}; the task returned {_described(value)}"
    )


# ---- the plain types themselves, of what may be of a class made from one


def _whole(value: int) -> int:
    return bool(value) if isinstance(value, bool) else int.__int__(value)


def _decimal(value: Decimal) -> Decimal:
    return value if type(value) is Decimal else Decimal(value)


def _uuid_of(value: UUID) -> UUID:
    return value if type(value) is UUID else UUID(int=int.__int__(value.int))


def _fixed(offset: timedelta | None) -> timezone | None:
    """A zone of which nothing is known but its offset: the classes of others need their files, or code."""
    return None if offset is None else timezone(offset)


def _moment_of(value: datetime) -> datetime:
    if type(value) is datetime and (value.tzinfo is None or type(value.tzinfo) is timezone):
        return value
    day = (value.year, value.month, value.day)
    clock = (value.hour, value.minute, value.second, value.microsecond)
    return datetime(*day, *clock, tzinfo=_fixed(value.utcoffset()), fold=value.fold)


def _day_of(value: date) -> date:
    return value if type(value) is date else date(value.year, value.month, value.day)


def _time_of(value: time) -> time:
    if type(value) is time and (value.tzinfo is None or type(value.tzinfo) is timezone):
        return value
    clock = (value.hour, value.minute, value.second, value.microsecond)
    return time(*clock, tzinfo=_fixed(value.utcoffset()), fold=value.fold)


def _date_or_moment(value: date) -> date:
    return _moment_of(value) if isinstance(value, datetime) else _day_of(value)


_TO_PLAIN: list[tuple[type[Any], Callable[[Any], Any]]] = [
    (int, _whole),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, bytes.__bytes__),
    (date, _date_or_moment),
    (time, _time_of),
    (Decimal, _decimal),
    (UUID, _uuid_of),
]


def _part(form: Form, value: Any) -> Any:
    """A value in a list: of any plain type, or a list of them."""
    value = plain(value)
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return [_part(form, each) for each in value]
    for kind, convert in _TO_PLAIN:
        if isinstance(value, kind):
            return convert(value)
    raise _wrong(form, value, "plain values")


# ---- one check for each kind of column


def _integer(form: Form, value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise _wrong(form, value, "whole numbers")
    number = int.__int__(value)
    if not -_LARGEST <= number < _LARGEST:
        raise CannotStore(f"column {form.name!r}: {_described(value)} is too large for a whole number of 64 bits")
    return number


def _number(form: Form, value: object) -> object:
    if isinstance(value, Decimal):
        number = _decimal(value)
        return number if number.is_finite() else float(number)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(form, value, "numbers")
    if isinstance(value, float):
        return float.__float__(value)
    whole = int.__int__(value)
    return float(whole) if form.inexact and not -_LARGEST <= whole < _LARGEST else whole


def _boolean(form: Form, value: object) -> object:
    if value not in (0, 1):
        raise _wrong(form, value, "true and false")
    return bool(value)


def _text(form: Form, value: object) -> object:
    if isinstance(value, (int, float, Decimal, UUID, date, time)) and not isinstance(value, (bool, str)):
        value = str(value)  # nothing is lost, and it is what the driver would have done
    if not isinstance(value, str):
        raise _wrong(form, value, "text")
    text = str.__str__(value)
    if form.length is not None and len(text) > form.length:
        raise CannotStore(f"column {form.name!r} is {form.shown}; the task returned {len(text)} characters")
    return _checked_text(form.name, text)


def _enum(form: Form, value: object) -> object:
    name = value.name if isinstance(value, Enum) and value.name in form.choices else value
    if name not in form.choices:
        raise _wrong(form, value, f"one of {', '.join(form.choices)}")
    return form.choices[form.choices.index(name)]


def _bytes(form: Form, value: object) -> object:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise _wrong(form, value, "bytes")
    return value if type(value) is bytes else bytes(memoryview(value))


def _moment(form: Form, value: object) -> object:
    if isinstance(value, str):
        value = _parsed(datetime.fromisoformat, value)
    if not isinstance(value, date):
        raise _wrong(form, value, "dates with a time")
    return _date_or_moment(value)


def _date(form: Form, value: object) -> object:
    if isinstance(value, str):
        value = _parsed(date.fromisoformat, value)
    if not isinstance(value, date):
        raise _wrong(form, value, "dates")
    return _date_or_moment(value)


def _time(form: Form, value: object) -> object:
    if isinstance(value, str):
        value = _parsed(time.fromisoformat, value)
    if not isinstance(value, time):
        raise _wrong(form, value, "times of day")
    return _time_of(value)


def _parsed(parse: Callable[[str], object], text: str) -> object:
    try:
        return parse(str.__str__(text))
    except ValueError:
        return text


def _uuid(form: Form, value: object) -> object:
    if isinstance(value, UUID):
        return _uuid_of(value)
    try:
        return UUID(str(value))
    except ValueError:
        raise _wrong(form, value, "UUIDs") from None


def _json(form: Form, value: object) -> object:
    return to_json(form.name, value)


def _anything(form: Form, value: object) -> object:
    if isinstance(value, str):
        return _checked_text(form.name, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _integer(form, value)
    return _part(form, value)


_CHECKS: dict[str, Callable[[Form, object], object]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "text": _text,
    "enum": _enum,
    "bytes": _bytes,
    "moment": _moment,
    "date": _date,
    "time": _time,
    "uuid": _uuid,
    "json": _json,
    "anything": _anything,
}
