"""Types of a user's own, as their program declares them, and what runs on the rows."""

from __future__ import annotations

import os
import threading
from typing import Any

import sqlalchemy as sa

from pooltable import Row


class Slow(sa.TypeDecorator[str]):
    """Writes who converted a value; one value is never ready, and one is refused."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        if value == ["hangs"]:
            threading.Event().wait()
        if value == ["raises"]:
            raise ValueError("not for this column")
        return f"{dialect.name} {os.getpid()} {value}"


class Listed(sa.TypeDecorator[Any]):
    """A value of any class, as JSON."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return {"parts": sorted(value.parts)}


class Box:
    def __init__(self, *parts: str) -> None:
        self.parts = parts


def boxed(row: Row) -> dict[str, Any]:
    return {"caption": [row.content], "facts": Box("b", "a")}


def listed(rows: list[Row]) -> list[dict[str, Any]]:
    return [boxed(row) for row in rows]
