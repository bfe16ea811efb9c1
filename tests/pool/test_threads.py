"""How many threads a worker owns, and what is said when it runs more."""

from __future__ import annotations

import hashlib
import os
import threading
import time

import pytest

from pooltable.events import Event, ThreadsLeft, TooManyThreads
from pooltable.pool.local import LocalEngine
from tests.pool import helpers
from tests.pool.conftest import MakePool
from tests.pool.helpers import alive, double, until


def burn(seconds: float, threads: int) -> None:
    """Keeps so many threads busy, none of which needs the interpreter."""
    end = time.monotonic() + seconds

    def hash_on() -> None:
        while time.monotonic() < end:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10_000)

    others = [threading.Thread(target=hash_on, name=f"hasher-{number}") for number in range(threads - 1)]
    for thread in others:
        thread.start()
    hash_on()
    for thread in others:
        thread.join()


class Told:
    def heard(self, record: object, worker: int | None, pid: int | None) -> None:
        pass


def test_a_worker_that_runs_more_threads_than_it_owns_is_reported_once() -> None:
    events: list[Event] = []
    engine = LocalEngine(1, threads=2, listener=events.append)
    for _ in range(6):
        engine.submit(burn, (0.3, 2), None, Told())
    until(lambda: engine.stats().ended == 6, 30)
    assert not [event for event in events if isinstance(event, TooManyThreads)]
    for _ in range(100):
        engine.submit(burn_and_stay, (0.2, 3), None, Told())
    reports = until(lambda: [event for event in events if isinstance(event, TooManyThreads)], 30)
    engine.terminate()
    assert engine.join(20)
    assert [(report.worker, report.threads, report.owned, report.names) for report in reports] == [
        (0, 3, 2, (("hasher", 2),))
    ]
    assert "worker 0 runs 3 threads and owns 2 (hasher 2)" in str(reports[0])


_staying: list[threading.Thread] = []


def burn_and_stay(seconds: float, threads: int) -> None:
    """The same with threads that live on, as those of a library do."""
    if not _staying:
        for number in range(threads - 1):
            _staying.append(threading.Thread(target=burn, args=(3600, 1), name=f"hasher-{number}", daemon=True))
            _staying[-1].start()
    burn(seconds, 1)


def test_threads_of_a_library_are_reported_by_its_name() -> None:
    pytest.importorskip("numpy")
    events: list[Event] = []
    engine = LocalEngine(1, threads=1, initializer=let_numpy_have, initargs=(2,), listener=events.append)
    for _ in range(40):
        engine.submit(multiply, (0.2,), None, Told())
    (report,) = until(lambda: [event for event in events if isinstance(event, TooManyThreads)], 30)
    engine.terminate()
    assert engine.join(20)
    assert report.threads == 2
    assert "openblas" in report.names[0][0]


def let_numpy_have(threads: int) -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    __import__("numpy")


def multiply(seconds: float) -> None:
    import numpy

    end = time.monotonic() + seconds
    matrix = numpy.ones((400, 400))
    while time.monotonic() < end:
        matrix @ matrix


# ---- threads that outlive their worker


def test_a_worker_that_is_let_go_while_a_thread_runs_is_ended_soon_and_that_is_told_once(method: str) -> None:
    events: list[Event] = []
    engine = LocalEngine(2, context=method, listener=events.append)
    engine.start_here(2)
    until(lambda: engine.ready == 2)
    for name in ("uploader", "logger"):
        engine.submit(helpers.leave_a_thread, (name,), None, Told())
    until(lambda: engine.stats().ended == 2)
    began = time.monotonic()
    engine.close()
    assert engine.join(20)
    assert 1.5 < time.monotonic() - began < 15
    (told,) = [event for event in events if isinstance(event, ThreadsLeft)]
    assert set(told.names) <= {"uploader", "logger"}
    assert "threads of a task still ran" in str(told)


def test_a_thread_that_ends_when_python_asks_for_it_delays_nothing(method: str) -> None:
    events: list[Event] = []
    engine = LocalEngine(1, context=method, listener=events.append)
    engine.submit(helpers.leave_an_executor, (), None, Told())
    until(lambda: engine.stats().ended == 1)
    engine.close()
    assert engine.join(20)
    assert not [event for event in events if isinstance(event, ThreadsLeft)]


def test_what_a_worker_has_not_begun_when_it_leaves_goes_elsewhere_before_it_is_gone(pool: MakePool) -> None:
    p = pool(2)
    p.map(double, range(100), 1)  # now the pace of `double` is known
    p.apply(helpers.leave_a_thread_sometimes, (False,))
    results = [p.apply_async(helpers.leave_a_thread_sometimes, (number == 100,)) for number in range(400)]
    pids = {result.get(20) for result in results}
    leaving = results[100].get()
    assert alive(leaving)
    assert len(pids) >= 2
    until(lambda: not alive(leaving), 15)
