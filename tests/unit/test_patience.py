"""How long one answer of the database may take."""

from __future__ import annotations

import pytest

from pooltable.errors import DatabaseUnavailable
from pooltable.events import DatabaseAway, DatabaseBack, Event
from pooltable.pace import Pace
from pooltable.patience import CALM_SECONDS, HURRIED_SECONDS, LEAST_SECONDS, MOST_SECONDS, Patience, at_the_start
from pooltable.signals import StopRequests


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pooltable.patience.time", clock)
    return clock


def test_what_was_not_answered_in_time_gets_twice_as_long_because_the_server_may_only_be_slow(clock: Clock) -> None:
    told: list[Event] = []
    requests = StopRequests(lambda: None)
    patience = Patience(Pace(lease=1.0), requests, told.append)

    def verb(seconds: float) -> str:
        clock.now += min(seconds, patience.bound())
        if seconds > patience.bound() or not seconds:
            raise DatabaseUnavailable("it did not answer")
        return "answered"

    assert patience.bound() == LEAST_SECONDS
    assert patience.ask(verb, 0.0) is None  # refused at once, which tells nothing about how slow it is
    assert patience.bound() == LEAST_SECONDS
    answers = []
    while not (answers and answers[-1]):
        clock.now += 10
        answers.append(patience.ask(verb, 3.5 * LEAST_SECONDS))
    assert answers == [None, None, "answered"]
    assert patience.bound() == 4 * LEAST_SECONDS
    for _ in range(20):
        clock.now += 10
        patience.ask(verb, 10 * MOST_SECONDS)
    assert patience.bound() == MOST_SECONDS
    requests.request("SIGTERM")
    requests.request("SIGTERM")
    assert patience.bound() == HURRIED_SECONDS


def test_after_a_minute_of_good_answers_a_silence_is_given_up_as_early_as_the_first_one(clock: Clock) -> None:
    patience = Patience(Pace(lease=1.0), StopRequests(lambda: None), lambda event: None)

    def silent() -> None:
        clock.now += patience.bound()
        raise DatabaseUnavailable("it did not answer")

    def answered(seconds: float) -> str:
        clock.now += seconds
        return "answered"

    def ask_for(seconds: float, each: float) -> None:
        until = clock.now + seconds
        while clock.now < until:
            assert patience.ask(answered, each)
            clock.now += 0.5

    for _ in range(3):
        patience.ask(silent)
        clock.now += 10
        ask_for(CALM_SECONDS / 2, each=0.1)
        assert patience.bound() == 2 * LEAST_SECONDS
        ask_for(CALM_SECONDS, each=0.1)
        assert patience.bound() == LEAST_SECONDS
    patience.ask(silent)
    clock.now += 10
    ask_for(3 * CALM_SECONDS, each=1.5 * LEAST_SECONDS)
    assert patience.bound() == 2 * LEAST_SECONDS, "a server that is slow still needs it"


def start(clock: Clock, away_for: float, wait: float | None, told: list[Event]) -> str:
    until = clock.now + away_for

    def verb() -> str:
        if clock.now < until:
            raise DatabaseUnavailable("nobody listens there")
        return "begun"

    def rest(seconds: float) -> None:
        clock.now += seconds

    return at_the_start(verb, wait, told.append, rest)


def test_a_database_that_is_away_at_the_start_is_waited_for_and_told_once(clock: Clock) -> None:
    told: list[Event] = []
    assert start(clock, 9.5, 10, told) == "begun"
    away, back = told
    assert away == DatabaseAway("nobody listens there", begun=False)
    assert isinstance(back, DatabaseBack)
    assert back.seconds >= 9.5


@pytest.mark.parametrize(("wait", "message"), [(None, "nobody listens there"), (0, "nobody listens there")])
def test_without_a_wait_a_database_that_is_away_ends_a_start_at_once(
    clock: Clock, wait: float | None, message: str
) -> None:
    told: list[Event] = []
    began = clock.now
    with pytest.raises(DatabaseUnavailable) as caught:
        start(clock, 5, wait, told)
    assert (str(caught.value), told, clock.now) == (message, [], began)


def test_when_the_wait_is_over_a_start_ends_and_says_how_long_it_has_waited(clock: Clock) -> None:
    began = clock.now
    with pytest.raises(DatabaseUnavailable, match="nobody listens there; the run has waited 5 s for it"):
        start(clock, 100, 5, [])
    assert clock.now == pytest.approx(began + 5)
