"""The errors: what they say, and that they travel."""

from __future__ import annotations

import copy
import pickle

import pytest

from pooltable import errors
from pooltable.errors import Fail, Later, RemoteError, TimeLimitExceeded, WorkerLost, WorkerStartError, describe

SAMPLES = [
    errors.SettingError("processes must be 0 or more, not -1"),
    WorkerLost(4711, -9, "most likely out of memory", "row 42 (attempt 1)"),
    WorkerStartError("no worker can be started", "Traceback: boom"),
    TimeLimitExceeded(2.5, "row 42 (attempt 1)"),
    RemoteError("app.Odd", "it broke", "Traceback: it broke"),
    Fail("no audio track"),
    Later(30, "busy"),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_every_error_travels_with_its_text_and_facts(error, travel):
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_every_error_class_is_in_the_drawn_tree():
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.PooltableError)]
    missing = [c.__name__ for c in classes if c.__name__ not in (errors.__doc__ or "")]
    assert classes
    assert not missing


def test_a_lost_worker_says_who_how_and_why():
    text = str(WorkerLost(4711, -9, "most likely out of memory", "row 42 (attempt 1)"))
    assert text == "worker 4711 was killed by SIGKILL while running row 42 (attempt 1); most likely out of memory"
    assert str(WorkerLost(4711, 0)) == "worker 4711 ended with exit code 0 while running a call"
    assert WorkerLost(1, -250).signal == "signal 250"


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_later_wants_a_number_of_seconds(seconds):
    with pytest.raises(ValueError, match="from 0 up"):
        Later(seconds)


class OddText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def test_an_error_is_described_whatever_its_str_does():
    described = describe(OddText())
    assert described.kind.endswith("OddText")
    assert "__str__ raised" in described.reason


def test_the_reason_is_one_line_and_the_detail_has_the_rest():
    try:
        raise ValueError("first line\nsecond line")
    except ValueError as error:
        described = describe(error)
    assert described.kind == "ValueError"
    assert described.reason == "ValueError: first line"
    assert "second line" in described.detail
    assert "Traceback" in described.detail


def test_a_remote_error_is_described_by_what_it_was_there():
    described = describe(RemoteError("app.Odd", "it broke", "Traceback: it broke"))
    assert described == ("app.Odd", "app.Odd: it broke", "Traceback: it broke")


def test_our_own_errors_are_described_by_their_sentence():
    assert describe(Fail("no audio track")).reason == "no audio track"


def test_an_error_in_words_is_short_however_long_its_message_is():
    told = describe(ValueError("x" * (1 << 20)))
    assert len(told.reason) < 20_000
    assert len(told.detail) < 20_000
    assert "characters left out" in told.detail
