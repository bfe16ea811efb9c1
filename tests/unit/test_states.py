"""The pure half of the table: outcomes into verdicts, budgets, back-off, and what a finish found."""

from __future__ import annotations

from concurrent.futures import CancelledError
from itertools import product

import pytest

from pooltable.errors import (
    CannotStore,
    Fail,
    Later,
    MappingError,
    SettingError,
    TimeLimitExceeded,
    WorkerLost,
    WorkerStartError,
)
from pooltable.outcomes import Stored, failure_of
from pooltable.table.states import (
    ENDS,
    MOVES,
    STATUS_AFTER,
    Again,
    Claim,
    Done,
    GiveUp,
    PutOff,
    Released,
    Retry,
    Status,
    Verdict,
    Words,
    judge,
)

CLAIM = Claim(key=(42,), claim_no=7, attempt=1, fails=0, lost=0, rescued=0, idempotency_key="r-7")
KILLED = failure_of(WorkerLost(4711, -9))


def test_what_a_task_returns_is_done_with_what_is_to_be_stored_of_it():
    stored = Stored(("caption",), ("a cat",))
    assert judge(stored, CLAIM, Retry()) == Done(stored)


def test_by_default_the_first_error_fails_the_row():
    verdict = judge(failure_of(ValueError("bad")), CLAIM, Retry())
    assert isinstance(verdict, GiveUp)
    assert (verdict.kind, verdict.reason, verdict.counts) == ("ValueError", "ValueError: bad", "fails")


def test_errors_are_tried_again_with_growing_pauses_until_the_budget_is_used():
    retry = Retry(fails=4, pause=2.0, factor=3.0, longest_pause=10.0)
    verdicts = [judge(failure_of(ValueError("bad")), CLAIM._replace(fails=fails), retry) for fails in range(4)]
    assert [getattr(verdict, "pause", None) for verdict in verdicts] == [2.0, 6.0, 10.0, None]
    assert isinstance(verdicts[-1], GiveUp)


def test_a_time_limit_counts_as_a_failure():
    assert judge(failure_of(TimeLimitExceeded(5.0)), CLAIM, Retry(fails=2)) == Again(
        1.0, "TimeLimitExceeded", *[str(TimeLimitExceeded(5.0))] * 2, counts="fails"
    )


def test_a_lost_worker_costs_no_pause_the_first_time_and_the_row_at_its_limit():
    retry = Retry(lost=3, pause=5.0)
    first, second, third = (judge(KILLED, CLAIM._replace(lost=lost), retry) for lost in range(3))
    assert isinstance(first, Again)
    assert (first.pause, first.counts) == (0.0, "lost")
    assert isinstance(second, Again)
    assert second.pause == 5.0
    assert isinstance(third, GiveUp)
    assert third.counts == "lost"
    assert "SIGKILL" in third.reason


def test_a_lost_worker_uses_none_of_the_budget_for_errors():
    assert judge(KILLED, CLAIM._replace(fails=5), Retry(fails=6)) == judge(KILLED, CLAIM, Retry(fails=6))


@pytest.mark.parametrize("error", [Fail("broken file"), CannotStore("too long")])
def test_fail_and_a_result_that_cannot_be_stored_are_final_whatever_the_budget(error):
    verdict = judge(failure_of(error), CLAIM, Retry(fails=100))
    assert isinstance(verdict, GiveUp)
    assert verdict.counts is None
    assert verdict.reason == str(error)


def test_later_puts_the_row_off_and_costs_nothing():
    assert judge(failure_of(Later(30, "rate limit")), CLAIM, Retry()) == PutOff(30.0, "rate limit")


@pytest.mark.parametrize("error", [CancelledError(), WorkerStartError("no such GPU")])
def test_a_call_that_never_ran_releases_its_row(error):
    assert judge(failure_of(error), CLAIM, Retry()) == Released()


@pytest.mark.parametrize("chance, pause", [(0.0, 9.0), (0.5, 10.0), (1.0, 11.0)])
def test_jitter_spreads_the_pause_to_both_sides(chance, pause):
    assert Retry(pause=10.0, jitter=0.1).pause_after(1, chance) == pytest.approx(pause)


def test_a_pause_never_overflows():
    assert Retry(factor=10.0, longest_pause=600.0, jitter=0.0).pause_after(100_000) == 600.0


@pytest.mark.parametrize(
    "wrong", [{"fails": 0}, {"lost": -1}, {"rescued": 1.5}, {"pause": -1}, {"factor": 0.5}, {"jitter": 2}]
)
def test_a_retry_that_makes_no_sense_is_refused_by_name(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Retry(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"done": "PENDING"},
        {"done": "pending"},
        {"pending": None, "doing": None},
        {"doing": "DONE "},
        {"pending": 1, "doing": "1"},
    ],
)
def test_words_that_a_column_could_take_for_one_another_are_refused(wrong):
    with pytest.raises(MappingError, match="the same"):
        Words(**wrong)


def test_one_word_may_be_null():
    assert Words(pending=None).of(Status.PENDING) is None


# ---- the dict of moves


def test_every_verdict_is_a_move_that_the_dict_knows():
    assert set(ENDS) == set(Verdict.__args__)
    for end in ENDS.values():
        assert (Status.DOING, STATUS_AFTER[end]) in MOVES


def test_the_dict_of_moves_is_complete():
    possible = {(a, b) for a, b in product(Status, Status) if a is not b}
    impossible = {
        (Status.PENDING, Status.DONE),  # only what was claimed can end
        (Status.PENDING, Status.FAILED),
        (Status.DONE, Status.DOING),  # a finished row is claimed as a pending one
        (Status.FAILED, Status.DOING),
        (Status.DONE, Status.FAILED),  # an end is final
        (Status.FAILED, Status.DONE),
    }
    assert set(MOVES) == possible - impossible
    assert all(MOVES.values())


def test_every_state_can_be_reached_and_left():
    assert {b for _, b in MOVES} == {a for a, _ in MOVES} == set(Status)
