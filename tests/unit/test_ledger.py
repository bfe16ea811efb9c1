"""The ledger, told what happened and asked what to do."""

from __future__ import annotations

import pytest

from pooltable.pool.ledger import LEAVING, TRIES, Ledger, Seat


def ledger_with(workers: int, *, pace: float | None = None, lifetime: int | None = None) -> tuple[Ledger, list[Seat]]:
    """A ledger with so many idle workers, and function 0 known to take `pace` seconds."""
    ledger = Ledger(workers, lifetime=lifetime)
    seats = [ledger.seat_new() for _ in range(workers)]
    for seat in seats:
        ledger.became_ready(seat)
        ledger.became_idle(seat)
    if pace is not None:
        ledger.note_pace(0, pace)
    return ledger, seats


def accept(ledger: Ledger, count: int = 1, *, limit: float | None = None, size: int = 10) -> list[int]:
    """So many calls that wait."""
    return [ledger.accept(None, 0, b"x" * size, limit) for _ in range(count)]


def batch(ledger: Ledger, seat: Seat) -> list[int]:
    return list(ledger.next_batch(seat))


def waiting(ledger: Ledger) -> list[int]:
    return [number for number, _, _ in ledger.waiting]


def answer(ledger: Ledger, seat: Seat, *numbers: int) -> None:
    for number in numbers:
        del ledger.calls[number]
    seat.answered += len(numbers)


# ---- who gets what


def test_a_call_is_with_the_worker_that_it_was_sent_to_and_that_is_idle_no_more() -> None:
    ledger, (seat,) = ledger_with(1)
    number = ledger.accept(None, 0, b"")
    assert ledger.is_waiting(number)
    assert batch(ledger, seat) == [number]
    assert ledger.holder(number) is seat
    assert not ledger.idle
    assert not ledger.waiting


def test_the_worker_that_became_idle_last_is_taken_first() -> None:
    ledger, (first, second, _) = ledger_with(3)
    del ledger.idle[first.index], ledger.idle[second.index]
    ledger.became_idle(first)
    ledger.became_idle(second)
    assert ledger.warmest() is second


def test_calls_wait_one_behind_the_other() -> None:
    ledger, (seat,) = ledger_with(1)
    accept(ledger, 2)
    assert waiting(ledger) == [1, 2]
    assert batch(ledger, seat) == [1]
    accept(ledger)
    assert waiting(ledger) == [2, 3]


def test_a_function_whose_pace_is_unknown_is_sent_alone_and_not_ahead() -> None:
    ledger, (seat,) = ledger_with(1)
    accept(ledger, 10)
    assert batch(ledger, seat) == [1]
    assert not seat.tokened
    assert batch(ledger, seat) == []


def test_short_calls_travel_in_batches_of_two_milliseconds_and_one_batch_ahead() -> None:
    ledger, (seat,) = ledger_with(1, pace=0.000198)
    accept(ledger, 1000)
    assert len(batch(ledger, seat)) == 10
    assert seat.tokened
    assert len(batch(ledger, seat)) == 10
    assert batch(ledger, seat) == []
    answer(ledger, seat, *range(1, 11))
    ledger.batch_ended(seat, 0)
    assert batch(ledger, seat) == list(range(21, 31))


def test_calls_of_some_milliseconds_are_sent_one_ahead_and_longer_ones_are_not() -> None:
    ledger, (seat,) = ledger_with(1, pace=0.005)
    accept(ledger, 10)
    assert (batch(ledger, seat), batch(ledger, seat), batch(ledger, seat)) == ([1], [2], [])
    ledger, (seat,) = ledger_with(1, pace=0.05)
    accept(ledger, 10)
    assert (batch(ledger, seat), batch(ledger, seat)) == ([1], [])


def test_few_calls_are_shared_out_rather_than_sent_to_one_worker() -> None:
    ledger, seats = ledger_with(2, pace=0.00001)
    accept(ledger, 4)
    assert [batch(ledger, seat) for seat in seats] == [[1, 2], [3]]


def test_nothing_is_sent_ahead_while_somebody_is_idle() -> None:
    ledger, (busy, _) = ledger_with(2, pace=0.000198)
    accept(ledger, 100)
    batch(ledger, busy)
    assert batch(ledger, busy) == []


def test_a_batch_is_bounded_in_bytes_but_a_large_call_is_sent_all_the_same() -> None:
    ledger, (seat,) = ledger_with(1, pace=0.00001)
    accept(ledger, 100, size=20_000)
    assert len(batch(ledger, seat)) == 3
    ledger, (seat,) = ledger_with(1, pace=0.00001)
    accept(ledger, 3, size=1_000_000)
    assert batch(ledger, seat) == [1]
    assert batch(ledger, seat) == []  # not ahead


def test_a_call_with_a_time_limit_goes_alone_to_an_idle_worker() -> None:
    ledger, (seat,) = ledger_with(1, pace=0.00001)
    accept(ledger, 3, limit=5.0)
    assert batch(ledger, seat) == [1]
    assert batch(ledger, seat) == []


def test_one_slow_call_among_many_fast_ones_does_not_make_the_function_slow() -> None:
    ledger, _ = ledger_with(1, pace=0.00001)
    ledger.note_pace(0, 10.0)
    assert ledger.pace[0] < 0.0001
    for _ in range(50):
        ledger.note_pace(0, 10.0)
    assert ledger.pace[0] > 1.0


# ---- cancelled, recalled


def test_a_cancelled_call_is_skipped_where_it_waits() -> None:
    ledger, (seat,) = ledger_with(1)
    accept(ledger, 3)
    assert ledger.is_waiting(1)
    del ledger.calls[1]
    assert not ledger.is_waiting(1)
    assert batch(ledger, seat) == [2]
    assert not ledger.is_waiting(2)
    assert ledger.holder(2) is seat


def test_recalled_calls_wait_before_all_others_and_in_order() -> None:
    ledger, (seat,) = ledger_with(1, pace=0.000198)
    accept(ledger, 1000)
    batch(ledger, seat)
    assert [ledger.recall(seat) for _ in range(3)] == [10, 9, 8]
    assert waiting(ledger)[:4] == [8, 9, 10, 11]
    assert [number for number in range(1, 11) if seat.has(number)] == list(range(1, 8))


def test_after_a_recall_nothing_is_sent_to_the_worker_until_it_has_said_what_it_dropped() -> None:
    # Else a new call's token would be spent on a recalled one, which would run twice.
    ledger, (seat,) = ledger_with(1, pace=0.000198)
    accept(ledger, 1000)
    batch(ledger, seat)
    batch(ledger, seat)
    for _ in range(12):
        ledger.recall(seat)
    answer(ledger, seat, *range(1, 9))
    ledger.batch_ended(seat, 2)
    assert batch(ledger, seat) == []
    ledger.batch_ended(seat, 10)
    assert batch(ledger, seat)[0] == 9


# ---- deaths


def test_a_dead_worker_fails_only_the_call_it_was_running() -> None:
    ledger, (seat,) = ledger_with(1, pace=0.000198)
    accept(ledger, 12)
    sent = batch(ledger, seat)
    answer(ledger, seat, 1, 2)
    death = ledger.gone(seat, started=3)
    assert death.lost == 3
    assert not death.useless
    assert waiting(ledger) == list(range(4, 13))
    assert len(sent) > 3


def test_a_worker_that_dies_between_two_calls_fails_none() -> None:
    ledger, (seat,) = ledger_with(1, pace=0.000198)
    accept(ledger, 10)
    batch(ledger, seat)
    answer(ledger, seat, 1)
    assert ledger.gone(seat, started=1).lost is None
    assert waiting(ledger)[0] == 2


def test_a_worker_that_dies_before_it_did_anything_is_useless() -> None:
    ledger, (seat,) = ledger_with(1)
    assert ledger.gone(seat, started=0).useless
    ledger, (seat,) = ledger_with(1)
    accept(ledger)
    batch(ledger, seat)
    assert not ledger.gone(seat, started=1).useless


def test_a_call_that_was_given_an_error_is_not_lost_again() -> None:
    ledger, (seat,) = ledger_with(1)
    accept(ledger, 2)
    batch(ledger, seat)
    ledger.calls.clear()
    ledger.waiting.clear()
    assert ledger.gone(seat, started=1).lost is None
    assert not ledger.waiting


# ---- how many workers


def test_one_worker_is_started_per_waiting_call_up_to_the_size() -> None:
    ledger = Ledger(3)
    assert ledger.missing() == 0
    accept(ledger, 2)
    assert ledger.missing() == 2
    ledger.seat_new()
    assert ledger.missing() == 1
    accept(ledger, 10)
    assert ledger.missing() == 2


def test_nobody_is_started_while_somebody_is_idle() -> None:
    ledger, _ = ledger_with(1)
    ledger.size = 3
    accept(ledger, 2)
    assert ledger.missing() == 0


def test_the_minimum_is_kept_until_the_ledger_is_closed() -> None:
    ledger = Ledger(4, minimum=2)
    assert ledger.missing() == 2
    ledger.closed = True
    assert ledger.missing() == 0
    accept(ledger, 1)
    assert ledger.missing() == 1


def test_a_seat_is_free_again_only_when_the_process_is_gone() -> None:
    ledger, (seat, _) = ledger_with(2)
    ledger.leaves(seat)
    accept(ledger, 5)
    ledger.idle.clear()
    assert ledger.missing() == 0
    ledger.gone(seat, started=0)
    assert ledger.missing() == 1
    assert ledger.seat_new().index == seat.index


def test_a_worker_is_sent_no_more_calls_than_its_lifetime() -> None:
    ledger, (seat,) = ledger_with(1, pace=0.00001, lifetime=3)
    accept(ledger, 100)
    assert batch(ledger, seat) == [1, 2, 3]
    assert seat.room == 0
    assert batch(ledger, seat) == []
    ledger.recall(seat)
    assert seat.room == 1


def test_starting_is_tried_a_few_times_later_and_later_and_then_given_up() -> None:
    ledger = Ledger(2)
    pauses = [ledger.start_failed() for _ in range(TRIES)]
    assert pauses[:-1] == sorted(pause for pause in pauses[:-1] if pause)
    assert pauses[-1] is None


def test_starting_is_not_given_up_while_somebody_works() -> None:
    ledger, _ = ledger_with(1)
    assert all(ledger.start_failed() for _ in range(20))


def test_a_worker_that_answers_a_call_makes_earlier_failures_forgotten() -> None:
    ledger = Ledger(2)
    ledger.start_failed()
    ledger.start_failed()
    seat = ledger.seat_new()
    ledger.became_ready(seat)
    assert ledger.failures == 2  # it may die at once, for the same reason
    ledger.note_answers(seat, 1)
    assert ledger.failures == 0


@pytest.mark.parametrize(("minimum", "leave"), [(0, 2), (1, 2), (2, 1), (3, 0)])
def test_workers_that_are_idle_for_long_leave_down_to_the_minimum(minimum: int, leave: int) -> None:
    ledger, (first, second, third) = ledger_with(3)
    ledger.minimum = minimum
    first.since, second.since, third.since = 0.0, 5.0, 9.0
    late = ledger.over_time(now=10.0, timeout=5.0)
    assert late == [first, second][:leave]


def test_a_worker_that_leaves_is_sent_nothing() -> None:
    ledger, (seat,) = ledger_with(1)
    ledger.leaves(seat)
    assert seat.state == LEAVING
    accept(ledger, 1)
    assert batch(ledger, seat) == []
