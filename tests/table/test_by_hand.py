"""What a user does by hand: add, requeue, release, pause; what is shown: counts, failures, entries, a first look."""

from __future__ import annotations

import pytest

from pooltable.errors import CannotStore, MappingError
from pooltable.table.states import Again, Finish, GiveUp, PutOff


def test_counts_tell_where_every_row_stands(place):
    table = place.video(7)
    place.sql("INSERT INTO video (id, status) VALUES (8, 'ODD'), (9, NULL)")
    lease = place.lease(table)
    claims = lease.claim(5)
    lease.done(claims[0])
    lease.fail(claims[1])
    lease.again(claims[2], pause=40)
    counts = table.counts()
    assert (counts.pending, counts.doing, counts.done, counts.failed, counts.other) == (3, 2, 1, 1, 2)
    assert counts.total == 9
    assert counts.waiting == 1
    assert counts.next_due == pytest.approx(40, abs=5)
    assert counts.open == {lease.id: 2}
    assert not counts.paused


def test_reading_makes_no_side_tables(place):
    table = place.video(2)
    assert table.counts().pending == 2
    assert table.failures() == []
    assert table.entry(1) is None
    assert table.row(2).content == "video 2"
    assert table.look().pending == 2
    assert "CREATE TABLE" in table.init_sql()
    names = {name for (name,) in tables_of(place)}
    assert names == {"video"}


def test_a_sample_is_of_rows_that_wait_else_of_rows_that_are_done_and_leaves_them_as_they_are(place):
    table = place.video(30)
    place.sql("UPDATE video SET status = 'DONE' WHERE id > 20")
    assert sorted(row.id for row in table.sample()) == list(range(1, 21))
    assert len(table.sample(5)) == 5
    before = place.statuses()
    place.sql("UPDATE video SET status = 'FAILED' WHERE id <= 20")
    assert sorted(row.content for row in table.sample()) == [f"video {id}" for id in range(21, 31)]
    assert {name for (name,) in tables_of(place)} == {"video"}
    place.sql("UPDATE video SET status = 'PENDING' WHERE id <= 20")
    assert place.statuses() == before


def tables_of(place):
    import sqlalchemy as sa

    with place.engine.connect() as connection:
        return [(name,) for name in sa.inspect(connection).get_table_names()]


def test_the_sql_that_init_shows_makes_everything_that_is_needed(place):
    table = place.video(2)
    for statement in table.init_sql().split(";\n"):
        if statement.strip():
            # One by one, because an index that is made while others write cannot be made inside a transaction.
            with place.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement)
    lease = place.lease(table)
    assert len(lease.claim(5)) == 2
    assert table.look().index_sql is None


def test_failures_are_listed_newest_first_by_kind_and_by_run(place):
    table = place.video(4)
    one, two = place.lease(table), place.lease(table)
    first, second = one.claim(2)
    one.finish([Finish(first, GiveUp("OSError", "disk", "", "fails"))])
    one.finish([Finish(second, GiveUp("ValueError", "bad", "", "fails"))])
    place.shift(5, "finished_at", table="pooltable_video_entry", where="finished_at IS NOT NULL")
    two.finish([Finish(claim, GiveUp("ValueError", "bad", "", "fails")) for claim in two.claim(2)])
    assert {entry.key for entry in table.failures()[:2]} == {(3,), (4,)}
    assert [entry.key for entry in table.failures(kind="OSError")] == [(1,)]
    assert {entry.key for entry in table.failures(run=one.id)} == {(1,), (2,)}
    assert {entry.key for entry in table.failures(run=two.id[:8], kind="ValueError")} == {(3,), (4,)}
    assert len(table.failures(limit=3)) == 3


def test_a_failure_that_was_requeued_is_no_failure_any_more(place):
    table = place.video(2)
    lease = place.lease(table)
    lease.fail(*lease.claim(2))
    assert table.requeue([1]) == 1
    assert [entry.key for entry in table.failures()] == [(2,)]


# ---- requeue


def test_requeue_makes_named_finished_rows_pending_again_with_a_fresh_budget(place):
    table = place.video(4)
    lease = place.lease(table)
    one, two, _, _ = lease.claim(4)
    lease.done(one)
    lease.fail(two)
    assert table.requeue([1, (2,), 3, 99]) == 2
    assert place.statuses() == {1: "PENDING", 2: "PENDING", 3: "DOING", 4: "DOING"}
    assert [claim.fails for claim in lease.claim(9)] == [0, 0]


def test_requeue_of_all_failed_rows_takes_those_that_failed_by_hand_too(place):
    table = place.video(3)
    lease = place.lease(table)
    lease.fail(*lease.claim(1))
    place.sql("UPDATE video SET status = 'FAILED' WHERE id = 3")
    assert table.requeue(failed=True) == 2
    assert set(place.statuses().values()) == {"PENDING"}


def test_requeue_of_a_run_undoes_its_burst_of_failures_and_nothing_else(place):
    table = place.video(6)
    good, bad = place.lease(table), place.lease(table)
    good.fail(*good.claim(2))
    bad.fail(*bad.claim(3))
    assert table.requeue(run=bad.id) == 3
    assert list(place.statuses().values()) == ["FAILED"] * 2 + ["PENDING"] * 4


def test_requeue_of_one_kind_of_error(place):
    table = place.video(3)
    lease = place.lease(table)
    one, two, three = lease.claim(3)
    lease.finish(
        [
            Finish(c, GiveUp(kind, kind, "", "fails"))
            for c, kind in ((one, "OSError"), (two, "app.TooLarge"), (three, "OSError"))
        ]
    )
    assert table.kinds() == {"OSError": 2, "app.TooLarge": 1}
    assert [entry.key for entry in table.failures(kind="TOOLARGE")] == [(2,)]
    assert table.requeue(kind="Large") == 0
    assert table.requeue(kind="oserror") == 2
    assert table.requeue() == 0
    assert table.requeue(kind="toolarge") == 1
    assert table.kinds() == {}


def test_requeue_of_a_row_under_back_off_makes_it_due_now(place):
    table = place.video(2)
    lease = place.lease(table)
    one, two = lease.claim(2)
    lease.finish([Finish(one, Again(3600, "E", "e")), Finish(two, PutOff(3600))])
    table.requeue([1])
    assert [claim.key for claim in lease.claim(5)] == [(1,)]


def test_requeue_of_many_rows(place):
    table = place.video(2500)
    place.sql("UPDATE video SET status = 'FAILED'")
    assert table.requeue(failed=True) == 2500


# ---- release


def test_release_gives_back_rows_of_dead_runners_at_no_cost_and_no_others(place):
    table = place.video(3)
    dead, living = place.lease(table), place.lease(table)
    dead.claim(1)
    living.claim(1)
    place.sql("UPDATE video SET status = 'DOING' WHERE id = 3")
    place.foreign_doing = 1
    place.process_gone(dead)
    assert table.release() == 1
    assert table.entry(1).rescued == 0
    assert list(place.statuses().values()) == ["PENDING", "DOING", "DOING"]


def test_release_of_foreign_rows_only_when_asked(place):
    table = place.video(3)
    place.sql("UPDATE video SET status = 'DOING' WHERE id < 3")
    lease = place.lease(table)
    lease.claim(1)
    assert table.release() == 0
    assert table.release(foreign=True) == 2
    assert list(place.statuses().values()) == ["PENDING", "PENDING", "DOING"]


# ---- add


def test_added_rows_are_pending_whatever_the_columns_default_says(place):
    table = place.video(write=("score",))
    assert (
        table.add([{"id": 1, "content": "a"}, {"content": "b", "id": 2}, {"id": 3, "status": "DONE"}, {"id": 4}]) == 4
    )
    assert place.statuses() == {1: "PENDING", 2: "PENDING", 3: "DONE", 4: "PENDING"}


def test_adding_to_a_column_that_is_not_there_names_it(place):
    table = place.video()
    with pytest.raises(MappingError, match="no column 'contents'"):
        table.add([{"contents": "a"}])
    with pytest.raises(MappingError, match="mapping"):
        table.add(["a"])  # type: ignore[list-item]
    with pytest.raises(CannotStore, match="'number'"):
        table.add([{"id": 1, "number": "many"}])
    assert place.value("SELECT count(*) FROM video") == 0


# ---- one row


def test_a_key_is_given_as_a_tuple_a_bare_value_or_as_typed(place):
    table = place.video(3)
    for key in (2, (2,), "2", [2]):
        assert table.row(key).id == 2
    assert table.row(99) is None
    for wrong in ((1, 2), "two", ()):
        with pytest.raises(MappingError, match="key"):
            table.row(wrong)


# ---- the first look


def test_a_first_look_tells_the_words_found_and_what_would_be_in_the_way(place):
    table = place.video(3)
    place.sql("UPDATE video SET status = 'NEW' WHERE id = 1")
    place.sql("UPDATE video SET status = NULL WHERE id = 2")
    look = table.look()
    assert look.words == {"NEW": 1, None: 1, "PENDING": 1}
    assert (look.pending, look.foreign_doing, look.index_sql, look.unsafe_file_system) == (1, 0, None, None)


def test_a_look_at_a_large_table_without_an_index_says_how_to_make_it(place):
    table = place.video()
    place.script("CREATE TABLE ten (i INTEGER)", f"INSERT INTO ten VALUES {', '.join(f'({i})' for i in range(10))}")
    place.script(
        "INSERT INTO video (id, status) SELECT 1 + a.i + 10 * b.i + 100 * c.i + 1000 * d.i + 10000 * e.i, 'PENDING'"
        " FROM ten a, ten b, ten c, ten d, ten e WHERE e.i < 2"
    )
    sql = table.look().index_sql
    assert sql is not None
    assert sql.startswith("CREATE INDEX")
    assert table.create_index() == sql
    assert table.look().index_sql is None
    lease = place.lease(table)
    assert [claim.key[0] for claim in lease.claim(3)] == [1, 2, 3]
    lease.close()
