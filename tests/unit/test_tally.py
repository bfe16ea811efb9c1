"""The numbers of a run: its rate, and how long the rest of it takes."""

from __future__ import annotations

import pytest

from pooltable.events import RowEnd, Summary, WorkerDoing
from pooltable.logs import summary_text
from pooltable.tally import Tally, seconds_left

DONE = RowEnd((1,), 1, "done", 0, 0.001)


def summary_of(tally: Tally, now: float) -> Summary:
    return tally.summary("ab12", now, 0, 0, stranded=False, error=None, halted="", stopped=False, drained=False)


def ran(tally: Tally, *times: tuple[float, float]) -> None:
    """Rows were done: the seconds that each took, and when it ended."""
    tally.saw_claims(len(times))
    for seconds, now in times:
        tally.saw_calls([seconds], now)
        tally.saw_done(1)


def busy(*seconds: float) -> tuple[WorkerDoing, ...]:
    return tuple(WorkerDoing(index, 100 + index, (index,), ago) for index, ago in enumerate(seconds))


def test_the_rate_of_a_summary_is_finished_rows_over_the_seconds_beside_it() -> None:
    """The workers took 0.25 s to start, and then 5 rows took 6 ms."""
    tally = Tally(100.0)
    tally.saw_pending(5, 100.0)
    ran(tally, *[(0.001, 100.25 + 0.001 * number) for number in range(1, 6)])
    summary = summary_of(tally, 100.26)
    assert summary.rate == pytest.approx(summary.done / summary.seconds)
    assert summary_text(summary) == "5 done, 0 failed; 0.26 s, 19.2 rows/s"


def test_failed_rows_are_finished_and_rows_that_are_tried_again_are_not() -> None:
    tally = Tally(0.0)
    tally.saw_done(1)
    for end in ("failed", "retry", "later", "released"):
        tally.saw_end(DONE._replace(end=end))  # type: ignore[arg-type]
    assert summary_of(tally, 4.0).rate == 0.5


def test_the_rate_of_a_run_that_is_under_way_falls_while_nothing_finishes() -> None:
    tally = Tally(0.0)
    ran(tally, *[(1.0, float(number)) for number in range(1, 11)])
    assert [tally.progress(now, 1, busy(1.0)).rate for now in (10.0, 20.0, 100.0)] == [1.0, 0.5, 0.1]
    assert Tally(5.0).progress(5.0, 0, ()).rate == 0.0


def test_a_row_that_hangs_leaves_nothing_to_say_of_the_end() -> None:
    """5 rows took 6 ms each; the sixth and last one runs for 50 s."""
    tally = Tally(0.0)
    tally.saw_pending(6, 0.0)
    ran(tally, *[(0.006, 0.3 + 0.006 * number) for number in range(5)])
    tally.saw_claims(1)
    assert tally.progress(0.33, 1, busy(0.003)).seconds_left is not None
    assert [tally.progress(0.33 + run, 1, busy(run)).seconds_left for run in (1.0, 10.0, 50.0)] == [None] * 3


def test_workers_that_tell_nothing_hang_since_the_latest_call() -> None:
    tally = Tally(0.0)
    ran(tally, *[(1.0, float(number)) for number in range(1, 101)])
    assert tally.progress(100.5, 1, ()).seconds_left is not None
    assert tally.progress(150.0, 1, ()).seconds_left is None


def test_the_start_of_workers_does_not_delay_the_rest() -> None:
    """They load a model for a minute; then each row takes a second, 40 are left."""
    tally = Tally(0.0)
    tally.saw_pending(140, 0.0)
    ran(tally, *[(1.0, 60.0 + number) for number in range(1, 101)])
    assert tally.progress(160.0, 0, busy(0.0)).seconds_left == (pytest.approx(36), pytest.approx(44))


def test_a_run_that_became_slower_has_a_wider_range() -> None:
    """100 rows took a second each; of late one takes 4 s."""
    tally = Tally(0.0)
    ran(tally, *[(1.0, float(number)) for number in range(1, 101)])
    tally.saw_pending(100, 100.0)
    for second in range(100, 161):
        tally.progress(float(second), 1, busy(1.0))
        if second % 4 == 0:
            tally.saw_calls([4.0], float(second))
            tally.saw_done(1)
    least, most = tally.progress(161.0, 1, busy(1.0)).seconds_left or (0.0, 0.0)
    assert least < 141
    assert most > 400


# ---- the time that is left, by waiting rows, rows being done, rates, how long calls took, how long they run


def test_the_range_is_as_wide_as_the_calls_are_few() -> None:
    assert seconds_left(9, 1, [1.0], [1.0] * 4, [0.5]) == (5.0, 15.0)
    assert seconds_left(9, 1, [1.0], [1.0] * 100, [0.5]) == (pytest.approx(9.0), pytest.approx(11.0))


def test_two_rates_make_one_range() -> None:
    assert seconds_left(9, 1, [2.0, 0.5], [1.0] * 4, [0.5]) == (2.5, 30.0)


@pytest.mark.parametrize(
    ("rates", "took", "running"),
    [
        ([], [1.0] * 9, [0.5]),  # nothing finished
        ([1.0], [1.0] * 2, [0.5]),  # hardly any call ended
        ([1.0], [1.0] * 7, [0.5] * 8),  # not yet as many as there are workers
        ([1.0], [1.0] * 9, []),  # nothing runs: the job is paused, or its rows are due later
    ],
)
def test_nothing_is_said_before_something_is_known(rates: list[float], took: list[float], running: list[float]) -> None:
    assert seconds_left(9, 1, rates, took, running) is None


def test_with_more_workers_than_calls_that_are_remembered_something_is_said() -> None:
    assert seconds_left(500, 200, [50.0], [4.0] * 100, [2.0] * 200) is not None


def test_the_last_row_takes_as_long_as_a_row_does() -> None:
    """Four workers do 0.4 rows a second, so one row is not done in 2.5 s: it takes 10 s, and has run for 1 s."""
    assert seconds_left(0, 1, [0.4], [8.0, 9.0, 10.0, 12.0], [1.0]) == (7.0, 11.0)
    assert seconds_left(1, 3, [0.4], [8.0, 9.0, 10.0, 12.0], [1.0, 5.0, 7.0])[0] == 8.0  # type: ignore[index]


def test_no_end_is_sooner_than_a_row_has_run_beyond_the_usual() -> None:
    took = [1.0] * 100
    assert seconds_left(0, 30, [1.0], took, [0.5, 0.5]) == (pytest.approx(27), pytest.approx(33))
    assert seconds_left(0, 30, [1.0], took, [0.5, 31.0]) == (pytest.approx(30), pytest.approx(33))
    assert seconds_left(0, 30, [1.0], took, [0.5, 35.0]) is None
