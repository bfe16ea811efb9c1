"""The database goes away, refuses, holds what cannot be read, or is locked by somebody else, at every verb of a run."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time

import pytest

from pooltable import DatabaseError, DatabaseUnavailable, Pace, Retry, Runner, TaskTable, events, run
from pooltable.loop import Loop
from pooltable.table.database import Session
from pooltable.table.lease import Exchange, Lease
from tests.runner import missions
from tests.runner.videos import wait_until


def table(videos, **options):
    return TaskTable(videos.url, "video", **{"write": ("caption",), **options})


VERBS = ("exchange", "read", "beat", "reopened", "rescue", "left", "changed")


@pytest.fixture
def broken(monkeypatch):
    """The n-th call of a verb of the lease fails as if the connection was lost, before or after it did its work."""

    def break_at(number, when):
        calls = {"count": 0, "armed": False}

        def breaking(verb):
            original = getattr(Lease, verb)

            def wrapped(self, *args):
                calls["count"] += 1
                calls["armed"] = calls["count"] == number
                if calls["armed"] and when == "before":
                    raise DatabaseUnavailable("cut off")
                return original(self, *args)

            return wrapped

        transact = Session.transact

        def transacted(self, work, *args):
            result = transact(self, work, *args)
            if calls["armed"] and when == "after":
                calls["armed"] = False
                raise DatabaseUnavailable("cut off during the commit")
            return result

        for verb in VERBS:
            monkeypatch.setattr(Lease, verb, breaking(verb))
        monkeypatch.setattr(Session, "transact", transacted)
        monkeypatch.setattr("pooltable.patience.FIRST_PAUSE", 0.001)
        return calls

    return break_at


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 13))
def test_a_database_that_goes_away_at_any_verb_costs_no_row_anything(videos, broken, number, when):
    videos.add("ok", "once", "ok", "ok")
    calls = broken(number, when)
    summary = run(missions.by_content, table(videos), processes=0, retry=Retry(fails=2, pause=0.01), listeners=[])
    assert calls["count"] >= number, "so many verbs are not called: shorten the range"
    assert (summary.done, summary.failed, summary.left, summary.exit_code) == (4, 0, 0, 0)
    assert videos.attempts() == [1, 2, 1, 1]
    assert len(videos.notes()) == 5


def test_a_claim_whose_answer_was_lost_is_run_even_if_there_is_no_room_when_it_is_found(videos, monkeypatch):
    gate = videos.folder / "gate"
    videos.add(gate, gate)
    lost = threading.Event()
    transact, exchange, free_room = Session.transact, Lease.exchange, Loop._free_room

    def transacted(self, work, *args):
        result = transact(self, work, *args)
        if isinstance(result, Exchange) and result.claims and result.claims[0].key == (2,) and not lost.is_set():
            lost.set()
            raise DatabaseUnavailable("cut off during the commit")
        return result

    def exchanged(self, ends, room):
        found = exchange(self, ends, room)
        if lost.is_set():
            monkeypatch.setattr(Loop, "_free_room", free_room)
        return found

    monkeypatch.setattr(Session, "transact", transacted)
    monkeypatch.setattr(Lease, "exchange", exchanged)
    monkeypatch.setattr(Loop, "_free_room", lambda self: 0 if lost.is_set() else min(1, free_room(self)))
    opener = threading.Thread(target=lambda: (lost.wait(20), gate.touch()))
    opener.start()
    summary = run(missions.gated, table(videos), processes=2)
    opener.join()
    assert (summary.done, summary.left) == (2, 0)
    assert videos.attempts() == [1, 1]


def test_when_claims_are_refused_what_has_ended_is_written_all_the_same(videos):
    videos.add(*["ok"] * 300)

    def refuse(event):
        if isinstance(event, events.RowsFinished):
            videos.sql(
                "CREATE TRIGGER IF NOT EXISTS no BEFORE UPDATE OF status ON video WHEN NEW.status = 'DOING'"
                " BEGIN SELECT RAISE(ABORT, 'nobody may claim'); END"
            )

    with pytest.raises(DatabaseError, match="nobody may claim") as caught:
        run(missions.by_content, table(videos), processes=1, listeners=[refuse])
    assert caught.value.summary.exit_code == 4
    ran = {int(line.split()[0]) for line in videos.notes()}
    done = {key for (key,) in videos.sql("SELECT id FROM video WHERE status = 'DONE'")}
    # The one that was in the middle when the run broke off may have been killed.
    assert len(ran - done) <= 1
    assert "DOING" not in videos.statuses()
    videos.sql("DROP TRIGGER no")


def test_a_row_that_cannot_be_read_fails_and_the_others_go_on(videos):
    videos.add("ok", "ok", "ok")
    videos.sql("UPDATE video SET content = CAST(x'ff' AS TEXT) WHERE id = 2")
    summary = run(missions.by_content, table(videos), processes=1)
    assert (summary.done, summary.failed) == (2, 1)
    assert videos.status(2) == "FAILED"


def test_a_column_that_is_dropped_ends_the_run_and_costs_no_row_anything(videos):
    videos.add(*["ok"] * 3)
    job = table(videos)
    job.prepare()
    videos.sql("ALTER TABLE video RENAME COLUMN content TO renamed")
    with pytest.raises(DatabaseError, match="content"):
        run(missions.by_content, job, processes=1)
    assert videos.statuses() == {"PENDING": 3}
    assert videos.sql("SELECT sum(fails + lost) FROM pooltable_video_entry") in ([(0,)], [(None,)])
    videos.sql("ALTER TABLE video RENAME COLUMN renamed TO content")


def test_a_row_that_is_deleted_between_its_claim_and_its_read_vanishes(videos, monkeypatch):
    videos.add("ok", "ok")
    read = Lease.read

    def deleting(self, claims):
        videos.sql("DELETE FROM video WHERE id = 1")
        return read(self, claims)

    monkeypatch.setattr(Lease, "read", deleting)
    seen = []
    summary = run(missions.by_content, table(videos), processes=0, listeners=[seen.append])
    assert summary.done == 1
    assert [event.why for event in seen if isinstance(event, events.RowNotWritten)] == ["vanished"]
    assert videos.held() == 0


def test_rows_that_turn_out_large_are_read_a_few_at_a_time(videos, monkeypatch):
    monkeypatch.setattr("pooltable.pace.Room.MOST_BYTES", 2**20)
    monkeypatch.setattr("pooltable.pace.Room.READ_AT_ONCE", 20)
    videos.add(*["small"] * 400, *["large" * 40_000] * 60)
    read = Lease.read
    sizes = []

    def noting(self, claims):
        rows = read(self, claims)
        sizes.append(sum(len(row.content) for row in rows))
        return rows

    monkeypatch.setattr(Lease, "read", noting)
    summary = run(missions.nothing, table(videos), processes=1)
    assert summary.done == 460
    # How large they are comes as a surprise once, and the mean of what is read follows.
    assert sum(size > 2**20 for size in sizes) <= 2
    assert max(sizes) <= 20 * 200_000


@pytest.mark.timeout(90)
def test_the_second_signal_is_obeyed_while_somebody_keeps_the_database_locked(videos, service):
    gate = videos.folder / "gate"
    videos.add(gate)
    running = service("gated", "processes=1, listeners=[print], pace=Pace(grace=60)")
    wait_until(lambda: videos.notes())
    other = sqlite3.connect(videos.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    gate.touch()
    wait_until(lambda: any(line.startswith("end") for line in videos.notes()))
    time.sleep(0.5)  # so that its commit waits for the lock; if not, the test is only easier
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        running.signal(number)
    began = time.monotonic()
    try:
        assert running.wait(40) == 3
        assert time.monotonic() - began < 30
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert run(missions.gated, table(videos), processes=1).done == 1


@pytest.mark.timeout(90)
@pytest.mark.parametrize("requests", [2, 3])
def test_stop_is_obeyed_while_somebody_keeps_the_database_locked(videos, requests):
    gate = videos.folder / "gate"
    videos.add(gate)
    runner = Runner(missions.gated, table(videos), processes=1, pace=Pace(grace=60))
    ended = []

    def go():
        try:
            ended.append(runner.run())
        except DatabaseUnavailable as error:
            ended.append(error.summary)

    thread = threading.Thread(target=go)
    thread.start()
    wait_until(lambda: videos.notes())
    other = sqlite3.connect(videos.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    gate.touch()
    wait_until(lambda: any(line.startswith("end") for line in videos.notes()))
    began = time.monotonic()
    for _ in range(requests):
        runner.stop()
        time.sleep(0.1)  # so that each finds the loop in another place; if not, the test is only easier
    thread.join(40)
    assert time.monotonic() - began < 30
    other.execute("ROLLBACK")
    other.close()
    # Its end could not be written: the one who stops now hears that, the one who leaves at once knows it.
    assert [summary.exit_code for summary in ended] == [4 if requests == 2 else 3]
    videos.sql("UPDATE pooltable_runner SET stopped_at = 0")  # this process lives
    assert run(missions.gated, table(videos), processes=1).done == 1


def test_a_file_that_is_moved_away_is_waited_for_and_found_again(videos):
    gate = videos.folder / "gate"
    videos.add(gate, gate)
    moved = videos.path.with_name("moved.db")
    seen = []

    def hear(event):
        seen.append(type(event).__name__)
        if isinstance(event, events.DatabaseAway):
            assert "has gone while it was in use" in event.error
            moved.rename(videos.path)
            gate.touch()

    mover = threading.Thread(target=lambda: (wait_until(lambda: videos.notes()), videos.path.rename(moved)))
    mover.start()
    summary = run(missions.gated, table(videos), processes=1, pace=Pace(lease=0.6), listeners=[hear])
    mover.join()
    assert (summary.done, summary.exit_code) == (2, 0)
    assert {"DatabaseAway", "DatabaseBack"} <= set(seen)
    assert videos.attempts() == [1, 1]


def test_a_file_that_has_gone_for_good_ends_the_run_with_exit_code_4(videos):
    videos.add(videos.folder / "gate")
    moved = videos.path.with_name("moved.db")
    mover = threading.Thread(target=lambda: (wait_until(lambda: videos.notes()), videos.path.rename(moved)))
    mover.start()
    with pytest.raises(DatabaseUnavailable, match="has gone while it was in use") as caught:
        run(missions.gated, table(videos), processes=1, pace=Pace(lease=0.6, db_wait=0.5))
    mover.join()
    assert caught.value.summary.exit_code == 4
    assert not videos.path.exists(), "nobody makes an empty one in its place"
    moved.rename(videos.path)
    videos.sql("UPDATE pooltable_runner SET stopped_at = 0")  # this process lives
    assert run(missions.nothing, table(videos), processes=1).done == 1


def test_a_file_that_was_replaced_is_told_and_gone_on_with(videos):
    gate = videos.folder / "gate"
    videos.add(gate, gate)
    seen = []

    def replace():
        wait_until(lambda: videos.notes())
        copy = sqlite3.connect(videos.folder / "copy.db")
        source = sqlite3.connect(videos.path)
        source.backup(copy)
        source.close()
        copy.close()
        os.replace(videos.folder / "copy.db", videos.path)
        for end in ("-wal", "-shm"):
            videos.path.with_name(videos.path.name + end).unlink(missing_ok=True)
        wait_until(lambda: any(isinstance(event, events.Noticed) for event in seen))
        gate.touch()

    replacer = threading.Thread(target=replace)
    replacer.start()
    summary = run(missions.gated, table(videos), processes=1, pace=Pace(lease=0.6), listeners=[seen.append])
    replacer.join()
    assert summary.done == 2
    assert [event.what for event in seen if isinstance(event, events.Noticed)] == ["file replaced"]
    assert videos.statuses() == {"DONE": 2}


def test_an_end_that_the_database_forgot_is_told_and_its_row_run_again(videos):
    gate = videos.folder / "gate"
    videos.add("ok", gate)
    seen = []

    def forget():
        wait_until(lambda: videos.statuses() == {"DONE": 1, "DOING": 1})
        videos.sql(
            "UPDATE pooltable_video_claims SET ended = replace(ended, 'd', 'h'), left_open = size, closed_at = NULL"
        )
        videos.sql("UPDATE video SET status = 'DOING', content = ? WHERE id = 1", str(gate))
        wait_until(lambda: any(isinstance(event, events.EndsForgotten) for event in seen))
        gate.touch()

    videos.sql("UPDATE video SET content = ? WHERE id = 1", str(missions.notes()))
    missions.notes().touch()
    forgetter = threading.Thread(target=forget)
    forgetter.start()
    summary = run(missions.gated, table(videos), processes=1, pace=Pace(lease=0.6), listeners=[seen.append])
    forgetter.join()
    assert [event for event in seen if isinstance(event, events.EndsForgotten)] == [events.EndsForgotten(1, 0)]
    assert videos.statuses() == {"DONE": 2}
    assert [(entry["attempt"], entry["rescued"]) for entry in map(videos.entry, (1, 2))] == [(2, 1), (1, 0)]
    assert summary.exit_code == 0


def test_a_database_that_stays_away_ends_the_run_after_the_patience(videos, monkeypatch):
    gate = videos.folder / "gate"
    videos.add(gate)

    def away(self, *args):
        raise DatabaseUnavailable("nobody answers")

    def cut(event):
        if isinstance(event, events.RowsClaimed):
            wait_until(lambda: videos.notes())
            for verb in VERBS:
                monkeypatch.setattr(Lease, verb, away)
            gate.touch()

    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable) as caught:
        run(missions.gated, table(videos), processes=1, pace=Pace(db_wait=1.0), listeners=[cut])
    assert caught.value.summary.exit_code == 4
    assert time.monotonic() - began > 1.0
    monkeypatch.undo()
    # This process lives, so a rescue of the row that it held would wait for the end of its lease.
    videos.sql("UPDATE pooltable_runner SET stopped_at = 0")
    assert run(missions.nothing, table(videos), processes=1).done == 1
