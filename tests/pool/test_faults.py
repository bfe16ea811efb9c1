"""What goes wrong in workers, and in what they are given and give back: every call ends, and the pool goes on."""

from __future__ import annotations

import errno
import functools
import gc
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.pool import MaybeEncodingError
from pathlib import Path
from typing import Any

import pytest

from pooltable import (
    Pool,
    RemoteError,
    TimeLimitExceeded,
    UnguardedMain,
    WorkerLost,
    WorkerStartError,
)
from tests.pool import helpers
from tests.pool.conftest import MakeExecutor, MakePool
from tests.pool.helpers import alive, double, nap, pid_of, started, until


def goes_on(pool: Pool) -> None:
    """The pool still answers, with all its workers."""
    assert pool.map(double, range(10), 1) == [2 * number for number in range(10)]
    until(lambda: pool._engine.ready == pool._processes)


# ---- 1 to 4: workers that die


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGBUS])
def test_a_killed_worker_fails_only_the_call_it_was_running(pool: MakePool, number: signal.Signals) -> None:
    p = pool(2)
    until(lambda: p._engine.ready == 2)
    good = p.apply_async(nap, (0.3, "good"))
    with pytest.raises(WorkerLost) as caught:
        p.apply(helpers.die, (number,))
    assert caught.value.signal == number.name
    assert caught.value.exitcode == -number
    assert isinstance(caught.value, BrokenProcessPool)
    assert good.get(10) == "good"
    goes_on(p)


def test_a_killed_idle_worker_is_replaced_and_fails_nobody(pool: MakePool) -> None:
    p = pool(2)
    victim = p.apply(pid_of)
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in [worker.pid for worker in p._engine.workers()] and p._engine.ready == 2)
    goes_on(p)


@pytest.mark.alone
@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGKILL, "out of memory, or somebody killed it"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGABRT, "SIGABRT"),
        (signal.SIGBUS, "SIGBUS"),
    ],
)
def test_a_death_is_noticed_within_milliseconds(
    pool: MakePool, tmp_path: Path, number: signal.Signals, why: str
) -> None:
    p = pool(1)
    p.apply(double, (1,))
    result = p.apply_async(helpers.touch_and_sleep, (str(tmp_path / "pid"),))
    pid = started(tmp_path / "pid")
    begin = time.monotonic()
    os.kill(pid, number)
    with pytest.raises(WorkerLost, match=why):
        result.get(30)
    assert time.monotonic() - begin < 0.5


def test_a_death_by_want_of_memory_is_told_as_that(monkeypatch: pytest.MonkeyPatch, pool: MakePool) -> None:
    p = pool(1)
    monkeypatch.setattr(p._engine._floor.staff.killed_by_memory, "rose", lambda: True)
    with pytest.raises(WorkerLost, match="out of memory: the kernel killed it"):
        p.apply(helpers.die, (signal.SIGKILL,))


SPINS = """
import resource
from pooltable import Pool, WorkerLost

def spin():
    while True:
        pass

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
    with Pool(1, context={method!r}) as pool:
        try:
            pool.apply(spin)
        except WorkerLost as error:
            print(error)
    pool.join()
"""


def test_a_death_by_the_limit_of_cpu_time_is_told_as_that(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SPINS.format(method=method))
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment(), timeout=50, check=False
    )
    assert "SIGKILL" in ran.stdout
    assert "it used up its CPU time, which is limited to 2 s" in ran.stdout


def test_a_pool_that_could_not_be_made_is_quiet_when_it_is_dropped() -> None:
    wrong: list[dict[str, Any]] = [{"nonsense": 1}, {"time_limit": -1}, {"processes": "two"}]
    for options in wrong:
        with pytest.raises((TypeError, ValueError)):
            Pool(**options)
    gc.collect()  # what is raised by __del__ becomes an error of this test


def test_a_segfault_leaves_its_stack_on_stderr(pool: MakePool, capfd: pytest.CaptureFixture[str], method: str) -> None:
    p = pool(1)
    with pytest.raises(WorkerLost, match=r"SIGSEGV.*a crash in native code") as caught:
        p.apply(helpers.segfault)
    assert caught.value.exitcode == -signal.SIGSEGV
    if method == "fork":  # the others inherited the descriptors of the fork server, or of the first test
        assert "Segmentation fault" in capfd.readouterr().err
    goes_on(p)


@pytest.mark.parametrize("code", [0, 3])
def test_exit_in_a_call_is_no_success(pool: MakePool, code: int) -> None:
    p = pool(2)
    with pytest.raises(WorkerLost, match=f"exit code {code}.*the call ended its process"):
        p.apply(helpers.exit_with, (code,))
    goes_on(p)


def test_calls_that_were_waiting_when_a_worker_died_are_run(pool: MakePool) -> None:
    p = pool(1)
    bad = p.apply_async(helpers.exit_with, (1,))
    rest = [p.apply_async(double, (number,)) for number in range(100)]
    assert [result.get(10) for result in rest] == [2 * number for number in range(100)]
    with pytest.raises(WorkerLost):
        bad.get(10)


def test_in_a_batch_of_short_calls_a_death_costs_one(pool: MakePool) -> None:
    p = pool(2)
    p.map(double, range(100), 1)  # now the pace of `double` is known
    results = [p.apply_async(helpers.double, (number,)) for number in range(2000)]
    results.insert(1000, p.apply_async(helpers.exit_with, (7,)))
    rest = [p.apply_async(helpers.double, (number,)) for number in range(2000)]
    lost = 0
    for position, result in enumerate([*results, *rest]):
        try:
            result.get(20)
        except WorkerLost:
            lost += 1
            assert position == 1000
    assert lost == 1


def test_a_worker_that_dies_while_it_pickles_its_result_is_lost(pool: MakePool) -> None:
    p = pool(1)
    with pytest.raises(WorkerLost):
        p.apply(helpers.give_what_dies_while_pickled)
    goes_on(p)


# ---- 5: exceptions that are none


@pytest.mark.any_start_method
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_what_is_no_exception_is_a_remote_error_and_the_worker_stays(
    pool: MakePool, error: type[BaseException]
) -> None:
    p = pool(1)
    before = p.apply(pid_of)
    with pytest.raises(RemoteError) as caught:
        p.apply(helpers.raise_, (error, "why"))
    assert caught.value.type_name == error.__name__
    assert "why" in caught.value.message
    assert "raise error(*args)" in caught.value.traceback
    assert p.apply(pid_of) == before


@pytest.mark.any_start_method
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_from_an_executor_what_is_no_exception_comes_as_itself(
    executor: MakeExecutor, error: type[BaseException]
) -> None:
    e = executor(1)
    assert isinstance(e.submit(helpers.raise_, error, "why").exception(10), error)
    assert e.submit(double, 2).result(10) == 4


def test_a_memory_error_recycles_the_worker(pool: MakePool) -> None:
    p = pool(1)
    before = p.apply(pid_of)
    with pytest.raises(MemoryError):
        p.apply(helpers.raise_, (MemoryError,))
    assert p.apply(pid_of) != before


def test_a_recursion_error_is_told_and_the_worker_stays(pool: MakePool) -> None:
    p = pool(1)
    before = p.apply(pid_of)
    with pytest.raises(RecursionError):
        p.apply(helpers.recurse)
    assert p.apply(pid_of) == before


# ---- 6: time limits


def test_a_call_over_its_time_limit_is_ended(pool: MakePool) -> None:
    p = pool(2, time_limit=0.3)
    p._engine._floor.staff.grace = 60
    until(lambda: p._engine.ready == 2)
    good = p.apply_async(double, (4,))
    begin = time.monotonic()
    with pytest.raises(TimeLimitExceeded, match=r"0\.3 s"):
        p.apply(nap, (60,))
    assert time.monotonic() - begin < 30
    assert good.get(10) == 8
    goes_on(p)


@pytest.mark.any_start_method
def test_calls_that_end_in_time_are_not_remembered_for_as_long_as_they_might_have_taken(pool: MakePool) -> None:
    p = pool(2, time_limit=3600)
    assert sum(p.imap_unordered(helpers.double, range(1000))) == 999_000
    assert len(p._engine._floor.alarms) < 20
    # A shorter limit counts at once, and a longer one after it does not make it longer.
    with pytest.raises(TimeLimitExceeded):
        p.apply_async(nap, (60,), time_limit=0.3).get(10)
    assert p.apply_async(nap, (0.6, "in time"), time_limit=60).get(10) == "in time"


@pytest.mark.any_start_method
def test_a_time_limit_holds_for_each_item_of_a_map(pool: MakePool) -> None:
    p = pool(2, time_limit=1.5)
    p.map(double, range(4))
    assert p.map(nap, [0.3] * 12) == [None] * 12  # 1.8 s of work for each worker
    with pytest.raises(TimeLimitExceeded):
        p.map(nap, [0.01, 60.0, 0.01])
    goes_on(p)


@pytest.mark.any_start_method
def test_a_call_can_have_a_limit_of_its_own(pool: MakePool) -> None:
    p = pool(1)
    assert p.apply_async(nap, (0.1, "in time"), time_limit=5).get(10) == "in time"
    with pytest.raises(TimeLimitExceeded):
        p.apply_async(nap, (60,), time_limit=0.2).get(10)


def test_a_call_deep_in_c_that_ignores_sigterm_is_killed_after_the_grace(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    p._engine._floor.staff.grace = 0.3
    p.apply(double, (1,))  # so that the limit is not spent on imports
    result = p.apply_async(helpers.ignore_sigterm_in_c, (str(tmp_path / "pid"),), time_limit=1.5)
    pid = started(tmp_path / "pid")
    with pytest.raises(TimeLimitExceeded):
        result.get(30)
    assert not alive(pid)
    goes_on(p)


def test_a_time_limit_dumps_the_stacks(capfd: pytest.CaptureFixture[str]) -> None:
    with Pool(1, context="fork", time_limit=0.2) as p, pytest.raises(TimeLimitExceeded):
        p.apply(nap, (60,))
    p.join()
    assert re.search(r'File ".*helpers\.py", line \d+ in nap', capfd.readouterr().err)


# ---- 7: children of calls


@pytest.mark.parametrize("then", ["die", "sleep"])
def test_children_of_a_call_end_with_its_worker_and_do_not_hide_its_death(
    pool: MakePool, tmp_path: Path, then: str
) -> None:
    p = pool(1)
    result = p.apply_async(helpers.start_children, (str(tmp_path / "pids"), then))
    pids = [int(pid) for pid in until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text()).split()]
    if then == "sleep":
        assert result.cancel(kill=True)
        with pytest.raises(CancelledError):
            result.get(10)
    else:
        with pytest.raises(WorkerLost):
            result.get(10)
    until(lambda: not any(alive(pid) for pid in pids))
    goes_on(p)


# ---- 8 to 10: workers that cannot start


def test_a_process_that_cannot_be_made_is_tried_again(pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    from pooltable.pool import process

    fails = [True]
    start = process.start_process

    def fail(what: Any, method: str) -> None:
        if fails[0]:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        start(what, method)

    p = pool(2)
    until(lambda: p._engine.ready == 2)  # before that, nobody would be left who works, and the pool would give up
    pids = [worker.pid for worker in p._engine.workers()]
    monkeypatch.setattr(process, "start_process", fail)
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: p._engine.ready == 1)
    assert p.map(double, range(4), 1) == [0, 2, 4, 6]  # with the worker there is
    fails[0] = False
    until(lambda: p._engine.ready == 2)


def test_a_pool_for_which_no_process_can_be_made_says_so_at_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pooltable.pool import process

    made = []
    start = process.start_process

    def fail_the_third(what: Any, method: str) -> None:
        if len(made) == 0:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        start(what, method)

    monkeypatch.setattr(process, "start_process", fail_the_third)
    with pytest.raises(OSError, match="temporarily unavailable"):
        Pool(3, context=method)


def test_an_initializer_that_raises_fails_every_call_after_a_few_tries(pool: MakePool) -> None:
    p = pool(2, helpers.fail_to_start)
    results = [p.apply_async(double, (number,)) for number in range(5)]
    for result in results:
        with pytest.raises(WorkerStartError, match="no such model") as caught:
            result.get(20)
        assert "fail_to_start" in str(caught.value)
    assert isinstance(p._engine.broken, WorkerStartError)
    with pytest.raises(WorkerStartError):
        p.apply(double, (1,))
    with pytest.raises(WorkerStartError):
        list(p.imap(double, range(3)))


def test_an_executor_whose_workers_cannot_start_refuses_calls(executor: MakeExecutor) -> None:
    e = executor(2, initializer=helpers.fail_to_start)
    with pytest.raises(BrokenProcessPool):
        e.submit(double, 1).result(20)
    with pytest.raises(WorkerStartError):
        e.submit(double, 1)


def test_workers_that_die_at_the_start_end_in_a_clear_error(pool: MakePool) -> None:
    p = pool(2, helpers.die_at_start)
    with pytest.raises(WorkerStartError, match="exit code 5 before its first call"):
        p.apply(double, (1,))


def test_an_initializer_that_fails_twice_and_then_succeeds_is_no_error(pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "there"
    p = pool(1, helpers.fail_unless, (str(path),))
    result = p.apply_async(double, (2,))
    path.write_text("")
    assert result.get(20) == 4


# ---- 10: workers that die without having been of any use


def test_workers_that_die_idle_again_and_again_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(2, helpers.die_soon) as p:
        until(lambda: p._engine.broken, 40)
        # One whose start was under way at that moment counts when it is there, and is ended then.
        until(lambda: not p._engine._floor.ledger.seats)
        started_so_far = p.stats().started
        assert started_so_far <= 30
        with pytest.raises(WorkerStartError, match="before its first call"):
            p.apply(double, (1,))
        assert "no worker can be started" in caplog.text
        assert not p._engine._floor.ledger.seats
        assert p.stats().started == started_so_far
    p.join()


def test_a_worker_that_dies_idle_beside_one_that_works_is_no_reason_to_give_up() -> None:
    with Pool(2, helpers.die_soon_unless_first) as p:
        end, done = time.monotonic() + 4, 0
        while time.monotonic() < end:
            # One that is about to die may be given a call, which it then costs.
            with suppress(WorkerLost):
                assert p.apply(double, (1,)) == 2
                done += 1
        assert done
        assert p._engine.broken is None
    p.join()


def test_many_idle_workers_killed_at_once_are_replaced(pool: MakePool) -> None:
    p = pool(5)
    until(lambda: p._engine.ready == 5)
    killed = {worker.pid for worker in p._engine.workers()}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    until(lambda: p._engine.ready == 5 and not killed & {worker.pid for worker in p._engine.workers()})
    assert p.apply(double, (1,)) == 2


def test_idle_workers_killed_again_and_again_are_replaced_as_often(pool: MakePool) -> None:
    p = pool(1)
    for number in range(10):
        until(lambda: p._engine.ready == 1)
        (worker,) = p._engine.workers()
        os.kill(worker.pid, [signal.SIGKILL, signal.SIGTERM][number % 2])
        until(lambda gone=worker.pid: gone not in {one.pid for one in p._engine.workers()})
    assert p._engine.broken is None
    assert p.apply(double, (1,)) == 2


def test_terminating_without_mercy_gives_no_grace_to_a_call_that_is_being_ended(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    p._engine._floor.staff.grace = 60
    result = p.apply_async(helpers.ignore_sigterm_in_c, (str(tmp_path / "pid"),))
    pid = started(tmp_path / "pid")
    assert result.cancel(kill=True)
    p._engine.terminate(kill=True)
    assert p._engine.join(30)
    assert not alive(pid)


# ---- 13: the parent dies


PARENT = """
import os, sys, time
from multiprocessing import get_context
from pooltable import Pool
from tests.pool import helpers

if __name__ == "__main__":
    pool = Pool(3, context={method!r})
    for number in range(2):
        pool.apply_async(helpers.hold_the_lock, ({folder!r} + "/pid%d" % number,))
    pids = [worker.pid for worker in pool._engine.workers()]
    while not all(os.path.exists({folder!r} + "/pid%d" % number) for number in range(2)):
        time.sleep(0.01)
    print(*pids, flush=True)
    time.sleep(60)
"""


@pytest.mark.alone
def test_workers_die_with_a_parent_that_is_killed_even_deep_in_c(method: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(method=method, folder=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment())
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3
    assert all(map(alive, pids))
    parent.kill()
    begin = time.monotonic()
    until(lambda: not any(map(alive, pids)))
    assert time.monotonic() - begin < 2
    parent.wait()
    parent.stdout.close()


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *[entry for entry in sys.path if entry]])}


# ---- 15 and 17: mains


UNGUARDED = """
from pooltable import Pool
print("imported", flush=True)
pool = Pool(2, context={method!r})
print(pool.map(abs, [-1]))
"""


def test_a_main_without_a_guard_is_one_clear_error_and_no_fork_bomb(tmp_path: Path) -> None:
    for method in ("forkserver", "spawn"):
        script = tmp_path / f"{method}.py"
        script.write_text(UNGUARDED.format(method=method))
        ran = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, env=environment(), timeout=30, check=False
        )
        assert ran.returncode == 1
        assert ran.stdout.count("imported") <= 3
        assert f"UnguardedMain: {script}, line 4" in ran.stderr
        assert 'if __name__ == "__main__":' in ran.stderr
    assert issubclass(UnguardedMain, RuntimeError)


INTERACTIVE = """
from pooltable import Pool

model = None

def load(value):
    global model
    model = value

class Point:
    def __init__(self, x):
        self.x = x

def use(x):
    return Point(helper(x) + model)

def helper(x):
    return 10 * x

class Odd(Exception):
    pass

def fail(x):
    raise Odd(x)

pool = Pool(2, load, (5,), context={method!r})
points = pool.map(use, range(3))
print([point.x for point in points], all(type(point) is Point for point in points))

def helper(x):
    return 100 * x

print([point.x for point in pool.imap(use, range(3))])
print(pool.apply(lambda point: point.x, (Point(7),)))
print(pool.map(lambda number: number * number, range(4)))
try:
    pool.apply(fail, (1,))
except Odd as error:
    print("Odd", error)
pool.close()
pool.join()
"""


@pytest.mark.parametrize("how", ["-c", "stdin"])
def test_functions_and_classes_of_an_interactive_main_go_by_value(method: str, how: str) -> None:
    code = INTERACTIVE.format(method=method)
    command = [sys.executable, "-c", code] if how == "-c" else [sys.executable, "-"]
    ran = subprocess.run(
        command, input=code, capture_output=True, text=True, env=environment(), timeout=30, check=False
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["[5, 15, 25] True", "[5, 105, 205]", "7", "[0, 1, 4, 9]", "Odd 1"]


def test_forking_with_threads_in_the_parent_works(method: str) -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    try:
        with Pool(3, context=method) as p:
            assert p.map(double, range(20), 1) == [2 * number for number in range(20)]
        p.join()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# ---- 20 and 21: what does not pickle


@pytest.mark.any_start_method
def test_an_argument_that_does_not_pickle_fails_that_call_by_name(pool: MakePool) -> None:
    p = pool(1)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        p.apply(double, (lambda: None,))
    with pytest.raises(TypeError, match="lock"):
        p.map(double, [threading.Lock()])
    goes_on(p)


@pytest.mark.any_start_method
def test_a_result_that_does_not_pickle_fails_that_call_by_name(pool: MakePool, executor: MakeExecutor) -> None:
    p = pool(1)
    with pytest.raises(MaybeEncodingError, match="lambda"):
        p.apply(helpers.give_a_lambda)
    goes_on(p)
    e = executor(1)
    error = e.submit(helpers.give_a_lambda).exception(10)
    assert isinstance(error, (pickle.PicklingError, AttributeError))


@pytest.mark.any_start_method
def test_an_argument_that_cannot_be_loaded_fails_that_call(pool: MakePool) -> None:
    p = pool(1)
    with pytest.raises(LookupError, match="cannot be loaded"):
        p.apply(double, (helpers.LoadsBadly(),))
    goes_on(p)


@pytest.mark.any_start_method
def test_a_result_that_cannot_be_loaded_fails_that_call(pool: MakePool) -> None:
    p = pool(1)
    with pytest.raises(RemoteError, match="the result cannot be loaded here: cannot be loaded"):
        p.apply(helpers.give_what_loads_badly)
    goes_on(p)


@pytest.mark.any_start_method
@pytest.mark.parametrize(
    ("call", "args", "kind", "words"),
    [
        (helpers.raise_, (helpers.TwoArguments, 1, 2), RemoteError, "1 and 2"),
        (helpers.raise_, (helpers.Mute,), helpers.Mute, None),
        (helpers.raise_, (helpers.Unreducible, "x"), RemoteError, "Unreducible: x"),
        (helpers.raise_huge, (), ValueError, "xxx"),
        (helpers.raise_chain, (1000,), ValueError, "999"),
    ],
)
def test_exceptions_of_every_sort_arrive(
    pool: MakePool, call: Callable[..., object], args: tuple[Any, ...], kind: type[Exception], words: str | None
) -> None:
    p = pool(1)
    with pytest.raises(kind) as caught:
        p.apply(call, args)
    if words:
        assert words in str(caught.value)
    goes_on(p)


@pytest.mark.any_start_method
def test_an_exception_has_the_remote_traceback_as_its_cause(pool: MakePool, executor: MakeExecutor) -> None:
    from concurrent.futures.process import _RemoteTraceback  # type: ignore[attr-defined]
    from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]

    with pytest.raises(ZeroDivisionError) as caught:
        pool(1).apply(helpers.raise_, (ZeroDivisionError, "x"))
    assert type(caught.value.__cause__) is RemoteTraceback
    assert "raise error(*args)" in str(caught.value.__cause__)
    assert "worker.py" not in str(caught.value.__cause__)
    error = executor(1).submit(helpers.raise_, ZeroDivisionError).exception(10)
    assert error is not None
    assert type(error.__cause__) is _RemoteTraceback


def interrupt() -> Any:
    raise KeyboardInterrupt("not by any person")


class Interrupting:
    def __reduce__(self) -> Any:
        return interrupt, ()


class InterruptingError(Exception):
    def __reduce__(self) -> Any:
        return interrupt, ()


class Leaving:
    def __reduce__(self) -> Any:
        return leave, ()


def leave() -> Any:
    import asyncio

    raise asyncio.CancelledError


@pytest.mark.any_start_method
@pytest.mark.parametrize(
    ("call", "args", "words"),
    [
        (Interrupting, (), "the result cannot be loaded here: not by any person"),
        (Leaving, (), "CancelledError: the result cannot be loaded here"),
        (helpers.raise_, (InterruptingError, "its message"), "InterruptingError: its message"),
    ],
)
def test_what_ends_a_program_when_it_is_rebuilt_is_an_error_of_its_call(
    pool: MakePool, executor: MakeExecutor, call: Callable[..., object], args: tuple[Any, ...], words: str
) -> None:
    p = pool(1)
    waits: list[Callable[[], object]] = [
        lambda: p.apply(call, args),
        lambda: p.starmap(call, [args]),
        lambda: executor(1).submit(call, *args).result(20),
    ]
    for wait in waits:
        with pytest.raises(RemoteError) as caught:
            wait()
        assert words in str(caught.value)
    told: list[object] = []
    p.apply_async(call, args, callback=told.append, error_callback=told.append).wait(20)
    assert isinstance(told[0], RemoteError)
    goes_on(p)


class PressingCtrlC:
    """What happens while it is rebuilt: somebody presses Ctrl-C."""

    def __reduce__(self) -> Any:
        return signal.raise_signal, (signal.SIGINT,)


def own_handler(number: int, frame: object) -> None:
    raise KeyboardInterrupt("by the program's own handler")


@pytest.mark.parametrize("handler", [signal.default_int_handler, own_handler, functools.partial(own_handler)])
def test_ctrl_c_while_a_result_is_rebuilt_is_still_heard(pool: MakePool, handler: Callable[..., Any]) -> None:
    p = pool(1)
    result = p.apply_async(PressingCtrlC)
    result.wait(20)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            result.get(20)
    finally:
        signal.signal(signal.SIGINT, before)
    goes_on(p)


# ---- 23 to 25


def big_then_die(size: int) -> bytes:
    threading.Timer(0.05, os._exit, (1,)).start()
    return b"x" * size


def test_a_worker_that_dies_in_the_middle_of_a_message_is_lost(pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    p = pool(1)
    p.apply(double, (1,))
    floor = p._engine._floor
    with floor.lock:  # the parent does not read, so that the worker is stuck half-way
        result = p.apply_async(big_then_die, (1 << 28,))
        read = floor.hearing._read
        monkeypatch.setattr(floor.hearing, "_read", lambda worker: False)
        time.sleep(0.5)
        monkeypatch.setattr(floor.hearing, "_read", read)
    with pytest.raises(WorkerLost):
        result.get(20)
    goes_on(p)


def test_a_parent_that_is_slow_to_take_results_holds_bounded_memory(method: str) -> None:
    with Pool(2, context=method) as p:
        iterator = p.imap(bytes, [1 << 20] * 1000)
        time.sleep(1.0)
        stream = iterator._stream
        assert stream.bytes_received - stream.bytes_taken < 100 << 20
        assert stream.sent < 200
        for count, value in enumerate(iterator):
            assert len(value) == 1 << 20
            if count == 300:
                break
        del iterator, value
    p.join()


def test_a_call_that_closes_every_descriptor_is_lost_and_writes_into_no_file(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    with pytest.raises(WorkerLost):
        p.apply(helpers.close_all_descriptors, (str(tmp_path / "file"),))
    assert (tmp_path / "file").read_bytes() == b""
    goes_on(p)


def test_a_call_that_closes_the_standard_descriptors_is_nothing_special(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    assert p.apply(helpers.close_standard_descriptors, (str(tmp_path / "file"),)) == "done"
    goes_on(p)


def test_a_call_may_disturb_its_process(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    assert p.apply(helpers.disturb, (str(tmp_path),)) == "disturbed"
    assert p.apply(helpers.read_terminal) == "no terminal"
    assert p.apply(bytes, (1 << 20,)) == bytes(1 << 20)
    goes_on(p)


# ---- 28: callbacks


@pytest.mark.any_start_method
def test_a_callback_that_raises_or_sleeps_delays_no_other_result(
    pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    p = pool(2)
    release = threading.Event()
    entered = threading.Event()

    def block(_: object) -> None:
        entered.set()
        release.wait(50)

    def explode(_: object) -> None:
        raise RuntimeError("callback")

    assert p.apply_async(double, (1,), callback=explode).get(10) == 2
    p.apply_async(double, (2,), callback=block)
    assert entered.wait(10)
    assert p.apply_async(double, (3,)).get(25) == 6
    called: list[int] = []
    late = p.apply_async(double, (4,), callback=called.append)
    assert late.get(10) == 8  # without waiting for the callback that blocks
    assert not called
    release.set()
    until(lambda: called == [8])
    assert "a callback raised" in caplog.text
    assert p._callbacks.failures == 1


# ---- pools in calls, the end of the program


def test_a_pool_inside_a_call_works(pool: MakePool) -> None:
    # The fork server that the program has by now is no child of a forked worker.
    with Pool(1, context="forkserver") as other:
        other.apply(double, (1,))
    other.join()
    assert pool(2).map(helpers.pool_inside, [3, 4], 1) == [[0, 2, 4], [0, 2, 4, 6]]


AT_EXIT = """
import os, sys, time
from pooltable import Pool, PoolExecutor
from tests.pool import helpers

if __name__ == "__main__":
    if sys.argv[1] == "pool":
        pool = Pool(2, context={method!r})
        pool.apply(helpers.double, (1,))
        pool.apply_async(time.sleep, (60,))
        print(*[worker.pid for worker in pool._engine.workers()], flush=True)
    else:
        executor = PoolExecutor(2, {method!r})
        futures = [executor.submit(helpers.nap, 0.3, "waited") for _ in range(4)]
        futures[-1].add_done_callback(lambda future: print(future.result(), flush=True))
"""


@pytest.mark.parametrize("kind", ["pool", "executor"])
def test_the_end_of_the_program_ends_a_pool_and_waits_for_an_executor(method: str, tmp_path: Path, kind: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(AT_EXIT.format(method=method))
    ran = subprocess.run(
        [sys.executable, script, kind], capture_output=True, text=True, env=environment(), timeout=50, check=False
    )
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr
    if kind == "pool":
        until(lambda: not any(alive(int(pid)) for pid in ran.stdout.split()))
    else:
        assert ran.stdout == "waited\n"


def test_a_forked_child_of_the_parent_keeps_no_worker_alive(method: str) -> None:
    p = Pool(1, context=method)
    pid = p.apply(pid_of)
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        p.terminate()
        p.join()
        until(lambda: not alive(pid))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_engine_that_is_dropped_takes_its_workers_along(method: str) -> None:
    from pooltable.pool.local import LocalEngine

    engine = LocalEngine(2, context=method)
    engine.start_here(2)
    pids = [worker.pid for worker in engine.workers()]
    assert len(pids) == 2
    del engine
    until(lambda: not any(map(alive, pids)))


def test_start_methods_are_those_of_the_standard_library(method: str) -> None:
    with Pool(1, context=multiprocessing.get_context(method)) as p:
        assert p.apply(helpers.start_method) == method
    p.join()
    with pytest.raises(ValueError, match="cannot find context"):
        Pool(1, context="teleport")
