"""When to claim, how much to read, whom to replace: told and asked, without a run."""

from __future__ import annotations

import pytest

from pooltable.pace import Appetite, Probe, Room, Streaks
from pooltable.table.states import Claim, Fate


def test_while_claims_come_back_full_there_is_no_pause():
    appetite = Appetite(poll=1.0)
    appetite.saw(claims=4, room=4, now=100.0, due_in=None)
    assert not appetite.dry
    assert appetite.next <= 100.0


def test_after_a_short_claim_the_next_comes_with_the_pulse_or_with_a_change():
    appetite = Appetite(poll=1.0)
    appetite.saw(claims=0, room=4, now=100.0, due_in=None)
    assert appetite.dry
    assert appetite.next == 100.05
    appetite.saw(claims=0, room=4, now=101.0, due_in=None)
    assert appetite.next == 101.1
    appetite.hurry()
    assert appetite.next == 0.0


def test_a_row_under_back_off_is_claimed_when_it_is_due_however_long_the_poll_is():
    appetite = Appetite(poll=30.0)
    appetite.saw(claims=0, room=1, now=100.0, due_in=0.02)
    assert appetite.next == 100.02
    for now in (200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0, 1000.0, 1100.0):
        appetite.saw(claims=0, room=1, now=now, due_in=None)
    assert appetite.next == 1130.0
    appetite.saw(claims=0, room=1, now=1101.0, due_in=2.0)
    assert appetite.next == 1103.0


def test_claims_that_come_shortly_before_a_row_is_due_do_not_make_the_next_looks_slower():
    appetite = Appetite(poll=30.0)
    appetite.saw(claims=0, room=1, now=100.0, due_in=None)
    for i in range(20):
        appetite.saw(claims=0, room=1, now=100.001 + i / 1000, due_in=None)
    assert appetite.next == 100.05


def test_a_server_is_asked_quickly_after_work_and_then_ever_more_rarely():
    probe = Probe(poll=2.0, now=100.0)
    for idle, pause in ((1.0, 0.02), (60.0, 0.02), (600.0, 0.2), (6000.0, 2.0), (60_000.0, 2.0)):
        probe.saw_answer(found=False, asked_at=100.0 + idle, seconds=0.0001)
        assert probe.next == pytest.approx(100.0 + idle + pause)
    probe.saw_work(70_000.0)
    probe.saw_answer(found=False, asked_at=70_000.0, seconds=0.0001)
    assert probe.next == pytest.approx(70_000.02)


def test_a_question_that_takes_long_is_asked_for_a_small_part_of_the_time_and_a_smaller_one_after_a_minute():
    probe = Probe(poll=30.0, now=0.0)
    for _ in range(20):
        probe.saw_answer(found=False, asked_at=1.0, seconds=0.09)
    assert probe.next == pytest.approx(1.0 + 20 * 0.09)
    # One that is quick shows that the others had to wait for the machine.
    probe.saw_answer(found=False, asked_at=1.0, seconds=0.001)
    assert probe.next == pytest.approx(1.02)
    probe.saw_answer(found=False, asked_at=61.0, seconds=0.001)
    assert probe.next == pytest.approx(61.4)


def test_rows_that_others_keep_locked_are_asked_for_half_as_often_each_time():
    probe = Probe(poll=2.0, now=0.0)
    pauses = []
    for _ in range(9):
        probe.saw_answer(found=True, asked_at=1.0, seconds=0.0001)
        pauses.append(round(probe.next - 1.0, 3))
    assert pauses == [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.0, 2.0]
    probe.saw_work(1.0)
    assert probe.next == pytest.approx(1.02)


def test_what_the_end_of_a_row_tells_of_when_it_may_be_claimed_again():
    claim = Claim((1,), 1, 1, 0, 0, 0, "r-1")
    assert Fate(claim, "later", pause=2.0).due_in == 2.0
    assert Fate(claim, "retry", pause=None).due_in == 0.0
    assert Fate(claim, "released").due_in == 0.0
    assert Fate(claim, None, "overwritten", reason="pending").due_in == 0.0
    assert [Fate(claim, "done").due_in, Fate(claim, None, "overwritten", reason="other").due_in] == [None, None]


def test_a_rest_is_kept_whoever_hurries():
    appetite = Appetite(poll=1.0)
    appetite.rest(160.0)
    appetite.saw(claims=0, room=4, now=100.0, due_in=None)
    appetite.hurry()
    assert appetite.next == 160.0


def test_rows_are_read_as_far_as_their_bytes_allow():
    room = Room()
    assert room.to_read(0) == Room.READ_AT_ONCE
    room.saw_bytes(10, 10 * 2**20)
    assert room.to_read(0) == 64
    assert room.to_read(60 * 2**20) == 4
    assert room.to_read(64 * 2**20) == 0


def told(streaks, ends):
    return [streaks.saw(worker, failed) for worker, failed in ends]


def test_a_worker_that_fails_row_after_row_while_others_succeed_is_told_once():
    streaks = Streaks()
    answers = told(streaks, [(1, True), (2, False)] * 12)
    assert answers.count(True) == 1
    assert answers.index(True) == 20


def test_a_success_in_between_begins_anew():
    streaks = Streaks()
    assert not any(told(streaks, [(1, True), (2, False)] * 9 + [(1, False)] + [(1, True), (2, False)] * 9))


def test_where_everything_fails_no_worker_is_to_blame():
    assert not any(told(Streaks(), [(1, True), (2, True)] * 50))


def test_a_worker_that_works_alone_is_not_to_blame():
    assert not any(told(Streaks(), [(1, True)] * 50))
