"""Faults: killed workers, killed runners, stops. Each with real processes and a real database."""

from __future__ import annotations

import logging
import os
import re
import signal
import sqlite3
from contextlib import suppress

import psutil
import pytest

from pooltable import Retry, TaskTable, WorkerStartError, events, run
from pooltable.logs import Logs
from tests.runner import missions
from tests.runner.videos import wait_until


def table(videos, **options):
    return TaskTable(videos.url, "video", **{"write": ("caption",), **options})


# ---- workers


def test_a_killed_worker_costs_its_row_one_attempt_and_no_other_row_anything(videos):
    videos.add("ok", "killonce", *["ok"] * 20)
    summary = run(missions.by_content, table(videos), processes=2)
    assert (summary.done, summary.failed, summary.lost) == (22, 0, 1)
    assert (videos.entry(2)["attempt"], videos.entry(2)["lost"]) == (2, 1)
    assert videos.sql("SELECT id FROM pooltable_video_entry") == [(2,)]


@pytest.mark.parametrize(
    ("content", "told"), [("kill", "SIGKILL"), ("segv", "SIGSEGV"), ("abort", "SIGABRT"), ("_exit", "exit code 0")]
)
def test_a_row_that_kills_every_worker_fails_at_its_limit_with_the_reason(videos, content, told):
    videos.add("ok", content, "ok")
    summary = run(missions.by_content, table(videos), processes=2, retry=Retry(lost=2, pause=0.05))
    assert (summary.done, summary.failed) == (2, 1)
    entry = videos.entry(2)
    assert (entry["attempt"], entry["kind"]) == (2, "WorkerLost")
    assert told in entry["error"]


@pytest.mark.parametrize("content", ["exit", "interrupt", "memory", "recursion", "generator"])
def test_whatever_a_task_raises_is_caught_and_fails_that_row_alone(videos, content):
    videos.add("ok", content, "ok")
    summary = run(missions.by_content, table(videos), processes=1)
    assert (summary.done, summary.failed, summary.lost) == (2, 1, 0)


@pytest.mark.parametrize("task", [missions.raise_odd, missions.unpicklable])
def test_errors_and_results_that_do_not_travel_fail_their_row(videos, task):
    videos.add("a", "b")
    summary = run(task, table(videos), processes=1)
    assert summary.failed == 2
    assert videos.entry(1)["error"]


def test_a_row_over_its_time_limit_is_ended_even_if_it_ignores_sigterm(videos):
    videos.add("stubborn:60", "ok")
    summary = run(missions.by_content, table(videos), processes=2, time_limit=1.0)
    assert (summary.done, summary.failed) == (1, 1)
    assert videos.entry(1)["kind"] == "TimeLimitExceeded"


def test_the_stacks_of_a_row_over_its_time_limit_are_kept_with_it_and_are_no_output_of_it(videos, caplog):
    videos.add("stubborn:60")
    caplog.set_level(logging.DEBUG, "pooltable.output")
    seen = []
    run(missions.by_content, table(videos), processes=1, time_limit=1.0, listeners=[seen.append, Logs()])
    assert re.search(r'File ".*missions\.py", line \d+ in', videos.entry(1)["log"])
    assert not any("missions.py" in event.text for event in seen if isinstance(event, events.WorkerPrinted))
    told = [record for record in caplog.records if "missions.py" in record.getMessage()]
    assert [(record.levelno, record.name, record.key) for record in told] == [(logging.DEBUG, "pooltable.output", (1,))]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("processes", [2, 0])
def test_a_task_that_forks_ends_each_of_its_rows_once(videos, processes):
    videos.add(*["return", "exit", "raise", "wait"] * 25)
    summary = run(missions.forks, table(videos), processes=processes)
    assert (summary.done, summary.failed, summary.lost) == (100, 0, 0)
    assert sorted(map(int, videos.notes())) == list(range(1, 101))
    # Each end was written by the process that began the row.
    assert len(videos.sql("SELECT DISTINCT caption FROM video")) == max(1, processes)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # the children of rows that ran in this process
            pass


def test_a_task_for_many_rows_that_forks_ends_each_of_them_once(videos):
    videos.add(*["a"] * 60)
    summary = run(
        missions.forks_for_all, table(videos), processes=2, batch=8, initializer=missions.initializer_that_forks
    )
    assert (summary.done, summary.failed, summary.lost) == (60, 0, 0)
    assert sorted(map(int, videos.notes())) == list(range(1, 61))


def test_a_task_that_forks_in_somebody_elses_executor_ends_each_of_its_rows_once(videos):
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    videos.add(*["return", "exit", "raise", "wait"] * 10)
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        summary = run(missions.forks, table(videos), executor=executor)
    assert (summary.done, summary.failed, summary.lost) == (40, 0, 0)
    assert sorted(map(int, videos.notes())) == list(range(1, 41))


def test_a_defect_of_the_pool_ends_the_run_with_what_it_is_and_gives_its_rows_back(videos, monkeypatch):
    from pooltable.pool.hearing import Hearing

    take, taken = Hearing._take, []

    def fail(self, worker, message):
        taken.append(message)
        if len(taken) == 10:
            raise RuntimeError("a defect of ours")
        take(self, worker, message)

    monkeypatch.setattr(Hearing, "_take", fail)
    videos.add(*["ok"] * 500)
    with pytest.raises(WorkerStartError, match="I/O thread failed: RuntimeError: a defect of ours") as caught:
        run(missions.by_content, table(videos), processes=2)
    assert caught.value.exit_code == caught.value.summary.exit_code == 5
    assert set(videos.statuses()) == {"DONE", "PENDING"}
    assert videos.held() == 0
    monkeypatch.undo()
    assert run(missions.by_content, table(videos), processes=2).left == 0
    assert videos.statuses() == {"DONE": 500}


def test_what_a_failed_attempt_printed_is_kept_with_its_row(videos):
    videos.add("print:hello", "ok")
    run(missions.by_content, table(videos), processes=1)
    assert "hello" in videos.entry(1)["log"]
    assert not videos.entry(2)["log"]


def test_prints_and_records_of_workers_arrive_with_their_row(videos):
    videos.add("print:hello")
    seen = []
    run(missions.by_content, table(videos), processes=1, listeners=[seen.append])
    printed = [event for event in seen if isinstance(event, events.WorkerPrinted)]
    logged = [event for event in seen if isinstance(event, events.WorkerLogged)]
    assert "hello" in "".join(event.text for event in printed)
    assert {event.key for event in printed} == {(1,)}
    assert [event.key for event in logged if "logged hello" in str(event.record)] == [(1,)]


# ---- runners


def test_a_killed_runner_is_rescued_at_once_on_the_same_host_and_its_workers_die(videos, service):
    gate = videos.folder / "gate"
    videos.add(gate, gate)
    first = service("gated")
    wait_until(lambda: len(videos.notes()) == 2)
    workers = [int(line.split()[3]) for line in videos.notes()]
    first.signal(signal.SIGKILL)
    first.wait()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    gate.touch()
    second = service("gated")
    assert second.wait() == 0, second.text()
    assert videos.statuses() == {"DONE": 2}
    assert {videos.entry(key)["attempt"] for key in (1, 2)} == {2}
    assert {videos.entry(key)["rescued"] for key in (1, 2)} == {1}
    assert len([line for line in videos.notes() if line.startswith("end")]) == 2


def test_two_runners_started_by_mistake_share_the_rows(videos, service):
    videos.add(*range(60))
    both = [service("noting", "processes=1"), service("noting", "processes=1")]
    assert [running.wait(60) for running in both] == [0, 0]
    assert videos.statuses() == {"DONE": 60}
    starts = [line for line in videos.notes() if line.startswith("start")]
    assert len(starts) == 60
    assert len({line.split()[3] for line in starts}) == 2


# ---- stopping


def test_one_sigterm_drains(videos, service):
    gate = videos.folder / "gate"
    videos.add(gate, *["x"] * 200)
    running = service("gated", "processes=1, pace=Pace(grace=30)")
    wait_until(lambda: videos.notes())
    running.signal(signal.SIGTERM)
    wait_until(lambda: videos.held() == 1)
    gate.touch()
    assert running.wait() == 3
    assert videos.status(1) == "DONE"
    assert videos.statuses() == {"DONE": 1, "PENDING": 200}


def test_a_service_that_drained_ends_with_exit_code_0(videos, service):
    videos.add("a")
    running = service("caption", "processes=1, forever=True, poll=0.1")
    wait_until(lambda: videos.statuses() == {"DONE": 1})
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def test_the_grace_period_ends_what_still_runs_and_gives_its_row_back(videos, service):
    videos.add("stubborn:60")
    running = service("by_content", "processes=1, pace=Pace(grace=0.5)")
    wait_until(lambda: videos.notes())
    running.signal(signal.SIGTERM)
    assert running.wait(20) == 3
    assert videos.statuses() == {"PENDING": 1}
    assert (videos.entry(1)["fails"], videos.entry(1)["lost"], videos.entry(1)["rescued"]) == (0, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_now_and_gives_rows_back_without_cost(videos, service, number):
    videos.add(videos.folder / "gate")
    running = service("gated", "processes=1, pace=Pace(grace=60), listeners=[print]")
    wait_until(lambda: videos.notes())
    running.signal(number)
    wait_until(lambda: "step='drain'" in running.text())
    running.signal(number)
    assert running.wait(20) == 3
    assert videos.statuses() == {"PENDING": 1}
    assert (videos.entry(1)["fails"], videos.entry(1)["lost"], videos.entry(1)["rescued"]) == (0, 0, 0)


def test_the_third_signal_leaves_at_once_even_if_the_worker_does_not(videos, service):
    videos.add("stubborn:60")
    running = service("by_content", "processes=1, pace=Pace(grace=60), listeners=[print]")
    wait_until(lambda: videos.notes())
    running.signal(signal.SIGTERM)
    wait_until(lambda: "step='drain'" in running.text())
    running.signal(signal.SIGTERM)
    wait_until(lambda: "step='now'" in running.text())
    running.signal(signal.SIGTERM)
    assert running.wait(20) == 3
    # Nobody gave the row back, so the next run rescues it.
    videos.sql("UPDATE video SET content='ok'")
    assert run(missions.by_content, table(videos), processes=1).done == 1
    assert videos.entry(1)["rescued"] <= 1


def test_ctrl_c_in_a_run_in_this_process_drains_then_interrupts(videos, service):
    videos.add("sleep:60", "ok")
    running = service("by_content", "processes=0")
    wait_until(lambda: videos.notes())
    running.signal(signal.SIGINT)
    running.signal(signal.SIGTERM)  # another signal, since two alike that come together are one to the kernel
    assert running.wait(20) == 3
    assert videos.statuses() == {"PENDING": 2}


# ---- rows that change under our hands


def test_a_row_deleted_while_it_runs_is_told_as_vanished(videos):
    assert told_about(videos, "DELETE FROM video WHERE id=1") == ["vanished"]
    assert videos.statuses() == {"DONE": 1}


def test_a_row_set_back_to_pending_while_it_runs_is_told_as_overwritten_and_runs_again(videos):
    # Told as fenced when the other worker was given the row anew before the first attempt had ended.
    assert told_about(videos, "UPDATE video SET status='PENDING' WHERE id=1") in (["overwritten"], ["fenced"])
    assert videos.statuses() == {"DONE": 2}


def test_a_row_that_the_task_marks_itself_is_taken_as_ended(videos):
    assert told_about(videos, "UPDATE video SET status='DONE' WHERE id=1") == ["marked"]
    assert videos.statuses() == {"DONE": 2}


def told_about(videos, statement):
    """Run two rows, change the first while it runs, and return what was told about ends that were not written."""
    gate = videos.folder / "gate"
    videos.add(gate, gate)
    seen = []

    def meddle(event):
        seen.append(event)
        if isinstance(event, events.RowsClaimed) and not gate.exists():
            wait_until(lambda: any(line.startswith("start 1 ") for line in videos.notes()))
            videos.sql(statement)
            gate.touch()

    run(missions.gated, table(videos), processes=2, listeners=[meddle])
    assert videos.held() == 0
    return [event.why for event in seen if isinstance(event, events.RowNotWritten)]


def test_rows_set_back_to_pending_by_hand_run_again_with_a_fresh_budget(videos):
    videos.add("raise")
    run(missions.by_content, table(videos), processes=1, retry=Retry(fails=2, pause=0.01))
    videos.sql("UPDATE video SET status='PENDING', content='once2'")
    summary = run(missions.by_content, table(videos), processes=1, retry=Retry(fails=2, pause=0.01))
    assert summary.done == 1
    assert videos.entry(1)["fails"] == 0
    assert videos.entry(1)["attempt"] == 1


def test_a_row_locked_by_somebody_else_is_written_as_soon_as_it_is_free(videos):
    gate = videos.folder / "gate"
    videos.add(gate)
    other = sqlite3.connect(videos.path, isolation_level=None, check_same_thread=False)

    def hold(event):
        if isinstance(event, events.RowsClaimed):
            wait_until(lambda: videos.notes())
            other.execute("BEGIN IMMEDIATE")
            gate.touch()
            wait_until(lambda: any(line.startswith("end") for line in videos.notes()))
            other.execute("COMMIT")

    summary = run(missions.gated, table(videos), processes=1, listeners=[hold])
    other.close()
    assert summary.done == 1


def test_two_jobs_on_one_table_chain_by_their_words(videos):
    from pooltable import Words

    videos.add(*range(10))
    decode = table(videos, job="decode", words=Words(done="DECODED"), write=())
    infer = table(videos, job="infer", words=Words(pending="DECODED", doing="INFERRING", failed="NOT INFERRED"))
    run(missions.nothing, decode, processes=1)
    assert videos.statuses() == {"DECODED": 10}
    run(missions.caption, infer, processes=1)
    assert videos.statuses() == {"DONE": 10}


def test_the_second_stage_may_be_started_before_its_first_row_is_there(videos):
    from pooltable import Words

    videos.sql("INSERT INTO video(content, status) VALUES('a', 'NEW')")
    table(videos, job="decode", words=Words(pending="NEW", done="DECODED")).prepare()
    infer = table(videos, job="infer", words=Words(pending="DECODED", doing="INFERRING"))
    assert run(missions.caption, infer, processes=1).done == 0


# ---- values


@pytest.mark.parametrize("odd", ["nul", "surrogate", "nan", "dict"])
def test_a_result_that_cannot_be_stored_fails_that_row_only(videos, odd):
    results = {"nul": "a\0b", "surrogate": "\ud800", "nan": float("nan"), "dict": {"nothing": 1}}
    value = results[odd]
    videos.add("odd", "even")
    summary = run(lambda row: value if row.content == "odd" else "fine", table(videos), processes=1)
    assert summary.done + summary.failed == 2
    assert videos.sql("SELECT status, caption FROM video WHERE id=2") == [("DONE", "fine")]
    if odd in ("surrogate", "dict"):
        assert videos.status(1) == "FAILED"
        assert re.search("CannotStore", videos.entry(1)["kind"])


def test_numpy_scalars_are_stored_as_python_values(videos):
    numpy = pytest.importorskip("numpy")
    value = numpy.float64(2.5)
    videos.sql("CREATE TABLE score(id INTEGER PRIMARY KEY, status TEXT, points REAL)")
    videos.sql("INSERT INTO score(status) VALUES('PENDING')")
    run(lambda row: value, TaskTable(videos.url, "score", write=("points",)), processes=1)
    assert videos.sql("SELECT points, typeof(points) FROM score") == [(2.5, "real")]


def test_a_closed_terminal_drains(videos, service):
    videos.add("a")
    running = service("caption", "processes=1, forever=True, poll=0.1")
    wait_until(lambda: videos.statuses() == {"DONE": 1})
    running.signal(signal.SIGHUP)
    assert running.wait() == 0


def test_no_process_of_a_run_is_left(videos):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    videos.add(*["killonce", "ok"] * 3)
    run(missions.by_content, table(videos), processes=2)

    def left():
        now = psutil.Process(os.getpid()).children(recursive=True)
        return [c for c in now if c.pid not in before and "runner" in " ".join(c.cmdline())]

    wait_until(lambda: not left())
