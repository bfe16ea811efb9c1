"""What a task returns or raises may hang or raise wherever it is asked or rebuilt: it does so to its own row alone."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from pooltable import Pace, RemoteError, Runner, TaskTable, run
from tests.runner import hostile
from tests.runner.missions import notes
from tests.runner.videos import wait_until

pytestmark = pytest.mark.timeout(60)

# What nobody needs to rebuild.
UNOPENED = ["result hangs", "result interrupts", "error hangs", "error interrupts"]
INTERRUPTING = ["item interrupts", "str interrupts"]
SLOW = ["item hangs", "repr hangs", "str hangs"]


def table(videos, **options):
    return TaskTable(videos.url, "video", **{"write": ("caption",), **options})


@pytest.mark.parametrize("batch", [1, 4])
def test_neither_a_result_nor_an_error_is_rebuilt_by_the_run(videos, batch):
    contents = [*UNOPENED, *INTERRUPTING, "text", "text error"]
    videos.add(*contents, *["ok"] * 20)
    task = hostile.many if batch > 1 else hostile.by_content
    summary = run(task, table(videos), processes=2, batch=batch)
    assert (summary.done, summary.failed, summary.exit_code) == (21, 7, 1)
    errors = {content: videos.entry(key)["error"] for key, content in enumerate(contents, 1)}
    assert "holds text; the task returned Rebuilt" in errors["result hangs"]
    assert "its message" in errors["error hangs"]
    assert "in by_content" in errors["error interrupts"]
    assert "KeyboardInterrupt: not by any person" in errors["item interrupts"]
    assert "its __str__ raised KeyboardInterrupt" in errors["str interrupts"]
    assert "said by itself" in errors["text error"]
    assert videos.sql("SELECT caption FROM video WHERE content = 'text'") == [("a caption",)]
    assert videos.notes() == []


@pytest.mark.parametrize("executor", ["threads", "processes", "here"])
def test_nor_is_one_that_comes_from_an_executor_or_from_this_process(videos, executor):
    videos.add(*UNOPENED, *INTERRUPTING, *["ok"] * 5)
    if executor == "here":
        summary = run(hostile.by_content, table(videos), processes=0)
    else:
        spawn = get_context("spawn")
        made = ThreadPoolExecutor(2) if executor == "threads" else ProcessPoolExecutor(2, mp_context=spawn)
        with made:
            summary = run(hostile.by_content, table(videos), executor=made)
    assert (summary.done, summary.failed) == (5, 6)
    assert videos.notes() == []


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("where", ["workers", "here", "threads", "processes"])
def test_a_child_that_comes_back_while_its_row_is_run_or_asked_ends_there(videos, where, batch):
    videos.add("task forks", "item forks", "str forks", *["ok"] * 5)
    task = hostile.many if batch > 1 else hostile.by_content
    if where in ("workers", "here"):
        summary = run(task, table(videos), processes=int(where == "workers"), batch=batch)
    else:
        made = ThreadPoolExecutor(2) if where == "threads" else ProcessPoolExecutor(2, mp_context=get_context("spawn"))
        with made:
            summary = run(task, table(videos), executor=made, batch=batch)
    assert (summary.done, summary.failed) == (7, 1)
    assert videos.sql("SELECT caption FROM video WHERE id < 3") == [("exit code 0",)] * 2
    assert "exit code 0" in videos.entry(3)["error"]


def test_a_child_of_a_callback_ends_with_it(videos):
    videos.add("ok", "ok")
    said = []
    summary = run(
        hostile.by_content,
        table(videos, write=()),
        processes=1,
        callback=lambda row, value: said.append(hostile.fork()),
    )
    assert (summary.done, said) == (2, ["exit code 0"] * 2)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_error_that_cannot_be_put_in_words_fails_its_own_row_alone(videos, batch):
    videos.add("later, nobody knows when", *["ok"] * 3)
    summary = run(hostile.many if batch > 1 else hostile.by_content, table(videos), processes=1, batch=batch)
    assert (summary.done, summary.failures) == (3, {"ValueError": 1})
    assert "could not convert string to float: 'some day'" in videos.entry(1)["error"]


def test_a_value_or_error_that_hangs_when_it_is_asked_is_ended_at_the_time_limit_of_its_row(videos):
    videos.add(*SLOW, *["ok"] * 20)
    summary = run(hostile.by_content, table(videos), processes=3, time_limit=1.0)
    assert (summary.done, summary.failures) == (20, {"TimeLimitExceeded": 3})


def test_several_runners_work_on_beside_rows_that_hang_and_a_stop_is_heard(videos, service):
    videos.add(*SLOW, *UNOPENED, *["ok"] * 30)
    script = "processes=4, forever=True, poll=0.1, pace=Pace(grace=0.5)"
    both = [service("hostile.by_content", script), service("hostile.by_content", script)]
    wait_until(lambda: videos.statuses().get("DONE") == 30 and videos.statuses().get("FAILED") == 4)
    assert videos.statuses()["DOING"] == 3
    for running in both:
        running.signal(signal.SIGTERM)
    codes = [running.wait(20) for running in both]
    assert set(codes) <= {0, 3}
    assert videos.statuses() == {"DONE": 30, "FAILED": 4, "PENDING": 3}


def test_a_result_that_cannot_be_rebuilt_for_its_callback_fails_its_row_with_the_reason(videos):
    videos.add("result interrupts", "result hangs", "ok")
    seen = []
    summary = run(
        hostile.by_content,
        table(videos, write=()),
        processes=2,
        time_limit=1.0,
        callback=lambda row, value: seen.append(value),
    )
    assert (summary.done, summary.failed, seen) == (1, 2, ["fine"])
    assert "cannot be given to the callback: KeyboardInterrupt: not by any person" in videos.entry(1)["error"]
    assert videos.entry(2)["kind"] == "TimeLimitExceeded"


def test_an_error_callback_gets_a_remote_error_where_the_error_itself_cannot_be_rebuilt(videos):
    videos.add("error interrupts")
    seen = []
    run(hostile.by_content, table(videos), processes=1, error_callback=lambda row, error: seen.append(error))
    (error,) = seen
    assert isinstance(error, RemoteError)
    assert (error.type_name, error.message) == ("tests.runner.hostile.RebuiltError", "its message")


def test_a_callback_that_waits_for_its_value_holds_up_no_row_and_a_stop_ends_it(videos):
    go = notes().with_name("go")
    go.unlink(missing_ok=True)
    videos.add("result hangs in the runner", *["ok"] * 30)
    ends = []
    runner = Runner(
        hostile.by_content,
        table(videos, write=()),
        processes=2,
        callback=lambda row, value: ends.append(value),
        pace=Pace(grace=0.5),
    )
    running = threading.Thread(target=runner.run)
    running.start()
    try:
        wait_until(lambda: videos.statuses() == {"DONE": 31})
        runner.stop()
        running.join(20)
        assert not running.is_alive()
    finally:
        go.touch()
    wait_until(lambda: "rebuilt" in ends)
