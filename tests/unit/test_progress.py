"""The progress as a picture of the events, without a terminal; tests/cli has one with."""

from __future__ import annotations

import dataclasses

import pytest

from pooltable.events import (
    Progressed,
    RowEnd,
    RowsFinished,
    RunEnded,
    RunStarted,
    Stopping,
    Summary,
    Waiting,
    WorkerDoing,
)
from pooltable.progress import Picture, Progress

WORKERS = tuple(WorkerDoing(n, 100 + n, (n, "a") if n else None, 2.0) for n in range(12))
AT = Progressed(60, 4, 30, 6, 2, 1, 20.0, 1.8, 0.5, WORKERS, (27.4, 44.6))
START = RunStarted("video", "video", "ab12", 1, 4, 100)


def failed(key: int, kind: str, reason: str) -> RowEnd:
    return RowEnd((key,), 1, "failed", 0, 0.1, kind, reason)


def test_before_the_first_event_it_is_starting() -> None:
    assert Picture().plain() == "starting"
    assert Picture().worker_lines(0.0, 8) == []


def test_one_plain_line_has_counts_rate_and_what_is_left() -> None:
    picture = Picture()
    picture.hear(START, 0.0)
    assert picture.plain() == "0 of 100, 0 running, 100 waiting, 0 failed"
    picture.hear(AT, 1.0)
    assert picture.plain() == (
        "36 of 100, 4 running, 60 waiting, 6 failed, 2 tried again, 1.8 rows/s, about 27 s to 45 s left"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((27.4, 44.6), "about 27 s to 45 s left"),
        ((197.0, 284.0), "about 3 min 20 s to 4 min 40 s left"),
        ((35.8, 36.2), "about 36 s left"),
        ((2.0, 90.0), "less than 90 s left"),
        ((0.02, 0.9), "less than 1 s left"),
        (None, ""),
    ],
)
def test_the_time_that_is_left_is_a_range_in_words(seconds: tuple[float, float] | None, text: str) -> None:
    picture = Picture()
    picture.hear(dataclasses.replace(AT, seconds_left=seconds), 0.0)
    assert picture.left_text() == text


def test_while_something_is_waited_for_no_time_is_told() -> None:
    picture = Picture()
    picture.hear(AT, 0.0)
    picture.hear(Waiting(3, 12.0), 0.0)
    assert picture.left_text() == ""


def test_a_service_has_no_end_to_count_to() -> None:
    picture = Picture(forever=True)
    picture.hear(AT, 0.0)
    assert picture.plain() == "30 done, 4 running, 60 waiting, 6 failed, 2 tried again, 1.8 rows/s"


def test_what_a_task_tells_of_its_progress_stands_beside_its_worker() -> None:
    picture = Picture()
    doing = (WorkerDoing(0, 100, (7,), 2.0, 3.0, 10.0), WorkerDoing(1, 101, (8,), 2.0, 0.5, None))
    picture.hear(dataclasses.replace(AT, workers=doing), 0.0)
    lines = picture.worker_lines(0.0, 8)
    assert [line.split("  ")[-1] for line in lines] == ["3 of 10", "0.5"]


def test_the_state_is_told_until_something_else_happens() -> None:
    picture = Picture()
    picture.hear(START, 0.0)
    picture.hear(Waiting(3, 12.0), 0.0)
    assert picture.plain().endswith("3 rows are due later, the first in 12 s")
    picture.hear(Stopping("drain", "SIGINT", 1, 8.0), 0.0)
    assert picture.plain().endswith("stopping")


def test_each_worker_has_a_line_that_goes_on_counting() -> None:
    picture = Picture()
    picture.hear(AT, 10.0)
    lines = picture.worker_lines(13.0, 3)
    assert lines == ["  worker 0  idle", "  worker 1  row 1,a  5 s", "  worker 2  row 2,a  5 s", "  and 9 more workers"]


def test_failures_are_grouped_by_kind_the_newest_first() -> None:
    picture = Picture()
    picture.hear(
        RowsFinished((failed(1, "ValueError", "ValueError: one"), failed(2, "OSError", "OSError: no\nmodel")), 0), 0
    )
    picture.hear(RowsFinished((failed(3, "ValueError", "ValueError: " + "x" * 500),), 0.0), 0.0)
    first, second = picture.failure_lines()
    assert first.startswith("  2 x ValueError: xxx")
    assert first.endswith("… (row 3)")
    assert len(first) < 220
    assert second == "  1 x OSError: no model (row 2)"


def test_without_a_terminal_there_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(bar=False, seconds=1000) as progress:
        for _ in range(5):
            progress(AT)
        progress.write("a line of somebody's")
        progress(RunEnded(Summary("r", 1, 0, 0, 0, 0, 0, 0, 0, 1.0, 1.0, {}, 0)))
    first, second = capsys.readouterr().err.splitlines()
    assert first.split(" ", 1)[1].startswith("36 of 100, 4 running")
    assert second == "a line of somebody's"


def test_the_bar_needs_no_events_and_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(bar=True) as progress:
        progress(START)
        progress(AT)
        progress.write("above [bold]the[/bold] bar")
    assert "above [bold]the[/bold] bar" in capsys.readouterr().err
