from __future__ import annotations

import pytest

from pooltable.table.kinds import meant

KINDS = ["ValueError", "app.ValueError", "app.Model.TooLarge", "exit status 3"]


@pytest.mark.parametrize(
    ("typed", "kinds"),
    [
        ("ValueError", ["ValueError"]),
        ("valueerror", ["ValueError", "app.ValueError"]),
        ("app.valueerror", ["app.ValueError"]),
        ("toolarge", ["app.Model.TooLarge"]),
        ("Model.TooLarge", ["app.Model.TooLarge"]),
        ("Large", []),
        ("Exit Status 3", ["exit status 3"]),
        ("", []),
    ],
)
def test_a_kind_is_meant_without_its_module_and_its_case_unless_one_is_named_exactly(
    typed: str, kinds: list[str]
) -> None:
    assert meant(typed, KINDS) == kinds
