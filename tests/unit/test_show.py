"""What commands print for people: aligned, and cut where it matters least."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from pooltable.cli.show import counted_lines, fit

ROWS = [("PENDING (awaiting_transcription)", "1234567"), ("DOING", "8"), ("DONE (完成了的工作)", "90"), ("FAILED", "3")]


@pytest.mark.parametrize("columns", [10_000, 80, 40, 20, 12, 1])
def test_counts_stand_below_each_other_and_are_never_cut(columns: int) -> None:
    lines = counted_lines(ROWS, columns)
    assert [line.split()[-1] for line in lines if columns >= 12] == [count for _, count in ROWS if columns >= 12]
    assert len({cell_len(line) for line in lines}) == 1
    if columns >= 12:
        assert cell_len(lines[0]) <= columns
    assert ("…" in lines[0]) == (columns < 50)


def test_short_words_keep_a_distance_that_the_eye_can_follow() -> None:
    assert counted_lines([("PENDING", "4"), ("DONE", "12")], 80) == [
        "  PENDING              4",
        "  DONE                12",
    ]


@pytest.mark.parametrize(
    ("text", "columns", "fitted"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("完成了", 5, "完成…"), ("完成了", 4, "完…")]
)
def test_what_is_cut_ends_with_an_ellipsis(text: str, columns: int, fitted: str) -> None:
    assert fit(text, columns) == fitted
