"""Settings written into a file that somebody keeps: only their lines change."""

from __future__ import annotations

import tomllib

import pytest

from pooltable.cli.saving import edited, edited_part
from pooltable.errors import SettingError

PROJECT = """\
[project]
name = "shop"
processes = 7

[tool.pooltable]  # our job
db = "shop.db"
processes = 2  # as many as cores

# of another tool
[tool.other]
threads = 9
"""


def test_a_line_that_changes_keeps_its_comment_and_its_place() -> None:
    text = '# mine\nprocesses = 2   # as many as cores\njob = "a # b" # both\n'
    assert edited(text, {"processes": 4, "job": "c"}) == (
        '# mine\nprocesses = 4   # as many as cores\njob = "c" # both\n'
    )


def test_what_is_missing_is_added_and_what_is_the_same_stays_as_it_is_written() -> None:
    assert edited("processes=4", {"processes": 4, "threads": 1}) == "processes=4\nthreads = 1\n"


def test_in_a_pyproject_only_the_part_of_ours_changes() -> None:
    after = edited_part(PROJECT, {"processes": 4, "threads": 1})
    assert tomllib.loads(after) == {
        "project": {"name": "shop", "processes": 7},
        "tool": {"pooltable": {"db": "shop.db", "processes": 4, "threads": 1}, "other": {"threads": 9}},
    }
    assert after.replace("threads = 1\n", "").replace("processes = 4 ", "processes = 2 ") == PROJECT


def test_a_value_over_several_lines_is_left_to_its_owner() -> None:
    with pytest.raises(SettingError, match="change it by hand"):
        edited('write = [\n  "a",\n]\n', {"write": ("b",)})
    with pytest.raises(SettingError, match=r"has no line \[tool.pooltable\]"):
        edited_part('tool.pooltable.db = "x"\n', {"processes": 1})
