"""Results on stdout: lines and tables for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, time as time_of_day
from typing import Any

from pooltable.text import escaped, harmless

WIDE = 10_000


def say(text: str = "") -> None:
    """One line of the result."""
    if sys.stdout is not None:
        # A row may hold anything, and must not be able to play with the terminal.
        sys.stdout.write(harmless(text) + "\n")


def say_json(value: Any) -> None:
    if sys.stdout is not None:
        sys.stdout.write(json_text(value, indent=2) + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """The value as JSON, exactly, in letters that may be shown on a terminal."""
    return escaped(json.dumps(plain(value), indent=indent, ensure_ascii=False))


def plain(value: Any) -> Any:
    """The value as JSON can hold it; what has no form of its own there is text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (date, time_of_day)):
        return value.isoformat()
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


def counted_lines(rows: Sequence[tuple[str, str]], columns: int) -> list[str]:
    """Words and their counts below each other. Where it is narrow the words are cut, and never a count."""
    from rich.cells import cell_len

    numbers = max(len(count) for _, count in rows)
    words = max(12, *(cell_len(word) for word, _ in rows))
    gap = min(max(2, 10 - numbers), max(1, columns - 2 - words - numbers))
    words = max(1, min(words, columns - 2 - gap - numbers))
    fitted = [(fit(word, words), count) for word, count in rows]
    return [f"  {word}{' ' * (words - cell_len(word) + gap)}{count:>{numbers}}" for word, count in fitted]


def fit(text: str, columns: int) -> str:
    """The text in at most so many columns of a terminal; what is cut leaves an ellipsis."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= columns else f"{set_cell_size(text, max(0, columns - 1)).rstrip()}…"


def terminal_columns() -> int:
    """How wide stdout is; where it is no terminal, wide enough for everything."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else WIDE


def at_plain(seconds: float | None) -> str | None:
    """A time since 1970 as JSON has it: ISO 8601, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def at_text(seconds: float | None) -> str:
    """A time since 1970 as local date and time."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
