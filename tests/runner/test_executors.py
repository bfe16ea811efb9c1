"""Rows that run in somebody else's executor: threads, processes, broken ones, shared ones."""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from pooltable import DatabaseError, Pace, Retry, Runner, TaskTable, WorkerStartError, events, run
from tests.runner import missions
from tests.runner.videos import wait_until


def table(videos, **options):
    return TaskTable(videos.url, "video", **{"write": ("caption",), **options})


def test_each_thread_of_an_executor_knows_its_own_row(videos):
    videos.add(*range(40))
    with ThreadPoolExecutor(4) as executor:
        summary = run(missions.own_key, table(videos), executor=executor)
    assert (summary.done, summary.failures) == (40, {})
    assert videos.sql("SELECT count(*) FROM video WHERE caption = id") == [(40,)]


def test_an_executor_of_threads_runs_the_initializer_once(videos):
    videos.add(*["ok"] * 20)
    with ThreadPoolExecutor(4) as executor:
        run(missions.by_content, table(videos), executor=executor, initializer=missions.load_model)
    assert len([line for line in videos.notes() if line.startswith("load")]) == 1


def test_rows_run_in_the_processes_of_an_executor(videos):
    videos.add("ok", "raise", "once", "later:0.05", "fail:no audio")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        summary = run(
            missions.by_content, table(videos), executor=executor, retry=Retry(fails=2, pause=0.01), listeners=[]
        )
    assert (summary.done, summary.failed) == (3, 2)
    pids = {line.split()[2] for line in videos.notes()}
    assert 1 <= len(pids) <= 2


def test_two_runs_share_an_executor_and_keep_their_tasks_apart(videos):
    videos.sql("CREATE TABLE other(id INTEGER PRIMARY KEY, content TEXT, status TEXT, caption TEXT)")
    videos.add(*range(100))
    videos.sql("INSERT INTO other(content, status) SELECT content, 'PENDING' FROM video")
    with ThreadPoolExecutor(2) as executor:
        others = TaskTable(videos.url, "other", write=("caption",))
        second = threading.Thread(target=run, args=(lambda row: "other", others), kwargs={"executor": executor})
        second.start()
        run(lambda row: "video", table(videos), executor=executor)
        second.join(30)
    assert videos.sql("SELECT caption, count(*) FROM video GROUP BY 1") == [("video", 100)]
    assert videos.sql("SELECT caption, count(*) FROM other GROUP BY 1") == [("other", 100)]


@pytest.mark.timeout(20)
def test_an_initializer_that_raises_there_ends_the_run_and_costs_no_row_anything(videos):
    videos.add(*["ok"] * 5)
    with ThreadPoolExecutor(2) as executor, pytest.raises(WorkerStartError, match="the model file is gone") as caught:
        run(missions.by_content, table(videos), executor=executor, initializer=missions.broken_initializer)
    assert caught.value.exit_code == 5
    assert videos.statuses() == {"PENDING": 5}
    assert videos.sql("SELECT sum(fails + lost) FROM pooltable_video_entry") in ([(0,)], [(None,)])


def test_rows_that_wait_in_an_executor_when_a_run_breaks_off_are_never_run(videos):
    gate = videos.folder / "gate"
    videos.add(*[gate] * 4)
    with ThreadPoolExecutor(1) as executor:
        runner = Runner(
            missions.gated,
            table(videos),
            executor=executor,
            processes=4,
            pace=Pace(lease=1.5, grace=0.2),  # the next beat finds that the table is gone
            listeners=[
                lambda event: (
                    videos.sql("ALTER TABLE pooltable_video_claims RENAME TO gone")
                    if isinstance(event, events.RowsClaimed)
                    else None
                )
            ],
        )
        caught = []

        def work():
            try:
                runner.run()
            except DatabaseError as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: videos.notes())
        thread.join(30)
        assert caught
        gate.touch()
    videos.sql("ALTER TABLE gone RENAME TO pooltable_video_claims")
    videos.sql("UPDATE video SET status='PENDING'")
    videos.sql("DELETE FROM pooltable_video_claims")
    assert len([line for line in videos.notes() if line.startswith("start")]) == 1


def test_seconds_are_those_of_the_row_and_not_of_its_wait_in_the_executor(videos):
    videos.add(*["sleep:0.1"] * 6)
    with ThreadPoolExecutor(1) as executor:
        run(missions.by_content, table(videos), executor=executor, processes=6)
    assert max(videos.entry(key)["seconds"] for key in range(1, 7)) < 0.25
