"""Claims: which rows, in which order, how many times, and what is in their way."""

from __future__ import annotations

import time
from datetime import date

import pytest

from pooltable.errors import DatabaseError
from pooltable.table.states import Again, Done, Finish, PutOff, Released
from tests.table.places import ends, wait_until


def keys(claims):
    return [claim.key[0] for claim in claims]


def test_rows_are_claimed_in_the_order_of_their_keys(place):
    lease = place.lease(place.video(5))
    assert keys(lease.claim(3)) == [1, 2, 3]
    assert keys(lease.claim(3)) == [4, 5]
    assert lease.claim(3) == []
    assert set(place.statuses().values()) == {"DOING"}


def test_an_empty_table_gives_no_claims(place):
    lease = place.lease(place.video())
    assert lease.claim(10) == []
    assert lease.left() == (0, None, 0, 0, 0)


def test_a_claim_of_no_rows_changes_nothing(place):
    lease = place.lease(place.video(2))
    assert lease.claim(0) == []
    assert set(place.statuses().values()) == {"PENDING"}


def test_a_first_claim_is_attempt_1_with_a_full_budget(place):
    lease = place.lease(place.video(1))
    claim = lease.one()
    assert (claim.key, *claim[2:6]) == ((1,), 1, 0, 0, 0)
    assert claim.idempotency_key == f"{lease.id}-1-0"
    assert not claim.alone


def test_claim_numbers_are_never_used_twice_by_a_runner(place):
    lease = place.lease(place.video(4))
    numbers = []
    for _ in range(5):
        claims = lease.claim(4)
        numbers += [claim.claim_no for claim in claims]
        lease.release(*claims)
    assert len(set(numbers)) == len(numbers) == 20


def test_two_runners_never_claim_the_same_row(place):
    table = place.video(10)
    one, two = place.lease(table), place.lease(table)
    first, second = keys(one.claim(4)), keys(two.claim(100))
    assert sorted(first + second) == list(range(1, 11))


def test_rows_with_words_that_are_not_ours_are_never_touched(place):
    table = place.video(2)
    place.sql("INSERT INTO video (id, status) VALUES (3, 'ARCHIVED'), (4, NULL), (5, 'DONE'), (6, 'FAILED')")
    lease = place.lease(table)
    lease.done(*lease.claim(100))
    assert place.statuses() == {1: "DONE", 2: "DONE", 3: "ARCHIVED", 4: None, 5: "DONE", 6: "FAILED"}
    assert table.counts().other == 2


def test_doing_rows_that_somebody_else_started_are_never_touched(place):
    table = place.video(2)
    place.sql("UPDATE video SET status = 'DOING' WHERE id = 1")
    place.foreign_doing = 1
    lease = place.lease(table)
    assert keys(lease.claim(10)) == [2]
    assert table.look().foreign_doing == 1
    assert lease.rescue(_retry()).pending == 0


def _retry():
    from pooltable import Retry

    return Retry()


def test_the_columns_of_a_row_are_read_after_its_claim(place):
    lease = place.lease(place.video(2))
    claims = lease.claim(2)
    place.sql("UPDATE video SET content = 'changed' WHERE id = 2")
    rows = lease.read(claims)
    assert [row.content for row in rows] == ["video 1", "changed"]
    assert rows[0].fields == ("id", "content", "caption", "score", "number")


def test_the_columns_of_a_row_that_is_gone_are_none(place):
    lease = place.lease(place.video(3))
    claims = lease.claim(3)
    place.sql("DELETE FROM video WHERE id = 2")
    rows = lease.read(claims)
    assert [row and row.id for row in rows] == [1, None, 3]
    assert ends(lease.done(*claims)) == ["done", "vanished", "done"]


def test_a_thousand_rows_are_read_in_the_order_of_their_claims(place):
    lease = place.lease(place.video(1000))
    claims = lease.claim(1000)
    assert [row.id for row in lease.read(claims[::-1])] == keys(claims[::-1])


# ---- order and scope


def test_order_by_says_which_rows_come_first(place):
    table = place.video(6, order_by="number DESC")
    place.sql("UPDATE video SET number = id % 3")
    lease = place.lease(table)
    assert keys(lease.claim(3)) == [5, 2, 4]
    assert keys(lease.claim(10)) == [1, 6, 3]


@pytest.mark.parametrize(
    "order_by", ["number", "number, id DESC", "[number] ASC, video.id", "ABS(number), id", ["number"]]
)
def test_orders_of_several_kinds_give_every_row_once(place, order_by):
    marked = [place.quoted(part) for part in order_by] if isinstance(order_by, list) else place.quoted(order_by)
    table = place.video(20, order_by=marked)
    place.sql("UPDATE video SET number = id % 3")
    lease = place.lease(table)
    seen = []
    while claims := lease.claim(3):
        seen += keys(claims)
        lease.done(*claims)
    assert sorted(seen) == list(range(1, 21))
    assert [i % 3 for i in seen] == sorted(i % 3 for i in seen)


def test_order_by_columns_without_nulls_goes_on_from_a_cursor(place):
    table = place.video(12, order_by="score DESC, number")
    place.sql("UPDATE video SET number = id % 4, score = id % 2")
    lease = place.lease(table)
    seen = [claim.key[0] for _ in range(6) for claim in lease.claim(2)]
    assert seen == sorted(range(1, 13), key=lambda i: (-(i % 2), i % 4, i))


def test_where_limits_what_is_claimed_counted_and_waited_for(place):
    table = place.video(10, where="id > 4 AND content LIKE 'video %'")
    lease = place.lease(table)
    assert keys(lease.claim(100)) == [5, 6, 7, 8, 9, 10]
    assert lease.left().pending == 0
    assert table.counts().doing == 6
    assert table.counts().pending == 0


def test_a_column_named_in_where_is_the_users_own_even_when_entries_have_one_of_that_name(place):
    place.script("CREATE TABLE video (id INTEGER PRIMARY KEY, attempt INTEGER, status VARCHAR(10))")
    place.sql("INSERT INTO video VALUES (1, 5, 'PENDING'), (2, 0, 'PENDING')")
    table = place.table("video", where="attempt = 5", order_by="attempt")
    lease = place.lease(table)
    for _ in range(3):
        claim = lease.one()
        assert claim.key == (1,)
        lease.again(claim)
        place.due_now()


def test_expressions_of_sqlalchemy_serve_as_scope_and_order(place):
    import sqlalchemy as sa

    place.video(6)
    video = sa.Table("video", sa.MetaData(), autoload_with=place.engine)
    table = place.table(video, where=video.c.id.between(2, 5), order_by=[video.c.id.desc()])
    assert keys(place.lease(table).claim(10)) == [5, 4, 3, 2]


# ---- back-off and the cursor


def test_a_row_under_back_off_is_not_claimed_before_it_is_due(place):
    lease = place.lease(place.video(2))
    first = lease.one()
    assert ends(lease.again(first, pause=60)) == ["retry"]
    assert keys(lease.claim(10)) == [2]
    assert lease.left().pending == 1
    assert lease.left().due_in == pytest.approx(60, abs=5)
    place.due_now()
    again = lease.one()
    assert (again.key, again.attempt, again.fails) == ((1,), 2, 1)
    assert again.idempotency_key == first.idempotency_key


def test_due_retries_come_before_waiting_rows_those_due_longest_first(place):
    lease = place.lease(place.video(6))
    one, two = lease.claim(2)
    lease.again(two, pause=50)
    lease.again(one, pause=60)
    place.due_now()
    assert keys(lease.claim(4)) == [2, 1, 3, 4]


def test_a_short_pause_ends_by_the_databases_clock(place):
    lease = place.lease(place.video(1))
    lease.again(lease.one(), pause=0.3)
    assert lease.claim(1) == []
    wait_until(lambda: lease.claim(1))


def test_a_row_behind_the_cursor_that_was_released_is_claimed_again_at_once(place):
    lease = place.lease(place.video(6))
    claims = lease.claim(4)
    lease.release(claims[0])
    assert keys(lease.claim(1)) == [1]


def test_rows_added_behind_the_cursor_by_a_late_commit_are_found(place):
    table = place.video(4)
    place.sql("UPDATE video SET id = id + 100")
    lease = place.lease(table, poll=0.05)
    assert keys(lease.claim(2)) == [101, 102]
    place.sql("INSERT INTO video (id, status) VALUES (1, 'PENDING')")
    seen = []
    wait_until(lambda: seen.extend(keys(lease.claim(1))) or 1 in seen)
    assert seen[0] in (1, 103)


def test_rows_added_while_it_runs_are_found_even_when_nothing_was_left(place):
    table = place.video(1)
    lease = place.lease(table)
    lease.done(*lease.claim(10))
    assert lease.claim(10) == []
    table.add([{"id": 2, "content": "new"}, {"id": -1, "content": "new"}])
    seen = []
    wait_until(lambda: seen.extend(keys(lease.claim(10))) or sorted(seen) == [-1, 2])


def test_rows_under_back_off_at_the_head_do_not_hide_those_behind(place):
    lease = place.lease(place.video(30))
    for _ in range(2):
        lease.again(*lease.claim(10), pause=3600)
    assert keys(lease.claim(5)) == [21, 22, 23, 24, 25]


# ---- rounds


@pytest.mark.parametrize("finish", ["done", "fail"])
def test_a_finished_row_set_back_to_pending_by_hand_begins_afresh(place, finish):
    lease = place.lease(place.video(1))
    first = lease.one()
    lease.again(first, pause=0)
    second = lease.one()
    assert (second.attempt, second.fails) == (2, 1)
    getattr(lease, finish)(second)
    place.sql("UPDATE video SET status = 'PENDING'")
    third = lease.one()
    assert third[2:6] == (1, 0, 0, 0)
    assert third.idempotency_key not in (first.idempotency_key, "")
    assert first.idempotency_key == second.idempotency_key


def test_a_key_that_was_deleted_and_comes_back_begins_afresh(place):
    lease = place.lease(place.video(1))
    first = lease.one()
    lease.again(first, pause=0)
    lease.done(lease.one())
    place.sql("DELETE FROM video")
    place.sql("INSERT INTO video (id, status) VALUES (1, 'PENDING')")
    claim = lease.one()
    assert claim.fails == 0
    assert claim.idempotency_key != first.idempotency_key


def test_a_row_reset_to_pending_while_it_runs_is_run_again_and_the_first_claim_is_fenced(place):
    table = place.video(1)
    one, two = place.lease(table), place.lease(table)
    first = one.one()
    place.sql("UPDATE video SET status = 'PENDING'")
    second = two.one()
    assert second.idempotency_key != first.idempotency_key
    assert ends(one.done(first)) == ["fenced"]
    assert ends(two.done(second)) == ["done"]


# ---- refusals


def refuse_changes(place, condition):
    """A trigger that quietly leaves rows alone: on MariaDB there is no such thing, so it refuses aloud."""
    if place.kind == "sqlite":
        place.script(f"CREATE TRIGGER stubborn BEFORE UPDATE ON video WHEN {condition} BEGIN SELECT RAISE(IGNORE); END")
    elif place.kind == "postgresql":
        place.script(
            "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            f"CREATE TRIGGER stubborn BEFORE UPDATE ON video FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION leave()",
        )
    else:
        place.script(
            f"CREATE TRIGGER stubborn BEFORE UPDATE ON video FOR EACH ROW BEGIN IF {condition} THEN"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'stubborn'; END IF; END"
        )


def test_a_trigger_that_refuses_the_doing_word_stops_the_claim_with_one_line_and_no_attempt(place):
    table = place.video(3)
    refuse_changes(place, "NEW.status = 'DOING' AND NEW.id = 2")
    lease = place.lease(table)
    with pytest.raises(DatabaseError, match=r"'video'.*'DOING'.*nothing was claimed") as caught:
        lease.claim(3)
    assert "\n" not in str(caught.value)
    assert set(place.statuses().values()) == {"PENDING"}
    assert table.entry(1) is None


def test_a_constraint_that_forbids_the_doing_word_stops_the_claim_with_one_line(place):
    place.script(
        "CREATE TABLE video (id INTEGER PRIMARY KEY, status VARCHAR(10), CHECK (status IN ('PENDING', 'DONE',"
        " 'FAILED')))"
    )
    place.sql("INSERT INTO video VALUES (1, 'PENDING')")
    table = place.table("video")
    lease = place.lease(table)
    with pytest.raises(DatabaseError, match="nothing was claimed"):
        lease.claim(3)
    assert table.entry(1) is None


def test_nothing_is_claimed_while_the_job_is_paused(place):
    table = place.video(2)
    lease = place.lease(table)
    table.pause()
    answer = lease.exchange([], 5)
    assert answer.claims == []
    assert answer.paused
    table.resume()
    assert len(lease.exchange([], 5).claims) == 2


def test_an_exchange_writes_ends_and_claims_in_one_go(place):
    lease = place.lease(place.video(6))
    claims = lease.exchange([], 3).claims
    answer = lease.exchange([Finish(claim, Done()) for claim in claims], 2)
    assert ends(answer.fates) == ["done"] * 3
    assert keys(answer.claims) == [4, 5]
    assert not answer.paused


def test_a_claim_that_comes_back_short_tells_when_the_next_row_is_due(place):
    lease = place.lease(place.video(3))
    first, second, third = lease.claim(3)
    verdicts = [PutOff(40.0), Again(20.0, "E", "bad"), Done()]
    answer = lease.exchange([Finish(*end) for end in zip((first, second, third), verdicts, strict=True)], 1)
    assert answer.due_in == pytest.approx(20, abs=5)
    # One that is due, and that is none of ours to take, hides nothing.
    place.sql("UPDATE video SET status = 'else' WHERE id = 2")
    assert lease.exchange([], 1).due_in == pytest.approx(40, abs=5)
    assert lease.exchange([], 0).due_in is None


# A row that was given back before a worker had it is as if it had never been claimed.
@pytest.mark.parametrize("worker, attempt", [(None, 1), (0, 2)])
def test_an_exchange_that_releases_rows_and_claims_them_again_is_told_rightly_when_the_answer_is_lost(
    served, worker, attempt
):
    lease = served.lease(served.video(3))
    claims = lease.claim(3)
    connection = lease._session.connection()
    commit = connection.commit

    def commit_and_lose():
        commit()
        connection.sever()
        connection.all("SELECT 1")

    connection.commit = commit_and_lose
    verdicts = [Released(), Done(), Again(0.0, "E", "bad")]
    ended = zip(claims, verdicts, (worker, 0, 0), strict=True)
    answer = lease.exchange([Finish(claim, verdict, None, at) for claim, verdict, at in ended], 5)
    assert connection.is_severed
    assert ends(answer.fates) == ["released", "done", "retry"]
    assert [(claim.key, claim.attempt, claim.fails) for claim in answer.claims] == [((1,), attempt, 0), ((3,), 2, 1)]
    assert ends(lease.done(*answer.claims)) == ["done"] * 2


def test_claims_stay_flat_with_many_rows_under_back_off(place):
    lease = place.lease(place.video(5000))
    for _ in range(4):
        lease.again(*lease.claim(1000), pause=3600)
    began = time.monotonic()
    for _ in range(50):
        lease.done(*lease.claim(10))
    assert time.monotonic() - began < 10
    assert lease.left().pending == 1000


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
def test_keys_that_python_has_no_date_for_are_claimed_read_and_finished_like_others(postgresql, kind):
    far = ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01"]
    postgresql.script(
        f"CREATE TABLE day (at {kind} PRIMARY KEY, seen {kind}, status text, caption text)",
        *(f"INSERT INTO day VALUES ('{at}', '{at}', 'PENDING')" for at in [*far, "2024-05-06"]),
    )
    table = postgresql.table("day", write=("caption",))
    lease = postgresql.lease(table)
    claims = lease.claim(3)
    assert [len(claims), len(lease.read(claims))] == [3, 3]
    released, put_off, done = claims
    answer = lease.exchange(
        [Finish(released, Released()), Finish(put_off, Again(0.0, "E", "bad")), Finish(done, Done({"caption": "x"}))], 5
    )
    assert ends(answer.fates) == ["released", "retry", "done"]
    assert len(answer.claims) == 4
    rows = lease.read(answer.claims)
    assert all(isinstance(row.seen, date) for row in rows), "what is not the key is the nearest date, as before"
    assert ends(lease.done(*answer.claims)) == ["done"] * 4
    assert postgresql.sql("SELECT DISTINCT status FROM day") == [("DONE",)]
    assert {table.entry(at).status for at in [*far, "2024-05-06"]} == {"done"}
    assert table.requeue(["infinity", "2024-05-06"]) == 2


# ---- whether a row waits


def test_a_server_tells_whether_a_row_waits_that_can_be_claimed(served):
    lease = served.lease(served.video(3, where="id < 10"))
    assert lease.waits()
    claims = lease.claim(10)
    assert not lease.waits()
    lease.again(claims[0])
    assert not lease.waits(), "it is under back-off"
    served.sql("INSERT INTO video (id, status) VALUES (11, 'PENDING')")
    assert not lease.waits(), "it is out of scope"
    lease.release(claims[1])
    assert lease.waits()
    lease.done(*claims[2:])


def test_an_idle_runner_begins_a_new_row_long_before_its_next_claim_is_due(served, monkeypatch):
    import threading

    from pooltable import Runner, pace

    monkeypatch.setattr(pace.Pulse, "QUICKEST", 300.0)
    table = served.video(1, write=("caption",))
    runner = Runner(lambda row: "seen", table, processes=0, forever=True, poll=300.0)
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        for number in (1, 2, 3):
            wait_until(lambda number=number: served.statuses() == dict.fromkeys(range(1, number + 1), "DONE"))
            if number < 3:
                served.sql("INSERT INTO video (id, status) VALUES (:id, 'PENDING')", id=number + 1)
    finally:
        runner.stop()
        thread.join()
    served.counts_claims = False
