"""How values look in a notebook: small tables in HTML. Whatever is in them is text, never markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from pooltable.text import harmless


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with these words at its head; None is an empty cell."""
    lines = [_line("th", head), *(_line("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def paragraph(text: str) -> str:
    """Text of its own."""
    return f"<p>{escape(harmless(text))}</p>"


def _line(tag: str, cells: Iterable[object]) -> str:
    return "<tr>" + "".join(f"<{tag}{_left(cell)}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"


def _left(cell: object) -> str:
    # Notebooks set every cell to the right, as only numbers should be.
    return "" if isinstance(cell, int | float) else ' style="text-align: left"'


def _text(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.3g}" if isinstance(cell, float) else escape(harmless(str(cell)))
