"""Calls that fork, and workers that say what no worker says: no other call is touched."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pooltable import Pool, WorkerLost, WorkerStartError
from tests.pool import helpers
from tests.pool.conftest import MakeExecutor, MakePool
from tests.pool.helpers import double, nap, pid_of, until
from tests.pool.test_faults import environment, goes_on

HOW = ["os", "c", "pty"]


@pytest.mark.any_start_method
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("then", "code"),
    [("return", 0), ("raise", 1), ("exit", 3), ("exit with words", 1), ("generator", 1), ("interrupt", 1)],
)
def test_a_child_of_a_call_never_answers_for_it(pool: MakePool, how: str, then: str, code: int) -> None:
    p = pool(2, time_limit=10)
    before = {worker.pid for worker in p._engine.workers()}
    assert p.map(partial(helpers.fork_and, how, then), range(10), 1) == [code] * 10
    goes_on(p)
    assert {worker.pid for worker in p._engine.workers()} == before


def test_children_that_come_back_while_other_calls_run_touch_none_of_them(
    pool: MakePool, executor: MakeExecutor
) -> None:
    p = pool(4)
    results = [p.apply_async(helpers.fork_and_leave_behind, (number,)) for number in range(400)]
    assert [result.get(30) for result in results] == list(range(400))
    stats = p.stats()
    assert (stats.failed, stats.died) == (0, 0)
    e = executor(2)
    assert list(e.map(helpers.fork_and_leave_behind, range(100), timeout=30)) == list(range(100))


@pytest.mark.parametrize("how", HOW)
def test_a_child_runs_none_of_the_items_that_come_after_its_own(pool: MakePool, tmp_path: Path, how: str) -> None:
    p = pool(2, min_processes=1)
    ran = tmp_path / "ran"
    task = partial(helpers.note_and_fork, str(ran), how)
    assert p.map_async(task, range(90), 30).get(30) == list(range(90))
    assert Counter(map(int, ran.read_text().split())) == Counter(range(90))
    goes_on(p)


@pytest.mark.parametrize("how", HOW)
def test_a_child_of_an_initializer_is_no_worker(pool: MakePool, how: str) -> None:
    p = pool(2, helpers.fork_at_start, (how,))
    goes_on(p)
    assert p._engine.broken is None


@pytest.mark.parametrize("how", HOW)
def test_a_child_that_is_made_while_the_result_is_pickled_answers_for_nobody(pool: MakePool, how: str) -> None:
    p = pool(1)
    assert p.apply_async(helpers.fork_in_a_pickle, (how,)).get(10) == "0"
    goes_on(p)


def test_a_child_of_a_callback_ends_with_it(pool: MakePool, executor: MakeExecutor) -> None:
    said: list[object] = []
    p = pool(1)
    p.apply_async(double, (1,), callback=lambda value: said.append(helpers.fork_and("os", "return"))).get(10)
    e = executor(1)
    e.submit(nap, 0.1, "").add_done_callback(lambda future: said.append(helpers.fork_and("os", "return")))
    until(lambda: said == [0, 0])
    goes_on(p)


def test_a_process_of_multiprocessing_inside_a_call_ends_as_it_should(pool: MakePool) -> None:
    p = pool(2)
    assert [p.apply_async(helpers.start_a_process).get(20) for _ in range(4)] == [3] * 4
    goes_on(p)


PRINTS = """
from pooltable import Pool
from tests.pool import helpers

if __name__ == "__main__":
    with Pool(1, context={method!r}) as pool:
        pool.apply(helpers.print_and_fork)
        pool.close()
        pool.join()
"""


def test_what_a_child_prints_is_kept_and_nothing_is_printed_twice(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PRINTS.format(method=method))
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment(), timeout=30, check=False
    )
    assert ran.returncode == 0
    said = ran.stdout.replace("an exit handler runs\n", "", 1)  # the worker's own; with spawn alone
    assert said == "before the fork, in the child, after the fork\n"
    assert ran.stderr.count("ValueError: of the child") == 1
    assert "worker.py" not in ran.stderr


# ---- what no worker says


@pytest.mark.any_start_method
@pytest.mark.parametrize(
    "message",
    [
        [10**9],  # an answer to a call that there never was
        [-1],  # one that was answered before
        [1],  # another worker's, or one that waits
        [0, 0],  # its own, twice
        b"no message",
        b"",
        b"L",
        b"L\xff\xff\xff\xff\xff\xff\xff\x7f",
        ("no word of ours",),
        (),
        17,
        ([], 0.0, True, 0, False),
        ([(1,)], 0.0, True, 0, False),
        (None, None, None, None, None),
        ("failed",),
        ("crowded",),
        ("outlasted", 1),
        ("ready", "twice"),
        helpers.no_seconds,
        helpers.no_kind,
        helpers.no_payload,
    ],
)
def test_what_no_worker_says_costs_the_worker_that_said_it_and_nobody_else(pool: MakePool, message: Any) -> None:
    p = pool(2)
    assert p.apply(double, (1,)) == 2
    with ThreadPoolExecutor() as threads:
        innocent = threads.submit(p.apply, nap, (1.0, "innocent"))
        until(lambda: any(worker.state == "busy" for worker in p._engine.workers()))
        guilty = p.apply_async(helpers.say, (message, 0.5))
        behind = [p.apply_async(double, (number,)) for number in range(50)]
        guilty.wait(10)
        assert guilty.ready()
        assert innocent.result(10) == "innocent"
        answers = [_answer(result) for result in behind]
        # Who has answered too early is given the next call, and runs that one by the time it is found out.
        assert answers.count("lost") <= (message == [0, 0])
        assert all(answer in ("lost", 2 * number) for number, answer in enumerate(answers))
    assert p._engine._floor._thread is not None
    assert p._engine._floor._thread.is_alive()
    goes_on(p)


def _answer(result: Any) -> Any:
    try:
        return result.get(10)
    except WorkerLost:
        return "lost"


def test_a_worker_that_says_what_no_worker_says_is_lost_for_that_reason(pool: MakePool) -> None:
    p = pool(1)
    before = p.apply(pid_of)
    with pytest.raises(WorkerLost, match="it sent something that no worker sends"):
        p.apply(helpers.say, ([10**9], 30.0))
    assert p.apply(pid_of) != before


# ---- the I/O thread


def test_whatever_ends_the_io_thread_is_told_as_what_it_is(
    pool: MakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    p = pool(2)
    p.apply(double, (1,))

    def fail(*_: object) -> None:
        raise RuntimeError("a defect of ours")

    results = [p.apply_async(nap, (60,)) for _ in range(4)]
    monkeypatch.setattr(p._engine._floor, "_turn", fail)
    p._engine._floor.wake()
    for result in results:
        with pytest.raises(WorkerStartError, match="RuntimeError: a defect of ours") as caught:
            result.get(10)
        assert "in fail" in str(caught.value)
    with pytest.raises(WorkerStartError, match="a defect of ours"):
        p.apply(double, (1,))
    with pytest.raises(WorkerStartError, match="a defect of ours"):
        list(p.imap(double, range(3)))
    assert isinstance(p._engine.broken, WorkerStartError)
    assert "a defect of ours" in caplog.text


def test_a_pool_whose_io_thread_failed_can_be_closed_and_ended(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(2, context=method) as p:
        p.apply(double, (1,))
        timer = threading.Timer(0.3, p._engine._floor.wake)
        monkeypatch.setattr(p._engine._floor, "_turn", None)
        timer.start()
        with pytest.raises(WorkerStartError):
            p.apply(nap, (60,))  # waits for the answer in this thread
        timer.join()
    p.join()
