"""How much, how fast, and when to stop."""

from __future__ import annotations

import pytest

from pooltable.pace import Burst, Ladder, Pulse, Room, Step


def room(row_seconds: float, claim_seconds: float = 0.001) -> Room:
    room = Room()
    room.saw_claim(claim_seconds)
    for _ in range(50):
        room.saw_rows(100, 100 * row_seconds)
    return room


def test_until_a_row_was_seen_each_worker_holds_one():
    assert Room().free(workers=4, held=0) == 4


@pytest.mark.parametrize(
    ("row_seconds", "rows"),
    [(3600, 1), (1.0, 1), (0.21, 1), (0.15, 2), (0.05, 2), (0.01, 6), (0.001, 51), (0.0000001, Room.MOST_ROWS)],
)
def test_ahead_of_a_running_row_wait_fifty_milliseconds_of_work(row_seconds, rows):
    assert room(row_seconds).per_worker() == rows


def test_a_slow_database_has_more_rows_claimed_ahead():
    slow = room(row_seconds=0.05)
    for _ in range(50):
        slow.saw_claim(1.0)
    assert slow.per_worker() == 21


@pytest.mark.parametrize(("row_seconds", "rows"), [(None, 64), (1.0, 64), (0.001, 64), (0.0005, 128), (1e-9, 992)])
def test_with_batches_whole_ones_are_held_and_at_least_one_waits(row_seconds, rows):
    batches = Room(batch=32)
    if row_seconds is not None:
        batches.saw_rows(1000, 1000 * row_seconds)
    assert batches.per_worker() == rows
    assert Room(batch=5000).per_worker() == 10_000


def test_what_is_held_counts_against_the_room_and_never_makes_it_negative():
    fast = room(0.01)
    assert fast.free(workers=2, held=5) == 7
    assert fast.free(workers=1, held=100) == 0


def test_no_ready_worker_means_no_room():
    assert room(0.001).free(workers=0, held=0) == 0


def test_big_rows_are_bounded_in_bytes_but_each_worker_gets_one():
    big = room(0.0001)
    big.saw_bytes(1, 8 * 2**20)
    assert big.free(workers=2, held=0) == 8
    big.saw_bytes(1, 2**30)
    assert big.free(workers=2, held=0) == 2


def test_a_burst_is_so_many_failures_of_one_kind_in_a_row():
    burst = Burst(3)
    assert [burst.saw("A"), burst.saw("A"), burst.saw("A")] == [False, False, True]


@pytest.mark.parametrize("between", ["", "B"])
def test_a_success_or_another_failure_in_between_ends_a_burst(between):
    burst = Burst(3)
    assert not any(burst.saw(kind) for kind in ("A", "A", between, "A", "A"))
    assert burst.saw("A")


def test_a_burst_limit_of_zero_never_halts():
    burst = Burst(0)
    assert not any(burst.saw("A") for _ in range(1000))


def test_each_request_is_one_step_down_and_never_up():
    ladder = Ladder(grace=8)
    assert ladder.look(0, now=0) is Step.RUN
    assert ladder.look(1, now=1) is Step.DRAIN
    assert ladder.look(2, now=2) is Step.NOW
    assert ladder.look(1, now=3) is Step.NOW
    assert ladder.look(9, now=4) is Step.LEAVE


def test_the_grace_period_takes_the_second_step_by_itself():
    ladder = Ladder(grace=8)
    ladder.look(1, now=100)
    assert ladder.seconds_left(now=103) == 5
    assert ladder.look(1, now=107.9) is Step.DRAIN
    assert ladder.look(1, now=108) is Step.NOW
    assert ladder.seconds_left(now=109) is None


def test_looks_for_new_rows_are_quick_after_work_and_slow_down_to_the_poll():
    pulse = Pulse(poll=1.0)
    assert [pulse.saw_nothing() for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    pulse.saw_work()
    assert pulse.saw_nothing() == 0.05


def test_a_poll_shorter_than_the_quickest_look_is_kept():
    assert Pulse(poll=0.01).saw_nothing() == 0.01
