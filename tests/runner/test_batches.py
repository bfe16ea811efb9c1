"""Runs with `batch=N`: the task gets lists of rows, and each row an end of its own."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest

from pooltable import Pace, Retry, Runner, SettingError, TaskError, TaskTable, run
from tests.runner import batch_missions, missions
from tests.runner.videos import wait_until


def table(videos):
    return TaskTable(videos.url, "video", write=("caption",))


def batches(videos):
    """The keys of each call, in the order of the calls."""
    return [[int(key) for key in line.split()[0].split(",")] for line in videos.notes()]


def captions(videos):
    return dict(videos.sql("SELECT id, caption FROM video WHERE caption IS NOT NULL"))


@pytest.mark.parametrize("processes", [0, 2])
def test_every_row_gets_its_own_result_in_batches_of_at_most_that_size(videos, processes):
    videos.add(*(f"{n}.mp4" for n in range(1, 51)))
    summary = run(batch_missions.captions, table(videos), processes=processes, batch=8)
    assert (summary.done, summary.exit_code, videos.statuses()) == (50, 0, {"DONE": 50})
    assert captions(videos) == {n: f"caption of {n}.mp4" for n in range(1, 51)}
    sizes = [len(batch) for batch in batches(videos)]
    assert max(sizes) == 8
    assert len(sizes) <= 9  # the ragged end may be dealt out to both workers
    assert sorted(key for batch in batches(videos) for key in batch) == list(range(1, 51))


@pytest.mark.parametrize(
    "make",
    [ThreadPoolExecutor, partial(ProcessPoolExecutor, mp_context=get_context("spawn"))],
    ids=["threads", "spawn"],
)
def test_a_foreign_executor_runs_batches_too(videos, make):
    videos.add("ok", "error", "lambda", *["ok"] * 9)
    with make(2) as executor:
        summary = run(batch_missions.by_content, table(videos), executor=executor, batch=4)
    assert (summary.done, summary.failed) == (10, 2)
    assert summary.failures["ValueError"] == 1


def test_an_error_object_fails_its_row_alone_and_fail_and_later_mean_what_they_mean(videos):
    videos.add("ok", "error", "fail", "later", "lambda", "ok")
    summary = run(batch_missions.by_content, table(videos), processes=1, batch=6, retry=Retry(fails=2, pause=0.01))
    assert (summary.done, summary.failed) == (3, 3)
    assert captions(videos) == {1: "fine 1", 4: "fine 4", 6: "fine 6"}
    assert [videos.entry(key)["attempt"] for key in (2, 3, 4, 5)] == [2, 1, 2, 1]
    assert videos.entry(4)["fails"] == 0
    assert "row 2 as an object" in videos.entry(2)["error"]
    assert "as the row says" in videos.entry(3)["error"]
    assert "'caption'" in videos.entry(5)["error"]


@pytest.mark.parametrize(("content", "told"), [("raise", "row 2 raised"), ("exit", "SystemExit")])
def test_a_batch_that_raises_is_run_row_by_row_in_the_same_worker(videos, content, told):
    videos.add("ok", content, "ok")
    summary = run(batch_missions.by_content, table(videos), processes=1, batch=3)
    assert (summary.done, summary.failed, videos.entry(2)["attempt"]) == (2, 1, 1)
    assert told in videos.entry(2)["error"]
    assert batches(videos) == [[1, 2, 3], [1], [2], [3]]
    assert len({line.split()[1] for line in videos.notes()}) == 1
    # Alone it has output of its own.
    assert videos.entry(2)["log"].splitlines() == ["looking at 2"]


def test_what_a_batch_has_printed_is_kept_with_each_row_of_it_that_failed(videos):
    videos.add("ok", "error", "ok")
    run(batch_missions.by_content, table(videos), processes=1, batch=3)
    assert videos.entry(2)["log"].splitlines() == ["looking at 1", "looking at 2", "looking at 3"]


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (batch_missions.too_few, "too_few returned 1 results for 4 rows"),
        (batch_missions.no_list, "no_list returned a dict for 4 rows"),
    ],
)
def test_a_list_that_does_not_match_fails_its_rows_without_a_guess_or_a_retry(videos, task, told):
    videos.add(*["ok"] * 4)
    summary = run(task, table(videos), processes=1, batch=4, retry=Retry(fails=5, pause=0.01))
    assert (summary.done, summary.failed, summary.retried) == (0, 4, 0)
    assert captions(videos) == {}
    assert told in videos.entry(3)["error"]


def test_a_batch_function_that_returns_nothing_only_has_the_status_written(videos):
    videos.add(*["ok"] * 5)
    assert run(batch_missions.nothing, table(videos), processes=1, batch=3).done == 5
    assert captions(videos) == {}


def test_a_poison_row_costs_the_others_of_its_batch_one_lost_worker_and_never_their_result(videos):
    videos.add(*["ok"] * 3, "kill", *["ok"] * 20)
    # So many rows lost together are one accident, and no reason to halt.
    summary = run(
        batch_missions.by_content, table(videos), processes=1, batch=24, retry=Retry(pause=0.01), pace=Pace(halt=5)
    )
    assert (summary.done, summary.failed) == (23, 1)
    assert [videos.entry(key)["lost"] for key in (1, 2, 4, 24)] == [1, 1, 3, 1]
    assert "SIGKILL" in videos.entry(4)["error"]
    first, *rest = batches(videos)
    assert len(first) == 24
    assert all(len(batch) == 1 for batch in rest)


def test_a_row_over_the_time_limit_does_not_fail_the_rest_of_its_batch(videos):
    videos.add("ok", "sleep", "ok")
    summary = run(batch_missions.by_content, table(videos), processes=1, batch=3, time_limit=0.3)
    assert (summary.done, summary.failed, summary.failures) == (2, 1, {"TimeLimitExceeded": 1})
    assert [videos.entry(key)["lost"] for key in (1, 2, 3)] == [1, 1, 1]


def test_an_error_that_ruins_the_worker_is_found_by_running_its_rows_alone(videos):
    videos.add("ok", "ruin", "ok", "ok")
    summary = run(batch_missions.by_content, table(videos), processes=1, batch=4)
    assert (summary.done, summary.failed) == (3, 1)
    assert "device-side assert" in videos.entry(2)["error"]


def test_a_batch_that_runs_out_of_memory_is_halved_and_the_worker_remembers(videos):
    videos.add(*["ok"] * 24)
    summary = run(batch_missions.three_fit, table(videos), processes=1, batch=8)
    assert (summary.done, summary.failed) == (24, 0)
    sizes = [len(batch) for batch in batches(videos)]
    assert sizes == [8, 4, 2, 2, 4, 2, 2] + [2] * 8


def test_a_row_that_is_too_much_by_itself_makes_no_batch_smaller(videos):
    videos.add("ok", "huge", *["ok"] * 6)
    summary = run(batch_missions.one_is_too_much, table(videos), processes=0, batch=4)
    assert (summary.done, summary.failures) == (7, {"MemoryError": 1})
    assert [len(batch) for batch in batches(videos)] == [4, 2, 1, 1, 2, 4]


def test_current_knows_each_row_of_the_batch(videos):
    videos.add(*["ok"] * 5)
    run(batch_missions.own_keys, table(videos), processes=1, batch=5)
    assert captions(videos) == {n: f"{n} {n} 1 0" for n in range(1, 6)}


def test_fewer_rows_than_a_batch_are_not_waited_with_for_more(videos):
    seen = []
    service = Runner(batch_missions.captions, table(videos), processes=1, batch=100, forever=True, poll=0.05)
    thread = threading.Thread(target=lambda: seen.append(service.run()))
    thread.start()
    try:
        videos.add("one")
        wait_until(lambda: videos.statuses() == {"DONE": 1})
        videos.add("two", "three", "four")
        wait_until(lambda: videos.statuses() == {"DONE": 4})
    finally:
        service.stop()
        thread.join(30)
    assert seen[0].done == 4


def test_rows_that_come_while_all_workers_are_busy_gather_to_full_batches(videos, tmp_path):
    gate = tmp_path / "gate"
    videos.add(str(gate))
    service = Runner(batch_missions.patient_captions, table(videos), processes=1, batch=4, forever=True, poll=0.02)
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        wait_until(lambda: videos.statuses() == {"DOING": 1})
        for _ in range(4):
            videos.add(str(gate))
        wait_until(lambda: videos.statuses() == {"DOING": 5})
        gate.touch()
        wait_until(lambda: videos.statuses() == {"DONE": 5})
    finally:
        gate.touch()
        service.stop()
        thread.join(30)
    assert batches(videos) == [[1], [2, 3, 4, 5]]


def test_a_second_stop_gives_back_every_row_of_the_batch_that_runs(videos):
    videos.add(*["sleep"] * 6)
    runner = Runner(batch_missions.by_content, table(videos), processes=1, batch=4, pace=Pace(grace=30))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(runner.run()))
    thread.start()
    wait_until(videos.notes)
    began = time.monotonic()
    runner.stop()
    runner.stop()
    thread.join(30)
    assert time.monotonic() - began < 15
    assert (seen[0].exit_code, videos.statuses()) == (3, {"PENDING": 6})
    assert {videos.entry(key)["lost"] for key in range(1, 5)} == {0}


def test_max_rows_bounds_rows_and_not_batches(videos):
    videos.add(*["ok"] * 20)
    assert run(batch_missions.captions, table(videos), processes=1, batch=4, max_rows=10).done == 10


@pytest.mark.parametrize(
    ("batch", "error", "told"),
    [
        (0, SettingError, "1 or more"),
        (2.5, SettingError, "whole number"),
        (True, SettingError, "must be a whole number"),
    ],
)
def test_a_batch_of_no_whole_number_of_rows_is_refused(videos, batch, error, told):
    with pytest.raises(error, match=told):
        run(missions.nothing, table(videos), batch=batch)


def test_what_takes_no_list_is_refused_with_the_way_to_write_it(videos):
    with pytest.raises(TaskError, match=r"cannot be called with one list of rows.*def mission\(rows\)"):
        run(lambda: None, table(videos), batch=4)
