"""Finishes: what is written, what is not and why, and what a bad value costs."""

from __future__ import annotations

import pytest

from pooltable.errors import DatabaseUnavailable, WorkerLost
from pooltable.outcomes import failure_of
from pooltable.table.states import Again, Done, Finish, GiveUp, PutOff, Released, judge
from tests.table.places import RETRY, ends, lost_once
from tests.table.test_claims import refuse_changes


def test_each_verdict_leaves_its_word_and_its_entry(place):
    table = place.video(5)
    lease = place.lease(table)
    claims = lease.claim(5)
    verdicts = [
        Done(),
        GiveUp("E", "bad", "long", "fails"),
        Again(60, "E", "bad", "", "lost"),
        PutOff(60, "busy"),
        Released(),
    ]
    fates = lease.finish(Finish(c, v, 1.5, 3, "log") for c, v in zip(claims, verdicts, strict=True))
    assert ends(fates) == ["done", "failed", "retry", "later", "released"]
    assert list(place.statuses().values()) == ["DONE", "FAILED", "PENDING", "PENDING", "PENDING"]
    done, failed, retry, later, released = (table.entry(i) for i in range(1, 6))
    assert [e.ended for e in (done, failed, retry, later, released)] == ["done", "failed", "retry", "later", "released"]
    assert (done.seconds, done.worker, done.log, done.error) == (1.5, 3, "", "")
    assert (failed.kind, failed.reason, failed.error, failed.log) == ("E", "bad", "bad\nlong", "log")
    assert (failed.fails, retry.lost, later.fails, released.fails) == (1, 1, 0, 0)
    assert failed.not_before is None
    assert retry.not_before == pytest.approx(retry.finished_at + 60, abs=2)
    assert later.not_before == pytest.approx(later.finished_at + 60, abs=2)
    assert released.not_before is None


def test_fates_come_in_the_order_of_the_ends(place):
    lease = place.lease(place.video(6))
    claims = lease.claim(6)
    place.sql("DELETE FROM video WHERE id IN (2, 5)")
    fates = lease.done(*claims[::-1])
    assert [fate.claim for fate in fates] == claims[::-1]
    assert ends(fates) == ["done", "vanished", "done", "done", "vanished", "done"]


def test_results_go_to_their_columns_with_the_status(place):
    table = place.video(2, write=("caption", "score", "number"))
    lease = place.lease(table)
    one, two = lease.claim(2)
    lease.finish([Finish(one, Done({"caption": "a cat", "score": 0.5})), Finish(two, Done({"number": 3}))])
    assert place.sql("SELECT caption, score, number, status FROM video ORDER BY id") == [
        ("a cat", 0.5, None, "DONE"),
        (None, None, 3, "DONE"),
    ]


def test_a_failed_row_keeps_its_columns(place):
    table = place.video(1, write=("caption",))
    place.sql("UPDATE video SET caption = 'old'")
    lease = place.lease(table)
    lease.fail(lease.one())
    assert place.sql("SELECT caption, status FROM video") == [("old", "FAILED")]


# ---- what the user did meanwhile


@pytest.mark.parametrize(
    "statement, why",
    [
        ("DELETE FROM video", "vanished"),
        ("UPDATE video SET status = 'PENDING'", "overwritten"),
        ("UPDATE video SET status = 'CANCELLED'", "overwritten"),
        ("UPDATE video SET status = NULL", "overwritten"),
        ("UPDATE video SET status = 'DONE'", "marked"),
        ("UPDATE video SET status = 'FAILED'", "marked"),
    ],
)
@pytest.mark.parametrize(
    "verdict", [Done("text"), GiveUp("E", "e"), Again(5.0, "E", "e"), Released()], ids=lambda v: type(v).__name__
)
def test_what_the_user_wrote_meanwhile_stays_and_is_named(place, statement, why, verdict):
    table = place.video(3, write=("caption",))
    lease = place.lease(table)
    claims = lease.claim(3)
    place.sql(f"{statement} WHERE id = 2")
    before = place.sql("SELECT * FROM video WHERE id = 2")
    assert ends(lease.end(verdict, *claims))[1] == why
    assert place.sql("SELECT * FROM video WHERE id = 2") == before
    lease.close()
    entry = table.entry(2)
    assert entry is None if why == "vanished" else entry.ended is not None


def test_a_row_that_the_task_marked_is_taken_as_ended_and_begins_afresh_later(place):
    table = place.video(1)
    lease = place.lease(table)
    claim = lease.one()
    place.sql("UPDATE video SET status = 'DONE'")
    (fate,) = lease.fail(claim)
    assert (fate.why, fate.reason, table.entry(1).ended) == ("marked", "done", "done")
    place.sql("UPDATE video SET status = 'PENDING'")
    assert lease.one().fails == 0


def test_a_row_saved_whole_with_its_old_status_is_told_as_overwritten_and_runs_again(place):
    lease = place.lease(place.video(1))
    claim = lease.one()
    place.sql("UPDATE video SET content = 'edited', status = 'PENDING'")
    assert ends(lease.done(claim)) == ["overwritten"]
    again = lease.one()
    assert (again.attempt, again.idempotency_key) == (2, claim.idempotency_key)


def test_a_row_that_was_deleted_and_came_back_under_another_claim_is_fenced(place):
    table = place.video(1)
    one, two = place.lease(table), place.lease(table)
    first = one.one()
    place.sql("DELETE FROM video")
    place.sql("INSERT INTO video (id, status) VALUES (1, 'PENDING')")
    second = two.one()
    assert ends(one.done(first)) == ["fenced"]
    assert ends(two.done(second)) == ["done"]


def test_finishing_again_what_was_written_tells_the_same_fates_and_changes_nothing(place, monkeypatch):
    table = place.video(4)
    lease = place.lease(table)
    claims = lease.claim(4)
    finishes = [
        Finish(claims[0], Done()),
        Finish(claims[1], GiveUp("E", "bad", "", "fails")),
        Finish(claims[2], Again(9.0, "E", "bad")),
    ]
    lost_once(monkeypatch)
    with pytest.raises(DatabaseUnavailable):
        lease.finish(finishes)
    entries = [table.entry(i) for i in (1, 2, 3)]
    assert [entry.ended for entry in entries] == ["done", "failed", "retry"]
    again = lease.finish(finishes)
    assert ends(again) == ["done", "failed", "retry"]
    assert [table.entry(i) for i in (1, 2, 3)] == entries
    assert [fate.reason for fate in again] == ["", "bad", "bad"]


def test_a_claim_whose_record_is_gone_is_fenced(place):
    lease = place.lease(place.video(1))
    claim = lease.one()
    place.sql("DELETE FROM pooltable_video_claims")
    assert ends(lease.done(claim)) == ["fenced"]
    place.foreign_doing = 1


def test_a_group_of_a_thousand_ends_of_all_kinds_is_written_in_one_go(place):
    table = place.video(1000, write=("caption",))
    lease = place.lease(table)
    claims = lease.claim(1000)
    place.sql("DELETE FROM video WHERE id % 100 = 0")
    verdicts = [Done(f"text {c.key[0]}") if c.key[0] % 2 else Again(60.0, "E", "e") for c in claims]
    fates = lease.finish(Finish(c, v) for c, v in zip(claims, verdicts, strict=True))
    assert ends(fates).count("done") == 500
    assert ends(fates).count("retry") == 490
    assert ends(fates).count("vanished") == 10
    assert place.value("SELECT count(*) FROM video WHERE status = 'DONE' AND caption LIKE 'text %'") == 500


# ---- what the database refuses


def test_a_refused_result_fails_its_row_alone(place):
    place.script(
        "CREATE TABLE video (id INTEGER PRIMARY KEY, status VARCHAR(10), number INTEGER, CHECK (number < 100))"
    )
    for i in range(1, 51):
        place.sql("INSERT INTO video VALUES (:i, 'PENDING', 0)", i=i)
    table = place.table("video", write=("number",))
    lease = place.lease(table)
    claims = lease.claim(50)
    fates = lease.finish(Finish(c, Done(1000 if c.key[0] in (7, 31) else c.key[0])) for c in claims)
    assert [fate.claim.key[0] for fate in fates if fate.end == "failed"] == [7, 31]
    assert ends(fates).count("done") == 48
    assert fates[6].kind == "CannotStore"
    assert "cannot be stored" in fates[6].reason
    assert table.entry(7).kind == "CannotStore"
    assert place.value("SELECT sum(number) FROM video") == sum(range(1, 51)) - 38


def test_a_value_that_another_row_has_already_fails_its_row_alone(place):
    place.script("CREATE TABLE video (id INTEGER PRIMARY KEY, status VARCHAR(10), label VARCHAR(20) UNIQUE)")
    for i in range(1, 9):
        place.sql("INSERT INTO video VALUES (:i, 'PENDING', NULL)", i=i)
    table = place.table("video", write=("label",))
    lease = place.lease(table)
    fates = lease.finish(Finish(c, Done(f"label {c.key[0] // 2}")) for c in lease.claim(8))
    assert sorted(ends(fates)) == ["done"] * 5 + ["failed"] * 3


def test_where_even_failed_is_refused_the_entry_ends_as_stuck_and_can_be_requeued(place):
    table = place.video(3)
    refuse_changes(place, "NEW.id = 2 AND NEW.status IN ('DONE', 'FAILED')")
    lease = place.lease(table)
    fates = lease.done(*lease.claim(3))
    assert ends(fates) == ["done", "stuck", "done"]
    assert place.statuses() == {1: "DONE", 2: "DOING", 3: "DONE"}
    assert table.entry(2).ended == "stuck"
    assert ("stubborn" if place.kind == "mariadb" else "a trigger leaves it alone") in table.entry(2).reason
    assert [entry.key for entry in table.failures()] == [(2,)]
    assert table.requeue([2]) == 1
    assert lease.one().fails == 0


def test_a_trigger_that_refuses_one_end_aloud_costs_its_row_alone(place):
    table = place.video(3)
    if place.kind == "sqlite":
        place.script(
            "CREATE TRIGGER strict BEFORE UPDATE ON video WHEN NEW.id = 2 AND NEW.status = 'DONE'"
            " BEGIN SELECT RAISE(ABORT, 'not you'); END"
        )
    elif place.kind == "postgresql":
        place.script(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not you''; END'",
            "CREATE TRIGGER strict BEFORE UPDATE ON video FOR EACH ROW WHEN (NEW.id = 2 AND NEW.status = 'DONE')"
            " EXECUTE FUNCTION refuse()",
        )
    else:
        place.script(
            "CREATE TRIGGER strict BEFORE UPDATE ON video FOR EACH ROW BEGIN IF NEW.id = 2 AND NEW.status = 'DONE' THEN"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not you'; END IF; END"
        )
    lease = place.lease(table)
    fates = lease.done(*lease.claim(3))
    assert ends(fates) == ["done", "failed", "done"]
    assert "not you" in fates[1].reason


# ---- texts


def test_errors_and_logs_with_odd_characters_are_kept_readable(place):
    table = place.video(1)
    lease = place.lease(table)
    odd = "nul \0, surrogate \ud800, smile \U0001f600, percent % %s, quote ' \" \\"
    lease.finish([Finish(lease.one(), GiveUp(odd, odd, odd, "fails"), 0.1, 0, odd)])
    entry = table.entry(1)
    assert entry.reason == "nul \\x00, surrogate \\ud800, smile \U0001f600, percent % %s, quote ' \" \\"
    assert entry.log == entry.reason
    assert entry.kind == entry.reason


def test_long_errors_and_logs_are_cut_in_the_middle(place):
    table = place.video(1)
    lease = place.lease(table)
    text = "begin" + "x" * 1_000_000 + "end"
    lease.finish([Finish(lease.one(), GiveUp("E" * 1000, "r", text, "fails"), 0.1, 0, text)])
    entry = table.entry(1)
    assert len(entry.log) < 17_000
    assert entry.log.startswith("begin")
    assert entry.log.endswith("end")
    assert len(entry.error) < 17_000
    assert len(entry.kind) == 200


def test_the_log_of_a_row_that_is_done_is_not_kept(place):
    table = place.video(1)
    lease = place.lease(table)
    lease.again(lease.one(), pause=0)
    assert table.entry(1).log == "printed"
    lease.done(lease.one())
    assert (table.entry(1).log, table.entry(1).error) == ("", "")


def test_a_row_that_killed_a_worker_runs_alone_from_then_on(place):
    lease = place.lease(place.video(1))
    for attempt in (1, 2):
        claim = lease.one()
        assert claim.alone is (attempt == 2)
        lease.end(judge(failure_of(WorkerLost(4711, -9)), claim, RETRY), claim)
        place.due_now()
    lease.end(judge(failure_of(WorkerLost(4711, -9)), claim := lease.one(), RETRY), claim)
    assert place.statuses() == {1: "FAILED"}
