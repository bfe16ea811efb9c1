"""Results on stdout: lines and tables for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from pooltable.logs import harmless


def say(text: str = "") -> None:
    """One line of the result."""
    if sys.stdout is not None:
        # A row may hold anything, and must not be able to play with the terminal.
        sys.stdout.write(harmless(text) + "\n")


def say_json(value: Any) -> None:
    say(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """The value as JSON can hold it; what has no form of its own there is text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        # A surrogate cannot be printed, and JSON has no word for NaN.
        if isinstance(value, str):
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        return value if not isinstance(value, float) or value - value == 0 else str(value)
    return str(value)


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Columns side by side, two spaces apart; those in `right` are numbers. The last one is as wide as it needs."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]

    def line(row: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return [line(head), *map(line, rows)]


def short(value: object, most: int = 60) -> str:
    """The value in one line of at most so many characters."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(str(plain(text)).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def at_text(seconds: float | None) -> str:
    """A time since 1970 as local date and time."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
