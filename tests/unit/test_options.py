"""What may be said to `run`, `Runner` and the pools: told by `help`, and checked before anything is done."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from pooltable import Pool, PoolExecutor, Runner, SettingError, TaskTable, run


def mission(row: Any) -> None: ...


def videos() -> TaskTable:
    return TaskTable("sqlite:///videos.db", "video")


def test_run_has_the_parameters_of_the_runner_and_its_help_says_what_each_is() -> None:
    parameters = inspect.signature(run).parameters
    assert parameters == inspect.signature(Runner).parameters
    assert [name for name in parameters if f"`{name}" not in (run.__doc__ or "")] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": "video"}, r"table must be a TaskTable, such as TaskTable\(.*\), not 'video'"),
        ({"processes": "4"}, "processes must be a whole number, such as 1, not '4'"),
        ({"processes": -1}, "processes must be 0 or more, not -1"),
        ({"processes": 2.5}, r"processes must be a whole number, such as 1, not 2\.5"),
        ({"batch": 0}, "batch must be 1 or more, not 0"),
        ({"max_rows": 2.5}, r"max_rows must be a whole number, such as 1, not 2\.5"),
        ({"time_limit": "3"}, "time_limit must be a number of seconds, not '3'"),
        ({"poll": 0}, "poll must be more than 0 seconds, not 0"),
        ({"retry": 3}, r"retry must be a Retry, such as Retry\(fails=3\), not 3"),
        ({"workers": 3}, r"workers must be a Workers, such as Workers\(threads=1\), not 3"),
        ({"pace": 3}, r"pace must be a Pace, such as Pace\(grace=30\), not 3"),
        ({"executor": 3}, r"executor must be an executor, such as ThreadPoolExecutor\(4\), not 3"),
        ({"initializer": "load"}, "initializer must be a function, not 'load'"),
        ({"initargs": "large"}, r"initargs must be a tuple, such as \(path,\), not 'large'"),
        ({"callback": 3}, "callback must be a function, not 3"),
        ({"error_callback": 3}, "error_callback must be a function, not 3"),
        ({"listeners": print}, r"listeners must be a list of functions, such as \[print\], not"),
    ],
)
def test_what_a_run_cannot_use_is_told_in_one_line_with_what_is_expected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        run(mission, **{"table": videos(), **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"processes": "4"}, "processes must be a whole number, such as 4, not '4'"),
        ({"processes": 2.5}, r"processes must be a whole number, such as 4, not 2\.5"),
        ({"processes": -1}, "Number of processes must be at least 1, not -1"),
        ({"processes": 0}, "Number of processes must be at least 1, not 0"),
        ({"processes": 2, "min_processes": "1"}, "min_processes must be a whole number"),
        ({"processes": 2, "threads": "1"}, "threads must be a whole number"),
        ({"processes": 2, "max_pending": "1"}, "max_pending must be a whole number"),
        ({"processes": 2, "time_limit": "1"}, "time_limit must be a number of seconds, not '1'"),
    ],
)
def test_what_a_pool_cannot_use_is_told_in_one_line_with_what_is_expected(options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        Pool(**options)
    assert "\n" not in str(caught.value)


def test_an_executor_says_which_number_it_expects() -> None:
    with pytest.raises(TypeError, match="max_workers must be a whole number, such as 4, not '4'"):
        PoolExecutor("4")
