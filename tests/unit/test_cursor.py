"""Where claims look for waiting rows, told by statements that only note what they were asked."""

from __future__ import annotations

from typing import Any

import pytest

from pooltable.table import cursor
from pooltable.table.cursor import Cursor


class Statements:
    """Rows 1 to `rows` wait."""

    behind = " AND id > %s"
    width = 1

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.asked: list[Any] = []

    def waiting(self, c: Any, room: int, after: tuple[int] | None) -> list[tuple[int, int]]:
        self.asked.append(after)
        first = 1 if after is None else after[0] + 1
        return [(key, key) for key in range(first, self.rows + 1)][:room]

    def end_of_order(self, c: Any) -> tuple[int]:
        self.asked.append("end")
        return (self.rows,)


def test_an_idle_runner_looks_once_from_the_start_where_that_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "QUICK", 60.0)
    statements, look = Statements(3), Cursor(poll=2.0)
    assert look.next(None, statements, 4) == [(1,), (2,), (3,)]  # type: ignore[arg-type]
    look.next(None, statements, 4)  # type: ignore[arg-type]
    assert statements.asked == [None, None]


def test_where_a_look_from_the_start_is_slow_it_goes_on_behind_the_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "QUICK", -1.0)
    monkeypatch.setattr(cursor, "REST", 1e9)
    statements, look = Statements(3), Cursor(poll=2.0)
    look.next(None, statements, 4)  # type: ignore[arg-type]
    assert look.next(None, statements, 4) == []  # type: ignore[arg-type]
    assert statements.asked == [None, "end", (3,), "end"]


def test_full_claims_go_on_behind_what_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "QUICK", 60.0)
    statements, look = Statements(5), Cursor(poll=2.0)
    assert look.next(None, statements, 2) == [(1,), (2,)]  # type: ignore[arg-type]
    assert look.next(None, statements, 2) == [(3,), (4,)]  # type: ignore[arg-type]
    assert statements.asked == [None, (2,)]
