"""A row as the task gets it: a tuple of its key and its columns, with names."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from pooltable.text import one_line


class Row(tuple[Any, ...]):
    """One row of the user's table: `id, content = row`, `row.content` and `row["count"]` all work.

    The values stand in the order of `row.fields`: the key's columns first, then the others. A column whose name is also
    a method of `tuple` (`count`, `index`) or that starts with an underscore is reached by `row["count"]`.
    """

    __slots__ = ()
    fields: tuple[str, ...]

    def __new__(cls, fields: tuple[str, ...], values: tuple[Any, ...]) -> Row:
        return tuple.__new__(_with_fields(cls.__dict__.get("_of", cls), tuple(fields)), values)

    @classmethod
    def maker(cls, fields: tuple[str, ...]) -> Callable[[tuple[Any, ...]], Row]:
        """What makes rows of these fields out of their values, for who makes many."""
        return partial(tuple.__new__, _with_fields(cls, fields))

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            try:
                return tuple.__getitem__(self, self.fields.index(item))
            except ValueError:
                raise KeyError(f"no column {item!r} here; there are {', '.join(self.fields)}") from None
        return tuple.__getitem__(self, item)

    def __getattr__(self, name: str) -> Any:
        # Only reached where normal look-up found nothing.
        if name in self.fields:
            return tuple.__getitem__(self, self.fields.index(name))
        raise AttributeError(f"this row has no column {name!r}; it has {', '.join(self.fields)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).__dict__["_of"], (self.fields, tuple(self))

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in zip(self.fields, self, strict=True))})"


@lru_cache(maxsize=1000)
def _with_fields(of: type[Row], fields: tuple[str, ...]) -> type[Row]:
    """The rows of one table are a class of their own, so that a row is no larger than its values."""
    return type(of.__name__, (of,), {"__slots__": (), "__module__": of.__module__, "fields": fields, "_of": of})


def key_text(key: tuple[Any, ...]) -> str:
    """A key as people write it, also on the command line: 42, or the parts of it with commas between them."""
    return one_line(",".join(map(str, key)))
