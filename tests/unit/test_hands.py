"""How rows that were claimed are gathered to batches, sent, and given up again."""

from __future__ import annotations

import pytest

from pooltable.batches import End
from pooltable.crew import Inbox, OwnProcesses, Told, Workers
from pooltable.errors import TimeLimitExceeded, WorkerLost
from pooltable.hands import BATCH_SECONDS, Hands
from pooltable.outcomes import Raised, Returned, Stored
from pooltable.rows import Row
from pooltable.table.states import Again, Claim, Done, GiveUp, Released, Retry
from pooltable.tasks import Spec


def stored(key):
    return Stored(("caption",), (key,))


class Crew:
    """Takes what it is given and answers when it is told to."""

    def __init__(self):
        self.inbox = Inbox()
        self.ready = 1
        self.calls = []
        self.cancelled = []

    def send_batch(self, batch):
        self.calls.append([values[0] for values, _, _ in batch])
        return len(self.calls) - 1

    def cancel(self, call, kill):
        self.cancelled.append((call, kill))
        return True

    def answer(self, call, outcome=None, seconds=0.4):
        ends = Returned([End(stored(key), seconds) for key in self.calls[call]])
        self.inbox.answered(call, Told(0, 4711, seconds, outcome or ends))


class Reporter:
    def log_of(self, pid, key, attempt):
        return f"{key[0]}" if "more" in str(key[0]) else ""

    def ran(self, seconds):
        pass


@pytest.fixture
def crew():
    return Crew()


@pytest.fixture
def hands(crew):
    return Hands(crew, crew.inbox, Reporter(), Retry(), batch=4)


def claimed(*keys, lost=0):
    return [Claim((key,), key, 1, 0, lost, 0, f"k{key}") for key in keys]


def take(hands, claims):
    hands.take(claims)
    hands.send([Row(("id", "content"), (claim.key[0], "12345")) for claim in hands.to_read()])


def verdicts(hands):
    return {ended.finish.claim.key[0]: ended.finish.verdict for ended in hands.to_write(0.0)}


def test_full_batches_go_out_and_an_idle_worker_waits_a_while_for_the_rest(hands, crew):
    take(hands, claimed(*range(1, 7)))
    hands.send_batches(10.0, more=True)
    assert (crew.calls, len(hands), hands.calls) == ([[1, 2, 3, 4]], 6, 1)
    assert hands.next_send is None  # nobody is idle, so nobody waits
    crew.answer(0)
    hands.collect()
    hands.send_batches(20.0, more=True)
    assert hands.next_send == 20.0 + BATCH_SECONDS
    hands.send_batches(20.0 + BATCH_SECONDS / 2, more=True)
    assert len(crew.calls) == 1
    hands.send_batches(20.0 + BATCH_SECONDS, more=True)
    assert crew.calls[1:] == [[5, 6]]


def test_without_more_rows_what_is_there_is_dealt_out_to_those_who_are_idle_at_once(hands, crew):
    crew.ready = 2
    take(hands, claimed(1, 2, 3))
    hands.send_batches(10.0, more=False)
    assert crew.calls == [[1, 2], [3]]


def test_a_row_that_lost_a_worker_goes_alone_and_does_not_hold_up_the_others(hands, crew):
    take(hands, [*claimed(1, 2), *claimed(3, lost=1), *claimed(4, 5)])
    hands.send_batches(10.0, more=True)
    assert crew.calls == [[3], [1, 2, 4, 5]]


def test_a_batch_of_which_some_rows_are_still_ours_goes_on_for_them(hands, crew):
    take(hands, claimed(1, 2, 3, 4, 5))
    hands.send_batches(10.0, more=True)
    assert hands.keep(frozenset({1, 3})) == 3
    assert crew.cancelled == []
    assert len(hands) == 4  # the fifth was not sent yet
    crew.answer(0)
    hands.collect()
    assert verdicts(hands) == {1: Done(stored(1)), 3: Done(stored(3))}
    assert len(hands) == 0


def test_a_batch_of_which_nothing_is_ours_any_more_is_ended(hands, crew):
    take(hands, claimed(1, 2, 3, 4))
    hands.send_batches(10.0, more=True)
    assert hands.keep(frozenset()) == 4
    assert crew.cancelled == [(0, True)]


def test_what_was_gathered_is_given_back_with_the_rest(hands, crew):
    take(hands, claimed(1, 2))
    hands.give_back()
    assert verdicts(hands) == {1: Released(), 2: Released()}
    assert len(hands) == 0


@pytest.mark.parametrize("error", [TimeLimitExceeded(5.0), WorkerLost(4711, -9)], ids=["time", "killed"])
def test_what_ends_a_whole_batch_costs_each_row_a_lost_worker_and_counts_as_one_accident(hands, crew, error):
    take(hands, claimed(1, 2, 3, 4))
    hands.send_batches(10.0, more=True)
    crew.answer(0, Raised(error))
    hands.collect()
    for ended in hands.to_write(0.0):
        assert isinstance(ended.finish.verdict, Again)
        assert (ended.finish.verdict.counts, ended.shared, ended.finish.seconds) == ("lost", True, 0.1)
        assert f"row {ended.finish.claim.key[0]} (attempt 1)" in ended.finish.verdict.reason
        assert ended.finish.log == "1 and 3 more"


def test_a_loss_that_was_shared_is_never_the_last_one(crew):
    crew.ready = 2
    hands = Hands(crew, crew.inbox, Reporter(), Retry(lost=1), batch=4)
    take(hands, [*claimed(1, 2), *claimed(3, lost=1)])
    hands.send_batches(0.0, more=False)
    for call in range(2):
        crew.answer(call, Raised(WorkerLost(4711, -9)))
    hands.collect()
    assert crew.calls == [[3], [1, 2]]
    assert {key: type(verdict) for key, verdict in verdicts(hands).items()} == {1: Again, 2: Again, 3: GiveUp}


def test_a_row_whose_value_cannot_travel_fails_alone(tmp_path):
    """As a driver may give one, with a type of its own."""
    inbox = Inbox()
    spec = Spec(print, ("id", "content"), 1)
    crew = OwnProcesses(spec, inbox, 1, Workers(), None, str(tmp_path), lambda event: None)
    hands = Hands(crew, inbox, Reporter(), Retry())
    try:
        for values in (["a", "b", lambda: None, "c", lambda: None], [lambda: None, "d"]):
            claims = claimed(*range(len(hands) + 100, len(hands) + 100 + len(values)))
            hands.take(claims)
            hands.send(
                [Row(("id", "content"), (claim.key[0], value)) for claim, value in zip(claims, values, strict=True)]
            )
        assert (hands.calls, len(hands.to_write(0.0))) == (4, 3)
        assert all("cannot be given to the task" in verdict.reason for verdict in verdicts(hands).values())
    finally:
        crew.end(lambda: False, in_a_hurry=lambda: True)


def test_large_values_go_along_with_the_others(tmp_path):
    crew = OwnProcesses(Spec(len, ("id", "content"), 1), Inbox(), 1, Workers(), None, str(tmp_path), lambda event: None)
    rows = [((1, b"x"), 1, "k1"), ((2, bytes(300_000)), 1, "k2"), ((3, b"x"), 1, "k3")]
    try:
        crew.send(*rows[0])  # from now on the function has a number
        assert len(crew.send_each(rows)) == 3
    finally:
        crew.end(lambda: False, in_a_hurry=lambda: True)
