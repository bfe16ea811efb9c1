"""A run from start to end: what becomes of each row."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
import threading

import pytest

from pooltable import (
    MappingError,
    Pace,
    ResultDropped,
    Retry,
    Runner,
    SettingError,
    TaskError,
    TaskTable,
    WorkerStartError,
    events,
    run,
)
from tests.runner import missions
from tests.runner.videos import wait_until

WRITE = {"write": ("caption",)}


def table(videos, **options):
    return TaskTable(videos.url, "video", **{**WRITE, **options})


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_every_row_is_run_and_its_result_is_written_with_its_status(videos, processes):
    videos.add(*(f"{n}.mp4" for n in range(30)))
    summary = run(missions.caption, table(videos), processes=processes)
    assert (summary.done, summary.failed, summary.left, summary.exit_code) == (30, 0, 0, 0)
    assert videos.statuses() == {"DONE": 30}
    assert videos.sql("SELECT caption FROM video WHERE id=7") == [("caption of 6.mp4",)]


def test_an_empty_table_is_done_at_once_and_starts_no_worker(videos):
    seen = []
    summary = run(missions.caption, table(videos), processes=2, listeners=[seen.append])
    assert (summary.done, summary.exit_code) == (0, 0)
    assert not [event for event in seen if isinstance(event, events.WorkerStarting)]


def test_one_row_starts_one_worker(videos):
    videos.add("a")
    seen = []
    run(missions.caption, table(videos), processes=2, listeners=[seen.append])
    assert len([event for event in seen if isinstance(event, events.WorkerStarting)]) == 1


def test_progress_shows_each_worker_there_is_and_none_that_died(videos, monkeypatch):
    """A worker's output is kept for a while after its death; the worker itself is not shown any longer."""
    monkeypatch.setattr("pooltable.reporter.SHOW_SECONDS", 0.02)
    gate = videos.folder / "gate"
    videos.add(f"gate:{gate}", *["kill"] * 6)
    dead, shown = [], []

    def watch(event):
        if isinstance(event, events.WorkerEnded) and event.why == "lost":
            dead.append(event.pid)
        elif isinstance(event, events.Progressed):
            shown.append(len(event.workers))
            if len(dead) == 6:
                gate.touch()

    summary = run(missions.by_content, table(videos), processes=2, retry=Retry(lost=1), listeners=[watch])
    assert (summary.done, summary.lost, len(dead)) == (1, 6, 6)
    assert max(shown) == 2


def test_a_task_that_raises_fails_its_row_alone_with_the_traceback(videos):
    videos.add("ok", "raise", "ok")
    summary = run(missions.by_content, table(videos), processes=2)
    assert (summary.done, summary.failed, summary.exit_code) == (2, 1, 1)
    assert summary.failures == {"ValueError": 1}
    entry = videos.entry(2)
    assert entry["kind"] == "ValueError"
    assert "as the row says" in entry["error"]
    assert "missions.py" in entry["error"]


def test_a_row_that_fails_is_tried_again_within_its_budget(videos):
    videos.add("once", "raise")
    summary = run(missions.by_content, table(videos), processes=1, retry=Retry(fails=3, pause=0.05))
    assert (summary.done, summary.failed, summary.retried) == (1, 1, 3)
    assert (videos.entry(1)["attempt"], videos.entry(2)["attempt"]) == (2, 3)


def test_fail_ends_a_row_without_retry(videos):
    videos.add("fail:no audio")
    summary = run(missions.by_content, table(videos), processes=1, retry=Retry(fails=5))
    assert summary.failed == 1
    assert videos.entry(1)["attempt"] == 1
    assert "no audio" in videos.entry(1)["error"]


def test_later_puts_a_row_off_and_costs_no_budget(videos):
    videos.add("later:0.2")
    summary = run(missions.by_content, table(videos), processes=1)
    assert (summary.done, summary.failed) == (1, 0)
    assert videos.entry(1)["attempt"] == 2
    assert videos.entry(1)["fails"] == 0


def test_without_waiting_a_run_ends_before_the_rows_under_back_off(videos):
    videos.add("later:3600", "ok")
    summary = run(missions.by_content, table(videos), processes=1, pace=Pace(wait=False))
    assert (summary.done, summary.left) == (1, 1)
    assert videos.status(1) == "PENDING"


def test_the_idempotency_key_is_equal_over_retries_and_new_on_a_re_run(videos):
    videos.add("once")
    run(missions.by_content, table(videos), processes=1, retry=Retry(fails=2, pause=0.01))
    videos.sql("UPDATE video SET status='PENDING', content='ok'")
    run(missions.by_content, table(videos), processes=1)
    first, second, again = [line.split()[4] for line in videos.notes()]
    assert first == second
    assert again != first


def test_rows_added_while_it_runs_are_run_too(videos):
    videos.add("a")

    def add_one(row, value):
        if row.id < 5:
            videos.add("more")

    # Whether the run sees the new row before it ends is a race that a service does not have.
    service = Runner(missions.caption, table(videos), processes=1, forever=True, poll=0.05, callback=add_one)
    thread = threading.Thread(target=lambda: summaries.append(service.run()))
    summaries: list = []
    thread.start()

    wait_until(lambda: videos.statuses() == {"DONE": 5})
    service.stop()
    thread.join(20)
    assert summaries[0].exit_code == 0
    assert summaries[0].done == 5


def test_callbacks_get_the_row_and_the_value_or_the_error_after_the_commit(videos):
    videos.add("ok", "raise")
    seen = []

    def done(row, value):
        seen.append((row.id, value, videos.status(row.id)))

    def failed(row, error):
        seen.append((row.id, type(error), videos.status(row.id)))

    run(missions.by_content, table(videos), processes=1, callback=done, error_callback=failed)
    assert sorted(seen, key=lambda item: item[0]) == [(1, "fine", "DONE"), (2, ValueError, "FAILED")]


def test_a_callback_and_a_listener_that_raise_never_touch_the_run(videos):
    videos.add(*"abc")
    seen = []

    def broken(*args):
        raise RuntimeError("broken")

    summary = run(missions.caption, table(videos), processes=1, callback=broken, listeners=[broken, seen.append])
    assert summary.done == 3
    assert {event.what for event in seen if isinstance(event, events.Noticed)} >= {"callback failed", "listener failed"}


def test_a_model_is_loaded_once_in_each_worker_before_any_row_is_claimed(videos):
    videos.add(*range(40))
    seen = []
    summary = run(
        missions.use_model,
        table(videos),
        processes=2,
        initializer=missions.load_model,
        initargs=("resnet",),
        listeners=[seen.append],
    )
    assert summary.done == 40
    assert videos.sql("SELECT DISTINCT caption FROM video WHERE id=9") == [("resnet on 9",)]
    loads = [line for line in videos.notes() if line.startswith("load")]
    assert 1 <= len(loads) == len(set(loads)) <= 2
    kinds = [type(event) for event in seen]
    assert kinds.index(events.WorkerReady) < kinds.index(events.RowsClaimed)


def test_an_initializer_that_raises_ends_the_run_with_its_traceback_and_every_row_pending(videos):
    videos.add(*"abc")
    with pytest.raises(WorkerStartError, match="the model file is gone") as caught:
        run(missions.caption, table(videos), processes=2, initializer=missions.broken_initializer)
    assert caught.value.exit_code == 5
    assert caught.value.summary.exit_code == 5
    assert videos.statuses() == {"PENDING": 3}
    assert videos.sql("SELECT count(*) FROM pooltable_video_claims") == [(0,)]


def test_an_initializer_that_raises_in_this_process_does_the_same(videos):
    videos.add("a")
    with pytest.raises(WorkerStartError, match="the model file is gone"):
        run(missions.caption, table(videos), processes=0, initializer=missions.broken_initializer)
    assert videos.statuses() == {"PENDING": 1}


def test_when_everything_fails_alike_the_run_halts_and_leaves_the_rest_pending(videos):
    videos.add(*["raise"] * 500)
    summary = run(missions.by_content, table(videos), processes=2, pace=Pace(halt=20))
    assert summary.exit_code == 6
    assert re.fullmatch(r"halted: \d\d+ rows in a row failed with ValueError", summary.error)
    statuses = videos.statuses()
    assert statuses["FAILED"] + statuses["PENDING"] == 500
    assert statuses["FAILED"] >= 20
    assert statuses["PENDING"] > 100


def test_a_burst_is_undone_by_the_name_of_its_run(videos):
    videos.add(*["raise"] * 40)
    videos_table = table(videos)
    summary = run(missions.by_content, videos_table, processes=1, pace=Pace(halt=20))
    assert videos_table.requeue(run=summary.run) == videos.sql("SELECT count(*) FROM video WHERE status='FAILED'")[0][
        0
    ] + (summary.failed - 0)
    assert videos.statuses() == {"PENDING": 40}


def test_bursts_of_fail_do_not_halt_because_they_are_the_tasks_own_verdict(videos):
    videos.add(*["fail:no audio"] * 50)
    summary = run(missions.by_content, table(videos), processes=1)
    assert (summary.failed, summary.exit_code) == (50, 1)


def test_max_rows_bounds_what_is_claimed(videos):
    videos.add(*range(50))
    summary = run(missions.caption, table(videos), processes=2, max_rows=7)
    assert (summary.done, summary.left) == (7, 43)
    assert videos.statuses() == {"DONE": 7, "PENDING": 43}


def test_only_unknown_status_words_are_named_before_anything_is_touched(videos):
    videos.sql("INSERT INTO video(content, status) VALUES('a', 'NEW'), ('b', NULL)")
    with pytest.raises(MappingError, match=r"NULL.*'NEW'|'NEW'.*NULL") as caught:
        run(missions.caption, table(videos), processes=1)
    assert "'PENDING'" in str(caught.value)
    assert videos.statuses() == {"NEW": 1, None: 1}


def test_foreign_rows_in_work_are_counted_as_left_and_never_touched(videos):
    videos.add("a")
    videos.sql("INSERT INTO video(content, status) VALUES('b', 'DOING')")
    seen = []
    summary = run(missions.caption, table(videos), processes=1, listeners=[seen.append])
    assert (summary.done, summary.left, summary.exit_code) == (1, 1, 3)
    assert videos.statuses() == {"DONE": 1, "DOING": 1}
    assert [event.count for event in seen if getattr(event, "what", "") == "foreign doing rows"] == [1]


def test_foreign_rows_that_somebody_ends_while_the_run_works_are_not_left(videos):
    gate = videos.folder / "gate"
    videos.add(f"gate:{gate}")
    videos.sql("INSERT INTO video(content, status) VALUES('b', 'DOING')")

    def end_it(event):
        if isinstance(event, events.RowsClaimed):
            videos.sql("UPDATE video SET status = 'DONE' WHERE id = 2")
            gate.touch()

    summary = run(missions.by_content, table(videos), processes=1, listeners=[end_it])
    assert (summary.done, summary.left, summary.exit_code) == (1, 0, 0)


@pytest.mark.parametrize(
    ("task", "remedy"),
    [(missions.coroutine, r"asyncio\.run"), ("app:mission", "function"), (lambda: None, "one row")],
)
def test_a_task_that_can_never_run_is_refused_at_the_start(videos, task, remedy):
    videos.add("a")
    with pytest.raises(TaskError, match=remedy):
        run(task, table(videos), processes=1)
    assert videos.statuses() == {"PENDING": 1}


@pytest.mark.parametrize(
    "options", [{"processes": -1}, {"poll": 0}, {"max_rows": 0}, {"time_limit": -2}, {"processes": "two"}]
)
def test_numbers_that_make_no_sense_are_named(videos, options):
    with pytest.raises(SettingError, match=next(iter(options))):
        run(missions.caption, table(videos), **options)


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_first_value_with_nowhere_to_go_ends_the_run_and_its_row_is_pending_again(videos, processes, batch):
    videos.add(*"abcde")
    task = missions.captions if batch > 1 else missions.caption
    with pytest.raises(
        ResultDropped, match=r"row \d of 'video'.*result=, write=, .*callback=.*drop_results=True"
    ) as caught:
        run(task, table(videos, write=()), processes=processes, batch=batch)
    assert (caught.value.exit_code, caught.value.summary.exit_code, caught.value.table) == (2, 2, "video")
    assert videos.statuses() == {"PENDING": 5}
    assert videos.sql("SELECT sum(fails + lost + rescued) FROM pooltable_video_entry") == [(0,)]


def test_values_are_dropped_where_that_is_said(videos):
    videos.add(*"abc")
    summary = run(missions.caption, table(videos, write=()), processes=1, drop_results=True)
    assert (summary.done, videos.statuses()) == (3, {"DONE": 3})


def test_a_callback_is_a_place_for_a_value_to_go(videos):
    videos.add(*"ab")
    values = []
    run(missions.caption, table(videos, write=()), processes=1, callback=lambda row, value: values.append(value))
    assert sorted(values) == ["caption of a", "caption of b"]


def test_a_task_that_returns_nothing_needs_no_column(videos):
    videos.add(*"ab")
    assert run(missions.nothing, table(videos, write=()), processes=1).done == 2


def test_functions_of_this_test_go_by_value_when_workers_cannot_import_them(videos):
    videos.add("a")
    suffix = "!"
    summary = run(lambda row: row.content + suffix, table(videos), processes=1)
    assert summary.done == 1
    assert videos.sql("SELECT caption FROM video") == [("a!",)]


def test_rows_run_through_somebody_elses_executor(videos):
    from concurrent.futures import ThreadPoolExecutor

    videos.add(*range(20))
    with ThreadPoolExecutor(1) as executor:
        summary = run(missions.use_model, table(videos), executor=executor, initializer=missions.load_model)
    assert (summary.done, summary.exit_code) == (20, 0)


def test_a_broken_executor_ends_the_run_and_gives_its_rows_back(videos):
    from concurrent.futures import ProcessPoolExecutor

    videos.add("kill", "ok", "ok")
    with ProcessPoolExecutor(1) as executor, pytest.raises(WorkerStartError):
        run(missions.by_content, table(videos), executor=executor, retry=Retry(lost=1))
    assert "DOING" not in videos.statuses()


def test_without_listeners_what_happens_is_logged_and_what_workers_print_is_shown(videos, capfd, caplog):
    videos.add("print:hello from a worker")
    run(missions.by_content, table(videos), processes=1)
    logged = [(record.name, record.levelname) for record in caplog.records]
    assert ("pooltable", "ERROR") in logged or ("pooltable", "WARNING") in logged
    assert "hello from a worker" in caplog.text + capfd.readouterr().err


def test_the_example_of_help_works(videos):
    videos.add("boat", "dogs")
    example = inspect.cleandoc(run.__doc__ or "").split("\n\n    ", 1)[1].split("\n\n- ")[0]
    (videos.folder / "example.py").write_text(textwrap.dedent(f"    {example}"))
    done = subprocess.run([sys.executable, "example.py"], cwd=videos.folder, capture_output=True, text=True, check=True)
    assert done.stdout == "2 done, 0 failed\n"
    assert videos.sql("SELECT caption FROM video") == [("BOAT",), ("DOGS",)]
