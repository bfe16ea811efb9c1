"""The verbs in every order, against a model in plain Python; the same on every database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pooltable import Retry, TaskTable
from pooltable.table.states import Again, Claim, Done, Finish, GiveUp, PutOff, Released, Verdict
from tests.servers import in_memory
from tests.table.invariants import check_finished_once, check_invariants
from tests.table.places import Place, Watched, sqlite_place

RESCUED = 3
VERDICTS: list[Verdict] = [
    Done("text"),
    GiveUp("E", "e", "", "fails"),
    Again(3600.0, "E", "e", "", "fails"),
    Again(0.0, "E", "e", "", "lost"),
    PutOff(3600.0, "busy"),
    Released(),
]


@dataclass
class Entry:
    """What the model remembers of a row that once ended otherwise than by returning at its first attempt."""

    attempt: int
    fails: int = 0
    lost: int = 0
    rescued: int = 0
    ended: str | None = None
    waits: bool = False


@dataclass
class Taken:
    """A claim of one row. `listed`: until its end was told. `known`: where the row had an entry."""

    runner: int
    claim: Claim
    known: bool
    listed: bool = True


class Model(RuleBasedStateMachine):
    """Three runners and a meddling user at one table."""

    place: Place
    table: TaskTable  # the same for all examples: to prepare it takes longer than an example

    @initialize(count=st.integers(0, 6))
    def begin(self, count: int) -> None:
        self.place.reset(self.table)
        self.place.add_videos(count)
        self.table.resume()
        self.rows: dict[int, Any] = dict.fromkeys(range(1, count + 1), "PENDING")
        self.entries: dict[int, Entry] = {}
        self.taken: list[Taken] = []  # in the order of claims
        self.runners: dict[int, Watched] = {i: self.place.lease(self.table, poll=0.0) for i in range(3)}
        self.held: list[tuple[int, Claim]] = []
        self.paused = False
        self.next_runner = 3

    def claimable(self) -> list[int]:
        due, waiting = [], []
        for key, word in self.rows.items():
            if word == "PENDING":
                entry = self.entries.get(key)
                if entry is None or not entry.waits:
                    waiting.append(key)
        return due + sorted(waiting)

    @rule(runner=st.integers(0, 2), room=st.integers(1, 4), data=st.data())
    def claim(self, runner: int, room: int, data: st.DataObject) -> None:
        number = sorted(self.runners)[runner]
        claims = self.runners[number].claim(room)
        expected = [] if self.paused else self.claimable()
        assert {claim.key[0] for claim in claims} <= set(expected)
        assert len(claims) == min(room, len(expected))
        for claim in claims:
            key = claim.key[0]
            old = self.entries.get(key)
            entry = Entry(1)
            if old is not None and old.ended not in ("done", "failed", "stuck"):
                entry = Entry(old.attempt + 1, old.fails, old.lost, old.rescued)
            assert claim[2:6] == (entry.attempt, entry.fails, entry.lost, entry.rescued)
            self.rows[key] = "DOING"
            if old is not None:
                self.entries[key] = entry
            self.taken.append(Taken(number, claim, known=old is not None))
            self.held.append((number, claim))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), verdict=st.sampled_from(VERDICTS))
    def finish(self, data: st.DataObject, verdict: Verdict) -> None:
        runner = data.draw(st.sampled_from(sorted({number for number, _ in self.held})))
        held = [pair for pair in self.held if pair[0] == runner]
        chosen = data.draw(st.lists(st.sampled_from(held), min_size=1, unique=True))
        fates = self.runners[runner].finish(Finish(claim, verdict) for _, claim in chosen)
        for (_, claim), fate in zip(chosen, fates, strict=True):
            assert (fate.end or fate.why) == self.finished(runner, claim, verdict)
        self.held = [pair for pair in self.held if pair not in chosen]

    def finished(self, runner: int, claim: Claim, verdict: Verdict) -> str:
        (at,) = [i for i, one in enumerate(self.taken) if (one.runner, one.claim) == (runner, claim)]
        if not self.taken[at].listed:
            return "fenced"
        fails, lost, ended, word, pause = claim.fails, claim.lost, "", "PENDING", 0.0
        match verdict:
            case Done():
                ended, word = "done", "DONE"
            case GiveUp():
                ended, word, fails = "failed", "FAILED", fails + 1
            case Again(pause=pause, counts=counts):
                ended, fails, lost = "retry", fails + (counts == "fails"), lost + (counts == "lost")
            case PutOff(pause=pause):
                ended = "later"
            case Released():
                ended = "released"
        return self.end(at, word, Entry(claim.attempt, fails, lost, claim.rescued, ended, pause > 0))

    def end(self, at: int, word: str, entry: Entry) -> str:
        """What an end comes to, of a claim that still lists its row."""
        one, later = self.taken[at], self.taken[at + 1 :]
        one.listed = False
        key, claim = one.claim.key[0], one.claim
        stands = self.rows.get(key, "missing")
        if stands == "missing":
            if one.known:
                self.entries.pop(key, None)
            return "vanished"
        if any(other.claim.key[0] == key and (other.listed or stands != "DOING") for other in later):
            return "fenced"
        if stands in ("DONE", "FAILED"):
            self.entries[key] = Entry(claim.attempt, entry.fails, entry.lost, claim.rescued, stands.lower())
            return "marked"
        if stands != "DOING":
            self.entries[key] = Entry(claim.attempt, claim.fails, claim.lost, claim.rescued, "released")
            return "overwritten"
        self.rows[key] = word
        # Who returned at its first attempt, or was given back before it was started, leaves no entry.
        if one.known or entry.ended not in ("done", "released"):
            self.entries[key] = entry
        assert entry.ended is not None
        return entry.ended

    @rule()
    def time_passes(self) -> None:
        self.place.due_now()
        for entry in self.entries.values():
            entry.waits = False

    @rule(victim=st.integers(0, 2))
    def a_runner_dies_and_is_rescued(self, victim: int) -> None:
        number = sorted(self.runners)[victim]
        dead = self.runners.pop(number)
        self.place.process_gone(dead)
        rescuer = next(iter(self.runners.values()))
        rescue = rescuer.rescue(Retry(rescued=RESCUED))
        told = []
        # Those of them that a later claim lists as well are judged before any of them is dropped.
        mine = [i for i, one in enumerate(self.taken) if one.runner == number and one.listed]
        for at in reversed(mine):
            claim = self.taken[at].claim
            gives_up = claim.rescued + 1 >= RESCUED
            entry = Entry(claim.attempt, claim.fails, claim.lost, claim.rescued + 1, "failed" if gives_up else "lost")
            is_newest = not any(self.taken[i].claim.key == claim.key for i in mine if i > at)
            if is_newest:
                told.append(self.end(at, "FAILED" if gives_up else "PENDING", entry))
            else:
                self.taken[at].listed = False
        pending, failed = told.count("lost"), told.count("failed")
        assert (rescue.pending, rescue.failed) == (pending, failed)
        # The dead one may be merely thought dead: what it still hands in is checked like any other end.
        self.runners[self.next_runner] = self.place.lease(self.table, poll=0.0)
        self.next_runner += 1
        self.held = [pair for pair in self.held if pair[0] != number]

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), word=st.sampled_from(["PENDING", "DONE", "FAILED", "ODD", None]))
    def the_user_writes_a_word(self, data: st.DataObject, word: str | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.rows)))
        self.place.sql("UPDATE video SET status = :word WHERE id = :id", word=word, id=key)
        self.rows[key] = word

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def the_user_deletes_a_row(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.rows)))
        self.place.sql("DELETE FROM video WHERE id = :id", id=key)
        del self.rows[key]

    @rule(key=st.integers(1, 8))
    def the_user_adds_a_row(self, key: int) -> None:
        if key not in self.rows:
            self.table.add([{"id": key}])
            self.rows[key] = "PENDING"

    @rule(data=st.data())
    def the_user_requeues(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.integers(1, 8), unique=True))
        count = 0
        for key in keys:
            if self.rows.get(key) in ("DONE", "FAILED"):
                self.rows[key] = "PENDING"
                count += 1
            if key in self.entries:
                self.entries[key].waits = False
        assert self.table.requeue(keys) == count

    @rule()
    def what_is_over_is_pruned(self) -> None:
        self.place.shift(10.0, "finished_at", table="pooltable_video_entry", where="finished_at IS NOT NULL")
        self.table.prune(5.0)
        for key, entry in list(self.entries.items()):
            if entry.ended in ("done", "failed") or key not in self.rows:
                del self.entries[key]

    @rule()
    def the_user_pauses_or_resumes(self) -> None:
        (self.table.resume if self.paused else self.table.pause)()
        self.paused = not self.paused

    @rule()
    def another_look_finds_nothing_more_to_rescue(self) -> None:
        assert next(iter(self.runners.values())).rescue(Retry(rescued=RESCUED))[:3] == (0, 0, ())

    @invariant()
    def rows_stand_as_the_model_says(self) -> None:
        assert self.place.statuses() == self.rows

    @invariant()
    def the_tables_are_sound(self) -> None:
        check_invariants(self.table)
        check_finished_once(self.place.fates)


def machine(place: Place) -> type[Model]:
    table = place.video(write=("caption",))
    table.prepare()
    return type("ModelHere", (Model,), {"place": place, "table": table})


def run(place: Place, examples: int, steps: int) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine(place), settings=chosen)
    place.reset()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pt-", dir=in_memory()) as folder:
        yield Path(folder)


@pytest.mark.timeout(180)
def test_the_verbs_in_every_order_on_sqlite(folder):
    place = sqlite_place(folder)
    try:
        run(place, 40, 25)
    finally:
        place.close()


@pytest.mark.timeout(180)
def test_the_verbs_in_every_order_on_servers(served):
    run(served, 4, 20)
