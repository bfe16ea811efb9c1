"""Leases: beats, lapses, and the rescue of rows whose runner is dead, and only of those."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from pooltable import Retry
from pooltable.errors import DatabaseUnavailable
from pooltable.table import identity
from pooltable.table.neighbours import Neighbours
from pooltable.table.postgres import PostgreSQL
from pooltable.table.rescue import NOTHING_RESCUED
from tests.table.places import ends, lost_once, wait_until

RETRY = Retry(rescued=3)


def statuses(place):
    return list(place.statuses().values())


def test_a_beat_in_time_says_nothing(place):
    lease = place.lease(place.video(1))
    (claim,) = lease.claim(1)
    assert lease.beat() == (None, {claim.claim_no}, False)


def test_a_beat_after_a_lapse_renews_the_lease_and_tells_which_claims_are_still_ours(place):
    table = place.video(3)
    lease, other = place.lease(table), place.lease(table)
    claims = lease.claim(3)
    place.lapse(lease, 50)
    place.sql("UPDATE video SET status = 'PENDING' WHERE id = 2")
    taken = other.claim(1)
    beat = lease.beat()
    assert beat.lapsed == pytest.approx(20, abs=5)
    assert beat.open == {claims[0].claim_no, claims[2].claim_no}
    assert lease.beat().lapsed is None
    assert ends(lease.done(*claims)) == ["done", "fenced", "done"]
    other.done(*taken)


def test_a_lapse_that_a_claim_noticed_is_told_by_the_next_beat(place):
    lease = place.lease(place.video(2))
    place.lapse(lease, 50)
    (claim,) = lease.claim(1)
    beat = lease.beat()
    assert beat.lapsed == pytest.approx(20, abs=5)
    assert beat.open == {claim.claim_no}


def test_a_lease_is_renewed_by_exchanges_as_well(place):
    lease = place.lease(place.video(2))
    place.shift(15, "expires_at")
    lease.exchange([], 1)
    place.shift(20, "expires_at")
    assert lease.beat().lapsed is None


def test_a_runner_whose_row_was_deleted_makes_it_anew(place):
    table = place.video(1)
    lease = place.lease(table)
    lease.claim(1)
    place.sql("DELETE FROM pooltable_runner")
    assert lease.beat().lapsed is not None
    assert place.value("SELECT count(*) FROM pooltable_runner") == 1


def test_closing_a_lease_gives_its_rows_back_at_no_cost(place):
    table = place.video(2)
    lease = place.lease(table)
    lease.claim(2)
    lease.close()
    assert statuses(place) == ["PENDING"] * 2
    entry = table.entry(1)
    assert (entry.ended, entry.fails, entry.lost, entry.rescued) == ("released", 0, 0, 0)
    assert place.value("SELECT count(*) FROM pooltable_runner WHERE stopped_at IS NOT NULL") == 1


# ---- rescue


def test_rows_of_a_process_that_is_gone_are_rescued_at_once(place):
    table = place.video(3)
    dead, living = place.lease(table), place.lease(table)
    claims = dead.claim(2)
    assert living.rescue(RETRY)[:3] == (0, 0, ())
    place.process_gone(dead)
    assert living.left().dead == 2
    rescue = living.rescue(RETRY)
    assert rescue[:3] == (2, 0, (dead.id,))
    assert statuses(place) == ["PENDING"] * 3
    entry = table.entry(1)
    assert (entry.ended, entry.rescued, entry.kind) == ("lost", 1, "RunnerLost")
    again = living.claim(3)
    assert [claim.rescued for claim in again] == [1, 1, 0]
    assert again[0].idempotency_key == claims[0].idempotency_key
    assert ends(dead.done(*claims)) == ["fenced"] * 2


def test_rows_of_another_host_are_rescued_when_its_lease_has_run_out_and_not_before(place):
    table = place.video(2)
    dead, living = place.lease(table), place.lease(table)
    dead.claim(2)
    place.move_to_another_host(dead)
    rescue = living.rescue(RETRY)
    assert rescue[:3] == (0, 0, ())
    assert rescue.next_expiry == pytest.approx(30, abs=5)
    assert living.left().elsewhere == 2
    place.lapse(dead)
    assert living.left().dead == 2
    assert living.rescue(RETRY)[:3] == (2, 0, (dead.id,))


def test_a_living_process_of_this_host_must_miss_its_beats_under_our_eyes(place):
    table = place.video(1)
    stopped, living = place.lease(table), place.lease(table, seconds=0.3)
    stopped.claim(1)
    place.lapse(stopped)
    first = living.rescue(RETRY)
    assert first.pending == 0
    assert 0 < first.next_expiry < 0.31
    began = time.monotonic()
    wait_until(lambda: living.rescue(RETRY).pending == 1)
    assert time.monotonic() - began >= 0.2


def test_a_missing_runner_row_is_a_dead_runner(place):
    table = place.video(1)
    dead, living = place.lease(table), place.lease(table)
    dead.claim(1)
    place.sql("DELETE FROM pooltable_runner WHERE id = :id", id=dead.id)
    assert living.rescue(RETRY).pending == 1


def test_rows_that_a_runner_left_open_when_it_stopped_are_rescued(place):
    table = place.video(1)
    dead, living = place.lease(table), place.lease(table)
    dead.claim(1)
    place.sql("UPDATE pooltable_runner SET stopped_at = expires_at WHERE id = :id", id=dead.id)
    assert living.rescue(RETRY).pending == 1


def test_a_row_is_failed_at_its_limit_of_rescues(place):
    table = place.video(1)
    living = place.lease(table)
    for attempt in range(1, 4):
        dead = place.lease(table)
        assert dead.one().attempt == attempt
        place.process_gone(dead)
        rescue = living.rescue(RETRY)
        assert rescue[:2] == ((0, 1) if attempt == 3 else (1, 0))
    assert statuses(place) == ["FAILED"]
    (failure,) = table.failures()
    assert (failure.kind, failure.rescued) == ("RunnerLost", 3)
    assert "3 times" in failure.reason


def test_rescued_rows_that_the_user_changed_or_deleted_keep_what_the_user_wrote(place):
    table = place.video(4)
    dead, living = place.lease(table), place.lease(table)
    dead.claim(4)
    place.sql("DELETE FROM video WHERE id = 1")
    place.sql("UPDATE video SET status = 'DONE' WHERE id = 2")
    place.sql("UPDATE video SET status = 'HOLD' WHERE id = 3")
    place.process_gone(dead)
    assert living.rescue(RETRY).pending == 1
    assert place.statuses() == {2: "DONE", 3: "HOLD", 4: "PENDING"}
    assert living.left().dead == 0


def test_a_runner_after_a_gap_in_its_own_beats_waits_a_full_lease_before_it_believes_that_others_are_dead(place):
    table = place.video(2)
    other, first_back = place.lease(table), place.lease(table, seconds=0.4)
    other.claim(2)
    place.move_to_another_host(other)
    # An outage of the database: every lease has run out, and the other runner is not back yet.
    place.lapse(other)
    place.lapse(first_back)
    assert first_back.beat().lapsed is not None
    rescue = first_back.rescue(RETRY)
    assert rescue.pending == 0
    assert rescue.next_expiry <= 0.4
    other.beat()
    wait_until(lambda: first_back.rescue(RETRY).next_expiry > 1)
    assert first_back.left().elsewhere == 2


def test_a_process_that_is_gone_is_rescued_even_right_after_a_gap(place):
    table = place.video(1)
    dead, living = place.lease(table), place.lease(table)
    dead.claim(1)
    place.lapse(living)
    living.beat()
    place.process_gone(dead)
    assert living.rescue(RETRY).pending == 1


def test_a_runner_that_was_thought_dead_and_comes_back_learns_what_it_lost_and_goes_on(place):
    table = place.video(2)
    stopped, living = place.lease(table), place.lease(table)
    claims = stopped.claim(1)
    place.move_to_another_host(stopped)
    place.lapse(stopped)
    living.rescue(RETRY)
    beat = stopped.beat()
    assert beat.open == frozenset()
    assert ends(stopped.done(*claims)) == ["fenced"]
    stopped.done(*stopped.claim(2))
    assert statuses(place) == ["DONE"] * 2
    assert place.value("SELECT count(*) FROM pooltable_runner WHERE stopped_at IS NULL") == 2


def test_a_beat_that_comes_before_the_rescue_saves_the_rows(place):
    table = place.video(1)
    slow, living = place.lease(table), place.lease(table)
    slow.claim(1)
    place.move_to_another_host(slow)
    place.lapse(slow)
    rescuer = living._lease._rescuer
    deaths = living._session.read(lambda c: rescuer.deaths(c, living._statements.holders(c)))
    assert slow.id in deaths.lapsed
    slow.beat()
    fates, taken = rescuer.take_back(living._session, deaths, lambda claim, runner: pytest.fail("robbed the living"))
    assert (fates, taken) == ([], [])


def test_runners_of_another_job_are_none_of_ours(place):
    place.video(2)
    place.script("ALTER TABLE video ADD COLUMN second VARCHAR(20)")
    place.sql("UPDATE video SET second = 'PENDING'")
    one, two = place.table("video"), place.table("video", job="second", status="second")
    first, second = place.lease(one), place.lease(two)
    first.claim(1)
    place.process_gone(first)
    assert second.rescue(RETRY).runners == ()
    assert place.lease(one).rescue(RETRY).runners == (first.id,)


def test_many_rows_of_a_dead_runner_are_rescued_in_portions(place):
    table = place.video(1300)
    dead, living = place.lease(table), place.lease(table)
    dead.claim(1300)
    place.process_gone(dead)
    assert living.rescue(RETRY).pending == 1300
    assert len(living.claim(2000)) == 1300


def test_a_dead_runner_whose_row_is_locked_is_left_for_the_next_look(served):
    """It fell silent in the middle of a transaction; or it beats, or is rescued, at this very moment."""
    table = served.video(2)
    dead, living = served.lease(table), served.lease(table)
    dead.claim(2)
    served.process_gone(dead)
    with served.holding(f"SELECT * FROM pooltable_runner WHERE id = '{dead.id}' FOR UPDATE"):
        began = time.monotonic()
        rescue = living.rescue(RETRY)
        assert time.monotonic() - began < 3
        assert (rescue.pending, rescue.runners) == (0, ())
        assert rescue.next_expiry <= 1
    assert living.rescue(RETRY).pending == 2


def test_a_transaction_that_stands_still_is_ended_by_the_server(served, monkeypatch):
    monkeypatch.setattr("pooltable.table.mysql.IDLE_SECONDS", 1)
    monkeypatch.setattr(
        PostgreSQL, "begin", PostgreSQL.begin.replace("session_timeout = '5s'", "session_timeout = '1s'")
    )
    table = served.video(1)
    silent, other = served.lease(table), served.lease(table)
    claims = silent.claim(1)
    stands = threading.Event()

    def stand_still(c):
        silent._statements.opening(c, silent.id)
        stands.set()
        wait_until(lambda: served.value("SELECT status FROM video") == "DONE")

    def end_it():
        stands.wait(10)
        # The lock of the silent one is in the way of its own next transaction until the server ends it.
        connection = other._session.connection()
        connection.begin()
        other._statements.opening(connection, silent.id)
        connection.commit()
        served.sql("UPDATE video SET status = 'DONE'")

    thread = threading.Thread(target=end_it)
    thread.start()
    tries = []
    silent._session.transact(lambda c: tries.append(1) or (stand_still(c) if len(tries) == 1 else None))
    thread.join()
    assert len(tries) == 2
    assert ends(silent.done(*claims)) == ["marked"]


# ---- what the server forgot


def test_rows_that_are_open_under_a_lease_whose_runner_does_not_hold_them_are_given_back(place):
    table = place.video(4)
    lease = place.lease(table)
    claims = lease.claim(3)
    held = {claims[0].claim_no}
    found = lease.beat().open
    assert lease.reopened(found, found, RETRY).pending == 0
    lease.done(claims[1])
    # As after a fail-over to a replica that was behind: the end is not there.
    place.sql("UPDATE pooltable_video_claims SET ended = 'hhh', left_open = 3")
    place.sql("UPDATE video SET status = 'DOING' WHERE id = 2")
    place.fates.clear()
    rescue = lease.reopened(held, lease.beat().open, RETRY)
    assert (rescue.pending, rescue.failed) == (2, 0)
    assert statuses(place) == ["DOING", "PENDING", "PENDING", "PENDING"]
    entry = table.entry(2)
    assert (entry.ended, entry.rescued, entry.fails, entry.lost) == ("lost", 1, 0, 0)
    assert "lost how its last attempt ended" in entry.reason
    assert ends(lease.done(*claims)) == ["done", "fenced", "fenced"]


def test_rows_of_a_claim_whose_answer_was_lost_are_not_given_back(place, monkeypatch):
    lease = place.lease(place.video(2))
    lost_once(monkeypatch)
    with pytest.raises(DatabaseUnavailable):
        lease.claim(1)
    assert lease.reopened((), lease.beat().open, RETRY).pending == 0
    assert [claim.key for claim in lease.claim(1)] == [(1,)]


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
def test_a_row_that_runs_here_is_not_given_back_because_its_entry_spells_the_key_otherwise(kind, request):
    place = request.getfixturevalue(kind)
    name = {"sqlite": "TEXT COLLATE NOCASE", "mariadb": "VARCHAR(20)"}[kind]
    place.script(f"CREATE TABLE t (name {name} PRIMARY KEY, status VARCHAR(20))")
    place.sql("INSERT INTO t VALUES ('a', 'PENDING')")
    place.counts_claims = False
    lease = place.lease(place.table("t"))
    lease.again(lease.one())
    place.sql("UPDATE t SET name = 'A'")
    place.due_now("pooltable_t_entry")
    (claim,) = lease.claim(1)
    assert (claim.attempt, claim.fails) == (2, 1)
    beat = lease.beat()
    assert beat.open == {claim.claim_no}
    assert lease.reopened({claim.claim_no}, beat.open, RETRY) == NOTHING_RESCUED
    assert ends(lease.done(claim)) == ["done"]


# ---- which process lives


def test_this_process_lives_and_one_with_another_start_does_not():
    assert identity.lives(os.getpid(), identity.started())
    assert not identity.lives(os.getpid(), "12345")


def test_a_process_that_ended_and_was_not_reaped_is_gone():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    since = identity.started(process.pid)
    assert identity.lives(process.pid, since)
    process.communicate(b"\n")
    assert not identity.lives(process.pid, since)
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    since = "0"
    wait_until(lambda: identity.started(zombie.pid) is None)
    zombie.wait()


def test_a_process_of_which_nothing_is_known_is_taken_for_living():
    assert identity.lives(None, None)
    assert identity.lives(4711, None)


def test_a_process_that_proc_hides_because_it_is_another_users_is_taken_for_living(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    def kill(pid, number):
        raise PermissionError if pid == 4711 else ProcessLookupError

    monkeypatch.setattr(identity, "open", missing, raising=False)
    monkeypatch.setattr(os, "kill", kill)
    assert identity.lives(4711, "12345")
    assert not identity.lives(4712, "12345")


# ---- neighbours: processes whose end is noticed at once


@pytest.fixture
def told():
    return threading.Event()


@pytest.fixture
def neighbours(told):
    neighbours = Neighbours(told.set)
    yield neighbours
    neighbours.close()


def test_the_end_of_a_neighbours_process_is_told_at_once(neighbours, told):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    both = {(one.pid, identity.started(one.pid)) for one in (process, other)}
    neighbours.show(both)
    neighbours.show(both)
    other.communicate(b"\n")
    assert told.wait(10)
    assert neighbours.ended
    # That it has ended is told once, as long as it is shown and after.
    told.clear()
    assert not told.wait(0.2)
    neighbours.show({one for one in both if one[0] == process.pid})
    assert not told.wait(0.2)
    process.communicate(b"\n")
    assert told.wait(10)


def test_a_neighbour_that_ended_before_it_is_watched_is_told_and_who_has_its_pid_now_is_not_taken_for_it(
    neighbours, told
):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    neighbours.show({(process.pid, "12345")})
    assert told.wait(10)
    told.clear()
    process.communicate(b"\n")
    assert not told.wait(0.3)


def test_neighbours_are_left_although_a_process_was_forked_meanwhile(neighbours):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    neighbours.show({(process.pid, identity.started(process.pid))})
    # As a worker of an executor of the user's own, which outlives the run.
    reader, writer = os.pipe()
    forked = os.fork()
    if not forked:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    closing = threading.Thread(target=neighbours.close)
    closing.start()
    closing.join(10)
    left = not closing.is_alive()
    os.close(writer)
    os.waitpid(forked, 0)
    process.communicate(b"\n")
    assert left


def test_the_living_of_this_host_are_the_neighbours_and_nobody_else(place):
    table = place.video(1)
    lease, same, elsewhere, gone = (place.lease(table) for _ in range(4))
    place.move_to_another_host(elsewhere)
    place.process_gone(gone)
    lease.rescue(RETRY)
    assert lease.neighbours == {(os.getpid(), identity.started())}
    same.close()
    lease.rescue(RETRY)
    assert lease.neighbours == frozenset()
