"""Short calls travel in batches, and nobody suffers from it: neither from a slow call nor from a death among them."""

from __future__ import annotations

from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from pooltable import WorkerLost
from tests.pool import helpers
from tests.pool.calls import append_or_sleep, number_once
from tests.pool.conftest import MakePool
from tests.pool.helpers import double, started, until


@pytest.mark.any_start_method
def test_a_slow_call_among_short_ones_holds_up_none_of_them(pool: MakePool, tmp_path: Path) -> None:
    p = pool(2)
    p.map(double, range(100), 1)
    for slow in (0, 50, 550):
        gate = tmp_path / f"gate{slow}"
        given = [(number, str(gate) if number == slow else "") for number in range(1000)]
        seen = p.imap_unordered(number_once, given)
        short = [seen.next(30) for _ in range(999)]
        gate.touch()
        assert list(seen) == [slow]
        assert sorted([*short, slow]) == list(range(1000))


@pytest.mark.any_start_method
def test_no_short_call_waits_while_a_worker_is_idle(pool: MakePool, tmp_path: Path) -> None:
    p = pool(2)
    p.map(number_once, [(number, "") for number in range(10)], 1)
    for turn in range(3):
        gate = tmp_path / f"gate{turn}"
        slow = p.apply_async(number_once, ((turn, str(gate)),))
        short = [p.apply_async(number_once, ((number, ""),)) for number in range(40)]
        assert [result.get(30) for result in short] == list(range(40))
        assert not slow.ready()
        gate.touch()
        assert slow.get(30) == turn


@pytest.mark.any_start_method
def test_a_result_before_a_long_call_of_its_batch_is_not_held_up(pool: MakePool, tmp_path: Path) -> None:
    p = pool(1)
    p.map(number_once, [(number, "") for number in range(200)], 1)  # known to be short
    gate = tmp_path / "gate"
    results = [p.apply_async(number_once, ((number, ""),)) for number in range(100)]
    long_one = p.apply_async(number_once, ((100, str(gate)),))
    assert [result.get(30) for result in results] == list(range(100))
    assert not long_one.ready()
    gate.touch()
    assert long_one.get(30) == 100


@pytest.mark.any_start_method
def test_results_of_a_batch_are_kept_when_a_later_call_of_it_is_killed(pool: MakePool) -> None:
    for _ in range(5):
        p = pool(1)
        p.map(double, range(200), 1)
        results = [p.apply_async(double, (number,)) for number in range(100)]
        bad = p.apply_async(helpers.exit_with, (3,))
        rest = [p.apply_async(double, (number,)) for number in range(100)]
        assert [result.get(10) for result in results + rest] == [2 * number for number in range(100)] * 2
        with pytest.raises(WorkerLost):
            bad.get(10)
        p.terminate()


@pytest.mark.any_start_method
def test_calls_behind_a_long_one_go_to_a_worker_that_comes_later(pool: MakePool, tmp_path: Path) -> None:
    p = pool(2, min_processes=1)
    p.map(number_once, [(number, "") for number in range(100)], 1)
    until(lambda: len(p._engine.workers()) >= 1)
    gate = tmp_path / "gate"
    long_one = p.apply_async(number_once, ((100, str(gate)),))
    short = [p.apply_async(number_once, ((number, ""),)) for number in range(50)]
    assert [result.get(30) for result in short] == list(range(50))
    assert not long_one.ready()
    gate.touch()
    assert long_one.get(30) == 100


@pytest.mark.any_start_method
def test_each_call_of_a_batch_runs_exactly_once(pool: MakePool, tmp_path: Path) -> None:
    p = pool(2)
    path = tmp_path / "ran"
    places = [(str(path), number) for number in range(3000)]
    results = [p.apply_async(append_or_sleep, place) for place in places]
    for result in results:
        result.get(30)
    ran = sorted(int(line) for line in path.read_text().split())
    assert ran == list(range(3000))


@pytest.mark.any_start_method
def test_a_cancelled_call_of_a_batch_never_runs(pool: MakePool, tmp_path: Path) -> None:
    p = pool(2)
    path = tmp_path / "ran"
    p.map(double, range(100), 1)
    blockers = [p.apply_async(helpers.touch_and_sleep, (str(tmp_path / f"pid{n}"), 0.5)) for n in range(2)]
    results = [p.apply_async(append_or_sleep, (str(path), number)) for number in range(1, 200)]
    for n in range(2):
        started(tmp_path / f"pid{n}")
    dropped = [number for number, result in enumerate(results, 1) if number % 3 == 0 and result.cancel()]
    assert len(dropped) == 66
    for number, result in enumerate(results, 1):
        if number in dropped:
            with pytest.raises(CancelledError):
                result.get(10)
        else:
            result.get(10)
    for blocker in blockers:
        blocker.get(10)
    assert sorted(int(line) for line in path.read_text().split()) == [n for n in range(1, 200) if n % 3]
