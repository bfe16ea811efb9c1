"""What a notebook shows of a Summary, of counts and of failures: tables, in which nothing of a row is markup."""

from __future__ import annotations

import re
from dataclasses import replace

from pooltable.events import Summary
from pooltable.table.reading import Counts, Entries, Entry

SUMMARY = Summary("ab12", 3, 1, 0, 2, 0, 0, 0, 0, 4.25, 0.941176, {"ValueError": 1}, 1)
HOSTILE = "<script>alert('&')</script>"


def cells(html: str) -> list[list[str]]:
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall(r"<tr>(.*?)</tr>", html)]


def entry(**facts: object) -> Entry:
    error = "ValueError: x"
    plain = Entry(
        (2, "b"), "FAILED", "ab12", 1, 1, "failed", 1, 0, 0, None, 0.0, 1e9, 0.5, 0, "ValueError", error, "", "k"
    )  # fmt: skip
    return replace(plain, **facts)  # type: ignore[arg-type]


def test_a_summary_is_a_table_of_what_happened() -> None:
    assert cells(SUMMARY._repr_html_()) == [
        ["done", "failed", "lost", "left", "seconds", "rows/s"],
        ["3", "1", "2", "0", "4.25", "0.941"],
        ["failure", "rows"],
        ["ValueError", "1"],
    ]


def test_counts_are_a_table_of_the_states() -> None:
    assert cells(Counts(pending=5, done=2)._repr_html_()) == [
        ["pending", "doing", "done", "failed"],
        ["5", "0", "2", "0"],
    ]
    assert "paused" in Counts(paused=True)._repr_html_()


def test_failures_are_a_table_with_their_reasons() -> None:
    head, row = cells(Entries([entry()])._repr_html_())
    assert head == ["key", "attempt", "when", "seconds", "reason"]
    assert (row[0], row[1], row[3], row[4]) == ("2,b", "1", "0.5", "ValueError: x")
    assert cells(Entries()._repr_html_()) == [head]


def test_what_comes_from_a_row_is_text_and_no_markup() -> None:
    shown = [
        Entries([entry(key=(HOSTILE,), error=HOSTILE)])._repr_html_(),
        replace(SUMMARY, failures={HOSTILE: 1}, error=HOSTILE)._repr_html_(),
    ]
    for html in shown:
        assert "<script>" not in html
        assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)" in html
