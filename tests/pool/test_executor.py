"""`PoolExecutor`: what concurrent.futures promises."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import signal
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, CancelledError, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from pooltable import PoolExecutor, WorkerLost
from tests.pool import helpers
from tests.pool.conftest import MakeExecutor
from tests.pool.helpers import double, exit_with, nap, pid_of, started, touch_and_sleep, until


@pytest.mark.any_start_method
def test_submit_gives_a_future(executor: MakeExecutor) -> None:
    e = executor()
    future = e.submit(divmod, 7, 3)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(10) == (2, 1)
    assert future.exception() is None
    assert future.done()
    assert not future.cancelled()
    assert not future.running()
    assert "finished returned tuple" in repr(future)
    assert e.submit(int, "ff", base=16).result(10) == 255


@pytest.mark.any_start_method
def test_an_error_is_the_exception_of_the_future(executor: MakeExecutor) -> None:
    future = executor().submit(helpers.raise_, KeyError, "k")
    assert isinstance(future.exception(10), KeyError)
    with pytest.raises(KeyError):
        future.result()


@pytest.mark.any_start_method
@pytest.mark.parametrize("failing", [(helpers.raise_, KeyError, "k"), (exit_with, 3), (helpers.give_a_lambda,)])
def test_who_waits_for_the_first_exception_hears_of_it_while_others_run(
    executor: MakeExecutor, tmp_path: Path, failing: tuple[Any, ...]
) -> None:
    e = executor()
    slow = e.submit(touch_and_sleep, str(tmp_path / "slow"))
    until((tmp_path / "slow").exists)
    bad = e.submit(*failing)
    assert wait([slow, bad], return_when=FIRST_EXCEPTION) == ({bad}, {slow})
    # Of one that has ended before, too.
    assert wait([slow, bad], return_when=FIRST_EXCEPTION) == ({bad}, {slow})
    e.kill_workers()


def test_workers_start_with_the_calls(executor: MakeExecutor) -> None:
    e = executor(3)
    assert not e._processes
    assert e.submit(double, 1).result(10) == 2
    assert len(e._processes) == 1
    futures = [e.submit(nap, 0.3) for _ in range(3)]
    until(lambda: len(e._processes) == 3)
    wait(futures, 10)


@pytest.mark.any_start_method
def test_map_keeps_the_order(executor: MakeExecutor) -> None:
    e = executor()
    assert list(e.map(double, range(20))) == [2 * number for number in range(20)]
    assert list(e.map(pow, range(5), itertools.repeat(2))) == [0, 1, 4, 9, 16]
    assert list(e.map(pow, range(10), itertools.repeat(2), chunksize=3)) == [number**2 for number in range(10)]
    with pytest.raises(ZeroDivisionError):
        list(e.map(divmod, [1, 2], [1, 0]))
    values = e.map(divmod, [1, 2, 3, 4], [1, 1, 0, 1], chunksize=2)
    assert (next(values), next(values)) == ((1, 0), (2, 0))
    with pytest.raises(ZeroDivisionError):
        next(values)


@pytest.mark.any_start_method
def test_map_takes_a_timeout_and_cancels_what_is_left(executor: MakeExecutor) -> None:
    e = executor(1)
    with pytest.raises(TimeoutError):
        list(e.map(nap, [0.3, 0.3, 0.3], timeout=0.1))
    assert e.submit(double, 2).result(10) == 4


@pytest.mark.any_start_method
def test_map_with_a_buffersize_reads_an_endless_source(executor: MakeExecutor) -> None:
    e = executor()
    counter = itertools.count()
    values = e.map(double, counter, buffersize=5)
    assert list(itertools.islice(values, 20)) == [2 * number for number in range(20)]
    assert next(counter) < 40
    for bad in (0, -1):
        with pytest.raises(ValueError, match="buffersize"):
            e.map(double, [], buffersize=bad)
    with pytest.raises(ValueError, match="chunksize"):
        e.map(double, [], chunksize=0)


@pytest.mark.any_start_method
def test_wait_and_as_completed(executor: MakeExecutor) -> None:
    e = executor()
    futures = [e.submit(nap, seconds, seconds) for seconds in (0.0, 0.3)]
    done, pending = wait(futures, 10, return_when=concurrent.futures.FIRST_COMPLETED)
    assert (len(done), len(pending)) == (1, 1)
    assert sorted(future.result() for future in as_completed(futures, 10)) == [0.0, 0.3]
    many = [e.submit(double, number) for number in range(2000)]
    assert sorted(future.result() for future in as_completed(many, 20)) == [2 * number for number in range(2000)]
    assert not wait(many, 10).not_done


@pytest.mark.any_start_method
def test_callbacks_run_once_each_on_a_thread_of_their_own(executor: MakeExecutor) -> None:
    e = executor()
    calls: list[tuple[object, str]] = []
    future = e.submit(nap, 0.2, 5)
    for _ in range(3):
        future.add_done_callback(lambda f: calls.append((f.result(), threading.current_thread().name)))
    until(lambda: len(calls) == 3)
    assert {name for _, name in calls} == {"pooltable-callbacks"}
    future.add_done_callback(lambda f: calls.append((f.result(), threading.current_thread().name)))
    assert calls[3] == (5, "MainThread")


@pytest.mark.any_start_method
def test_a_waiting_future_can_be_cancelled(executor: MakeExecutor, tmp_path: Path) -> None:
    e = executor(1)
    running = e.submit(helpers.touch_and_sleep, str(tmp_path / "pid"), 0.5)
    started(tmp_path / "pid")
    waiting = e.submit(double, 1)
    called: list[object] = []
    waiting.add_done_callback(called.append)
    assert running.running()
    assert not running.cancel()
    assert waiting.cancel()
    assert waiting.cancelled()
    assert waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.result(10)
    until(lambda: called == [waiting])
    assert wait([waiting], 10).done == {waiting}
    assert running.result(10) is None


@pytest.mark.any_start_method
def test_a_future_can_be_awaited(executor: MakeExecutor) -> None:
    e = executor()

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(e, double, number) for number in range(50)))

    assert asyncio.run(main()) == [2 * number for number in range(50)]


def test_the_executor_goes_on_after_a_worker_died(executor: MakeExecutor) -> None:
    e = executor()
    good = e.submit(nap, 0.3, "good")
    with pytest.raises(BrokenProcessPool) as caught:
        e.submit(os._exit, 1).result(10)
    assert isinstance(caught.value, WorkerLost)
    assert good.result(10) == "good"
    assert e.submit(double, 1).result(10) == 2


@pytest.mark.any_start_method
def test_nothing_is_taken_after_shutdown(executor: MakeExecutor) -> None:
    e = executor()
    future = e.submit(nap, 0.2, "done")
    e.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        e.submit(double, 1)
    assert future.result(10) == "done"


def test_shutdown_waits_and_may_cancel_what_waits(executor: MakeExecutor, tmp_path: Path) -> None:
    e = executor(1)
    running = e.submit(helpers.touch_and_sleep, str(tmp_path / "pid"), 0.3)
    started(tmp_path / "pid")
    waiting = [e.submit(nap, 60) for _ in range(5)]
    e.shutdown(cancel_futures=True)
    assert running.done()
    assert all(future.cancelled() for future in waiting)


def test_the_context_manager_waits(method: str) -> None:
    with PoolExecutor(2, method) as e:
        futures = [e.submit(nap, 0.1, number) for number in range(6)]
    assert [future.result(0) for future in futures] == list(range(6))


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_workers_can_be_ended_at_once(executor: MakeExecutor, how: str) -> None:
    e = executor()
    futures = [e.submit(nap, 60) for _ in range(5)]
    until(lambda: e._engine.ready == 2)
    begin = time.monotonic()
    getattr(e, how)()
    assert time.monotonic() - begin < 30
    for future in futures:
        with pytest.raises(BrokenProcessPool):
            future.result(10)


def test_a_worker_is_replaced_after_its_number_of_calls(executor: MakeExecutor) -> None:
    e = executor(1, max_tasks_per_child=2)
    pids = [e.submit(pid_of).result(10) for _ in range(6)]
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [2, 2, 2]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="max_workers"):
        PoolExecutor(0)
    with pytest.raises(TypeError, match="initializer"):
        PoolExecutor(1, initializer=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_tasks_per_child"):
        PoolExecutor(1, max_tasks_per_child=0)


@pytest.mark.any_start_method
def test_an_argument_that_does_not_pickle_fails_its_future(executor: MakeExecutor) -> None:
    e = executor(1)
    assert isinstance(e.submit(double, threading.Lock()).exception(10), TypeError)
    assert e.submit(double, 2).result(10) == 4


def test_a_killed_worker_is_named_with_its_signal(executor: MakeExecutor) -> None:
    error = executor(1).submit(helpers.die, signal.SIGKILL).exception(10)
    assert isinstance(error, WorkerLost)
    assert error.signal == "SIGKILL"
