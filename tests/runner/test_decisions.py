"""When to claim, how much to read, whom to replace: told and asked, without a run."""

from __future__ import annotations

from pooltable.pace import Appetite, Room, Streaks


def test_while_claims_come_back_full_there_is_no_pause():
    appetite = Appetite(poll=1.0)
    appetite.saw(claims=4, room=4, now=100.0)
    assert not appetite.dry
    assert appetite.next <= 100.0


def test_after_a_short_claim_the_next_comes_with_the_pulse_or_with_a_change():
    appetite = Appetite(poll=1.0)
    appetite.saw(claims=0, room=4, now=100.0)
    assert appetite.dry
    assert appetite.next == 100.05
    appetite.saw(claims=0, room=4, now=101.0)
    assert appetite.next == 101.1
    appetite.hurry()
    assert appetite.next == 0.0


def test_a_rest_is_kept_whoever_hurries():
    appetite = Appetite(poll=1.0)
    appetite.rest(160.0)
    appetite.saw(claims=0, room=4, now=100.0)
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
