"""What `Pool` offers beyond multiprocessing.Pool, and what programs written for that one rely on."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pooltable import Pool, WorkerLost
from pooltable.cores import usable_cores
from pooltable.pool.worker import identity
from tests.pool import helpers
from tests.pool.calls import (
    Counted,
    grow,
    grow_and_wait,
    keep,
    nap_and_pid,
    noted,
    odd_fails,
    recycle,
    same,
    threads_environment,
    use_kept,
    who,
)
from tests.pool.conftest import MakeExecutor, MakePool
from tests.pool.helpers import double, nap, pid_of, started, until

# ---- how many workers


def test_a_pool_starts_all_of_its_workers_at_once(pool: MakePool) -> None:
    p = pool(3)
    assert len(p._pool) == 3
    assert len({worker.pid for worker in p._pool}) == 3
    until(lambda: p._engine.ready == 3)


def test_the_number_of_workers_defaults_to_the_usable_cores(pool: MakePool) -> None:
    with Pool() as p:
        assert p._processes == usable_cores()
    p.join()


def test_with_a_minimum_of_none_workers_come_with_the_calls_and_go_when_idle(pool: MakePool) -> None:
    p = pool(3, min_processes=0, idle_timeout=0.3)
    assert p._engine.workers() == ()
    assert p.apply(double, (2,)) == 4
    assert len(p._engine.workers()) == 1
    results = [p.apply_async(nap, (0.5,)) for _ in range(3)]
    until(lambda: p._engine.ready == 3)
    for result in results:
        result.get(10)
    until(lambda: p._engine.workers() == ())
    assert p.apply(double, (3,)) == 6


def test_idle_workers_leave_down_to_the_minimum(pool: MakePool) -> None:
    p = pool(3, min_processes=1, idle_timeout=0.2)
    p.map(nap, [0.2] * 3, 1)
    until(lambda: len(p._engine.workers()) == 1)
    assert p.map(double, range(5)) == [0, 2, 4, 6, 8]


def test_workers_have_stable_numbers_and_know_who_they_are(pool: MakePool) -> None:
    p = pool(2, threads=3)
    known = set(p.starmap(who, [()] * 8, 1))
    assert {(one.index, one.threads, one.device, one.processes) for one in known} == {(0, 3, None, 2), (1, 3, None, 2)}
    assert identity() is None


# ---- environment


def test_each_worker_owns_its_threads_and_its_device(pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    p = pool(2, threads=1, devices="cuda:0,cuda:1")
    assert set(p.starmap(threads_environment, [()] * 20, 1)) <= {("1", "1", "3"), ("1", "1", "5")}
    assert {one.device for one in p.starmap(who, [()] * 8, 1)} == {"cuda:0"}


def test_thread_variables_that_the_user_set_are_left_alone(pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    p = pool(1)
    assert p.apply(threads_environment)[0] == "7"
    assert p.apply(who).threads == 7


def test_locks_and_queues_may_be_handed_to_the_initializer(pool: MakePool, method: str) -> None:
    counter = multiprocessing.get_context(method).Value("i", 0)
    p = pool(2, keep, (counter,))
    assert sorted(p.map(use_kept, range(10), 1)) == list(range(1, 11))
    assert counter.value == 10


def test_workers_are_in_a_session_of_their_own(pool: MakePool) -> None:
    p = pool(1)
    assert p.apply(os.getsid, (0,)) == p.apply(pid_of)


# ---- workers that are replaced


def test_a_worker_is_replaced_after_its_number_of_calls(pool: MakePool) -> None:
    p = pool(1, maxtasksperchild=3)
    pids = [p.apply(pid_of) for _ in range(9)]
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [3, 3, 3]


@pytest.mark.any_start_method
def test_short_calls_in_batches_never_exceed_the_lifetime(pool: MakePool) -> None:
    p = pool(2, maxtasksperchild=50)
    results = [p.apply_async(pid_of) for _ in range(500)]
    pids = [result.get(30) for result in results]
    assert max(map(pids.count, set(pids))) <= 50


def test_a_call_can_ask_for_its_worker_to_be_recycled(pool: MakePool) -> None:
    p = pool(1)
    results = [p.apply_async(recycle), *(p.apply_async(pid_of) for _ in range(20))]
    pids = [result.get(10) for result in results]
    assert pids[0] not in pids[1:]
    assert len(set(pids)) == 2


@pytest.mark.any_start_method
@pytest.mark.parametrize("how", ["asks", "raises"])
def test_short_calls_behind_one_that_has_its_worker_recycled_are_run_once_each(
    pool: MakePool, tmp_path: Path, how: str
) -> None:
    p = pool(2)
    notes = tmp_path / "notes"
    notes.touch()
    p.map(double, range(100), 1)  # so that its pace is known, and many calls travel together
    assert p.starmap(noted, [(str(notes), number, "") for number in range(100)], 1) == list(range(100))
    calls = [
        p.apply_async(noted, (str(notes), number, how if number % 150 == 149 else "")) for number in range(100, 1000)
    ]
    ends = []
    for call in calls:
        try:
            ends.append(call.get(20))
        except MemoryError as error:
            ends.append(error.args[0])
    assert ends == list(range(100, 1000))
    assert sorted(map(int, notes.read_text().split())) == list(range(1000))


def test_a_worker_that_has_grown_is_replaced_between_calls(pool: MakePool) -> None:
    p = pool(1, memory=400 << 20)
    first = p.apply(grow, (1 << 20,))
    assert p.apply(pid_of) == first
    assert p.apply(grow, (500 << 20,)) == first
    until(lambda: p.apply(pid_of) != first)  # it is looked at ten times a second


def test_memory_that_a_worker_has_from_its_parent_is_not_its_own(pool: MakePool) -> None:
    grow(500 << 20)  # a forked worker has these pages, too
    try:
        p = pool(1, memory=(300 << 20, 400 << 20))
        first = p.apply(pid_of)
        assert p.apply(nap_and_pid, (1.2,)) == first
        assert p.apply(pid_of) == first
        assert p.apply(grow, (350 << 20,)) == first
        until(lambda: p.apply(pid_of) != first)  # it is looked at ten times a second
    finally:
        grow(0)


def test_a_worker_over_its_hard_limit_is_killed_during_the_call(pool: MakePool) -> None:
    p = pool(1, memory=(1 << 30, 300 << 20))
    with pytest.raises(WorkerLost, match="over its limit of 300 MiB"):
        p.apply(grow_and_wait, (400 << 20,))
    assert p.apply(double, (1,)) == 2


# ---- results


@pytest.mark.any_start_method
def test_a_map_raises_the_error_of_the_first_item_that_has_one_and_runs_the_others(pool: MakePool) -> None:
    p = pool(2)
    for chunksize in (None, 1, 3):
        with pytest.raises(ValueError, match=r"^1$"):
            p.map(odd_fails, range(10), chunksize)


@pytest.mark.any_start_method
def test_imap_gives_each_item_its_own_value_or_error(pool: MakePool) -> None:
    p = pool(2)
    for chunksize in (1, 4):
        iterator = p.imap(odd_fails, range(6), chunksize)
        seen: list[int | str] = []
        for _ in range(6):
            try:
                seen.append(next(iterator))
            except ValueError as error:
                seen.append(str(error))
        assert seen == [0, "1", 2, "3", 4, "5"]
        with pytest.raises(StopIteration):
            next(iterator)


@pytest.mark.any_start_method
def test_next_takes_a_timeout(pool: MakePool) -> None:
    p = pool(1)
    iterator = p.imap_unordered(nap, [0.5])
    with pytest.raises(multiprocessing.TimeoutError):
        iterator.next(0.05)
    assert iterator.next(10) is None


@pytest.mark.any_start_method
def test_get_takes_a_timeout(pool: MakePool) -> None:
    p = pool(1)
    result = p.apply_async(nap, (0.5, "late"))
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.05)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    assert not result.ready()
    assert result.get(10) == "late"
    assert result.ready()
    assert result.successful()


@pytest.mark.any_start_method
def test_a_source_may_be_fed_by_the_results(pool: MakePool) -> None:
    p = pool(2)
    got: list[int] = []
    more = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        while len(got) < 20:
            assert more.wait(10)
            more.clear()
            yield got[-1]

    for value in p.imap(double, source()):
        got.append(value)
        more.set()
        if len(got) == 20:
            break
    assert got == [2**power for power in range(1, 21)]
    more.set()


@pytest.mark.any_start_method
def test_closing_and_joining_before_the_results_are_read_loses_none(pool: MakePool) -> None:
    p = pool(2)
    iterator = p.imap(double, range(10_000))
    results = [p.apply_async(double, (number,)) for number in range(100)]
    p.close()
    p.join()
    assert list(iterator) == [2 * number for number in range(10_000)]
    assert [result.get(0) for result in results] == [2 * number for number in range(100)]


@pytest.mark.any_start_method
def test_imap_reads_an_endless_source_only_a_bounded_distance_ahead(pool: MakePool) -> None:
    p = pool(2)
    counter = itertools.count()
    iterator = p.imap(double, counter)
    assert [next(iterator) for _ in range(1000)] == [2 * number for number in range(1000)]
    time.sleep(0.2)
    ahead = next(counter) - 1000
    assert 0 < ahead < 6000
    p.terminate()


@pytest.mark.any_start_method
def test_a_dropped_iterator_lifts_the_bound(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    p.imap(helpers.append, [(str(tmp_path / "file"), number) for number in range(6000)])
    p.close()
    p.join()
    assert (tmp_path / "file").stat().st_size == 6000


@pytest.mark.any_start_method
def test_arguments_and_results_are_let_go(pool: MakePool) -> None:
    p = pool(2)
    p.map(same, [Counted() for _ in range(10)])
    result = p.apply_async(same, (Counted(),))
    result.get(10)
    list(p.imap(same, [Counted() for _ in range(10)]))
    del result
    gc.collect()
    until(lambda: Counted.alive == 0)


def test_large_arguments_and_results_arrive(pool: MakePool) -> None:
    p = pool(2)
    for size in (0, 60_000, 65_536, 70_000, 5_000_000, 100_000_000):
        data = os.urandom(min(size, 1000)) * (size // 1000 + 1)
        assert p.apply(same, (data,)) == data
    results = [p.apply_async(same, (bytes([number]) * 1_000_000,)) for number in range(50)]
    assert all(result.get(20) == bytes([number]) * 1_000_000 for number, result in enumerate(results))


@pytest.mark.any_start_method
def test_callbacks_are_called_before_the_result_is_ready(pool: MakePool) -> None:
    p = pool(2)
    called: list[Any] = []
    p.apply_async(double, (1,), callback=called.append).wait(10)
    p.map_async(double, range(3), callback=called.append).wait(10)
    p.apply_async(helpers.raise_, (KeyError, 1), callback=called.append, error_callback=called.append).wait(10)
    assert called[:2] == [2, [0, 2, 4]]
    assert isinstance(called[2], KeyError)


@pytest.mark.any_start_method
def test_callbacks_may_submit(pool: MakePool) -> None:
    p = pool(2)
    done = threading.Event()
    values: list[int] = []

    def again(value: int) -> None:
        values.append(value)
        if len(values) < 10:
            p.apply_async(double, (value,), callback=again)
        else:
            done.set()

    p.apply_async(double, (1,), callback=again)
    assert done.wait(10)
    assert values == [2**power for power in range(1, 11)]


# ---- cancelling, bounding


@pytest.mark.any_start_method
def test_a_waiting_call_can_be_cancelled(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    running = p.apply_async(nap, (0.3, "ran"))
    waiting = p.apply_async(helpers.touch_and_sleep, (str(tmp_path / "never"), 0))
    assert waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.get(10)
    assert running.get(10) == "ran"
    assert p.apply(double, (1,)) == 2
    assert not (tmp_path / "never").exists()
    assert not waiting.cancel()


def test_a_running_call_is_cancelled_only_when_it_may_be_killed(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    running = p.apply_async(helpers.touch_and_sleep, (str(tmp_path / "pid"),))
    started(tmp_path / "pid")
    assert not running.cancel()
    assert running.cancel(kill=True)
    with pytest.raises(CancelledError):
        running.get(10)
    assert p.apply(double, (1,)) == 2


@pytest.mark.any_start_method
def test_a_call_sent_ahead_can_be_cancelled(pool: MakePool) -> None:
    p = pool(1)
    p.map(nap, [0.002] * 20, 1)
    results = [p.apply_async(nap, (0.002, number)) for number in range(50)]
    slow = p.apply_async(nap, (0.5, "slow"))
    after = [p.apply_async(nap, (0.002, number)) for number in range(50)]
    results[-1].get(10)
    assert after[0].cancel()
    with pytest.raises(CancelledError):
        after[0].get(10)
    assert slow.get(10) == "slow"
    assert [result.get(10) for result in after[1:]] == list(range(1, 50))


@pytest.mark.any_start_method
def test_submitting_waits_while_so_many_calls_are_open(pool: MakePool) -> None:
    p = pool(1, max_pending=3)
    begin = time.monotonic()
    results = [p.apply_async(nap, (0.1,)) for _ in range(8)]
    assert time.monotonic() - begin > 0.4
    for result in results:
        result.get(10)


@pytest.mark.any_start_method
def test_a_waiting_submitter_is_let_go_when_the_pool_is_terminated(pool: MakePool) -> None:
    p = pool(1, max_pending=1)
    p.apply_async(nap, (60,))
    threading.Timer(0.2, p.terminate).start()
    with pytest.raises(ValueError, match="Pool not running"):
        p.apply_async(nap, (60,))


# ---- the end


def test_terminate_gives_every_open_call_an_answer(pool: MakePool) -> None:
    p = pool(2)
    results = [p.apply_async(nap, (60,)) for _ in range(10)]
    iterator = p.imap(nap, [60, 60])
    mapped = p.map_async(nap, [60] * 10)
    p.terminate()
    p.join()
    for result in [*results, mapped]:
        with pytest.raises(CancelledError):
            result.get(10)
    with pytest.raises((CancelledError, StopIteration)):
        next(iterator)


@pytest.mark.any_start_method
def test_a_pool_that_is_not_running_takes_nothing(pool: MakePool) -> None:
    p = pool(1)
    with pytest.raises(ValueError, match="still running"):
        p.join()
    p.close()
    for submit in (
        lambda: p.apply(double, (1,)),
        lambda: p.apply_async(double, (1,)),
        lambda: p.map(double, [1]),
        lambda: p.starmap_async(double, [(1,)]),
        lambda: p.imap(double, [1]),
        lambda: p.imap_unordered(double, [1], 3),
        p.__enter__,
    ):
        with pytest.raises(ValueError, match="Pool not running"):
            submit()


def test_a_pool_that_is_dropped_while_it_runs_warns(method: str) -> None:
    p = Pool(1, context=method)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del p
        gc.collect()
    assert any("unclosed running multiprocessing pool" in str(one.message) for one in caught)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"processes": 0}, ValueError, "at least 1"),
        ({"initializer": 5}, TypeError, "callable"),
        ({"maxtasksperchild": 0}, ValueError, "positive int"),
        ({"max_pending": 0}, ValueError, "max_pending"),
        ({"time_limit": 0}, ValueError, "time_limit"),
        ({"idle_timeout": -1}, ValueError, "idle_timeout"),
        ({"min_processes": 9, "processes": 2}, ValueError, "min_processes"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Pool(**arguments)


@pytest.mark.any_start_method
def test_a_pool_does_not_pickle(pool: MakePool) -> None:
    with pytest.raises(NotImplementedError):
        pickle.dumps(pool(1))
    with pytest.raises(ValueError, match="Chunksize must be 1"):
        pool(1).imap(double, [], 0)


def test_an_initializer_that_does_not_pickle_is_told_at_once() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        Pool(1, lambda: None, context="spawn")


@pytest.mark.any_start_method
def test_many_threads_may_submit_at_once(pool: MakePool) -> None:
    p = pool(2)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for round_ in range(200):
                assert p.apply(double, (number + round_,)) == 2 * (number + round_)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.any_start_method
def test_stats_say_what_the_pool_has_done_and_is_at(pool: MakePool, tmp_path: Path) -> None:
    p = pool(2)
    assert p.map(double, range(10), 1) == [2 * number for number in range(10)]
    with pytest.raises(WorkerLost):
        p.apply(helpers.exit_with, (1,))
    gate = tmp_path / "gate"
    running = [p.apply_async(helpers.touch_and_wait, (str(tmp_path / f"pid{n}"), str(gate))) for n in range(2)]
    for n in range(2):
        started(tmp_path / f"pid{n}")
    waiting = [p.apply_async(double, (1,)) for _ in range(3)]
    stats = p.stats()
    gate.touch()
    assert (stats.submitted, stats.ended, stats.running, stats.waiting) == (16, 11, 2, 3)
    assert (stats.failed, stats.lost, stats.started, stats.died) == (1, 1, 3, 1)
    assert [(worker.index, worker.state) for worker in stats.workers] == [(0, "busy"), (1, "busy")]
    assert {worker.pid for worker in stats.workers} == {started(tmp_path / f"pid{n}") for n in range(2)}
    for result in (*running, *waiting):
        result.get(10)
    with pytest.raises(TypeError):
        p.apply(double)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        p.apply(lambda: None)
    later = p.stats()
    assert (later.submitted, later.ended, later.running, later.waiting, later.failed) == (17, 17, 0, 0, 2)
    assert 1.0 <= later.busy_seconds < 20
    assert later.mean_seconds == pytest.approx(later.busy_seconds / 17)
    assert sum(worker.calls for worker in later.workers) < 17
    for worker in later.workers:
        assert worker.state == "idle"
        assert worker.busy_seconds >= 0.5
        assert worker.memory is None or 1 << 20 < worker.memory < 1 << 30


@pytest.mark.any_start_method
def test_stats_count_each_call_of_a_batch_once(pool: MakePool) -> None:
    p = pool(2)
    results = [p.apply_async(helpers.nap_or_fail, (number,)) for number in range(300)]
    for result in results:
        result.wait(30)
    stats = p.stats()
    assert (stats.submitted, stats.ended, stats.failed) == (300, 300, 30)
    assert sum(worker.calls for worker in stats.workers) == 300


@pytest.mark.any_start_method
def test_stats_count_the_bytes_that_go_to_a_worker_and_come_from_it(pool: MakePool) -> None:
    p = pool(1)
    for size in (1 << 10, 1 << 18, 1 << 22):
        before = p.stats().workers[0]
        assert p.apply(double, (bytes(size),)) == bytes(2 * size)
        after = p.stats().workers[0]
        assert size <= after.sent - before.sent <= size + 4096
        assert 2 * size <= after.received - before.received <= 2 * size + 4096


# ---- a thread that waits for its result takes it itself


@pytest.mark.any_start_method
def test_a_result_is_taken_by_the_thread_that_waits_and_by_others(pool: MakePool) -> None:
    p = pool(2)
    result = p.apply_async(nap, (0.3, "value"))
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(result.get(10))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert p.apply(double, (3,)) == 6
    for thread in threads:
        thread.join()
    assert got == ["value"] * 4


def test_a_thread_that_waits_is_told_when_the_pool_is_terminated_or_the_worker_killed(
    pool: MakePool, tmp_path: Path
) -> None:
    p = pool(1)
    result = p.apply_async(helpers.touch_and_sleep, (str(tmp_path / "one"),))
    threading.Thread(target=lambda: os.kill(started(tmp_path / "one"), signal.SIGKILL)).start()
    with pytest.raises(WorkerLost):
        result.get(10)
    result = p.apply_async(helpers.touch_and_sleep, (str(tmp_path / "two"),))
    threading.Thread(target=lambda: (started(tmp_path / "two"), p.terminate())).start()
    with pytest.raises(CancelledError):
        result.get(10)


def test_an_interrupted_wait_leaves_the_pool_as_it_was(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    result = p.apply_async(helpers.touch_and_sleep, (str(tmp_path / "pid"), 0.5))
    pid = started(tmp_path / "pid")
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        result.get(10)
    with suppress(KeyboardInterrupt):
        time.sleep(0.1)
    assert result.get(10) is None
    assert p.apply(pid_of) == pid


def test_a_result_that_is_interrupted_while_it_is_taken_is_not_waited_for_in_vain(
    pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = pool(1)
    p.apply(double, (1,))
    hearing = p._engine._floor.hearing
    read = hearing._read

    def interrupted(worker: Any) -> bool:
        if threading.current_thread() is threading.main_thread():
            worker.channel.receive()
            raise KeyboardInterrupt
        return read(worker)

    monkeypatch.setattr(hearing, "_read", interrupted)
    result = p.apply_async(nap, (1.0, 1))  # this thread waits by then, also on a busy machine
    with pytest.raises(KeyboardInterrupt):
        result.get(10)
    monkeypatch.undo()
    with pytest.raises(WorkerLost, match="interrupted while it talked to it"):
        result.get(10)
    assert p.apply(double, (2,)) == 4


def test_an_interrupted_submission_costs_a_worker_and_not_the_pool(
    pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = pool(1)
    pid = p.apply(pid_of)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(p._engine._floor, "post", interrupted)
    with pytest.raises(KeyboardInterrupt):
        p.apply_async(double, (1,))
    monkeypatch.undo()
    assert p.apply(double, (2,)) == 4
    assert p.apply(pid_of) != pid


def test_a_pool_is_gone_when_ctrl_c_comes_while_it_is_made(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt_the_next_start_of_a_thread(monkeypatch, "before it runs")
    with pytest.raises(KeyboardInterrupt):
        Pool(1, context=method)
    assert not [one for one in threading.enumerate() if one.name.startswith("pooltable")]


@pytest.mark.parametrize("when", ["before it runs", "when it runs"])
def test_ctrl_c_while_the_io_thread_is_started_costs_that_call_alone(
    executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    e = executor(1)
    _interrupt_the_next_start_of_a_thread(monkeypatch, when)
    with pytest.raises(KeyboardInterrupt):
        e.submit(double, 1)
    assert e.submit(double, 2).result(10) == 4
    e.shutdown()
    assert not [one for one in threading.enumerate() if one.name.startswith("pooltable-io")]


def test_an_executor_whose_io_thread_was_interrupted_at_its_start_can_be_ended(
    executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = executor(1)
    _interrupt_the_next_start_of_a_thread(monkeypatch, "before it runs")
    with pytest.raises(KeyboardInterrupt):
        e.submit(double, 1)
    e.shutdown(cancel_futures=True)


def _interrupt_the_next_start_of_a_thread(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.undo()
        if when == "when it runs":
            start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
