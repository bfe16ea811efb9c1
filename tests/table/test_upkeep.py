"""Pruning, making the index while others write, and what doctor finds."""

from __future__ import annotations

import threading
import time

import pytest

from pooltable import DatabaseError, DatabaseUnavailable, MappingError, TaskTable, Words, run
from pooltable.table.database import Database
from pooltable.table.states import Done, Finish
from tests.table.places import ends, wait_until

DONE = Done({"caption": "a boat"})


def found(table):
    """What doctor says, by what it is about; each about one thing once."""
    findings = table.findings()
    by_what = {finding.what: finding for finding in findings}
    assert len(by_what) == len(findings), findings
    return by_what


@pytest.fixture(autouse=True)
def claims_are_quick(monkeypatch):
    """However busy the machine is."""
    monkeypatch.setattr("pooltable.table.checkup.SLOW_CLAIM", 60.0)


def wrong(table):
    # The tests' servers write faster than is safe.
    return {what for what, finding in found(table).items() if finding.level != "ok"} - {"durability"}


# ---- prune


def test_prune_removes_old_finished_entries_and_those_of_rows_that_are_gone_and_no_others(place):
    table = place.video(8)
    lease = place.lease(table)
    claims = lease.claim(8)
    lease.done(claims[0], claims[1])
    lease.fail(claims[2])
    lease.again(claims[3], pause=3600)
    lease.release(claims[4])
    place.shift(1000, "finished_at", table="pooltable_video_entry", where="id <> 2")
    place.sql("DELETE FROM video WHERE id = 5")
    place.sql("DELETE FROM video WHERE id = 6")
    place.counts_claims = False
    assert table.prune(500, dry_run=True) == (1, 1, 0, 0)
    assert table.prune(500) == (1, 1, 0, 0)
    left = {key for (key,) in place.sql("SELECT id FROM pooltable_video_entry")}
    assert left == {4}
    assert ends(lease.done(*claims[5:])) == ["vanished", "done", "done"]


def test_prune_goes_on_behind_the_last_entry_of_each_transaction(place, monkeypatch):
    monkeypatch.setattr("pooltable.table.upkeep.AT_ONCE", 3)
    table = place.video(20)
    lease = place.lease(table)
    claims = lease.claim(20)
    lease.fail(*claims)
    place.sql("DELETE FROM video WHERE id > 15")
    place.shift(1000, "finished_at", table="pooltable_video_entry", where="id < 8")
    place.counts_claims = False
    assert table.prune(500) == (7, 5, 0, 0)
    assert [key for (key,) in place.sql("SELECT id FROM pooltable_video_entry ORDER BY id")] == list(range(8, 16))


def test_prune_removes_claims_that_are_over_but_none_of_a_living_runner_nor_a_young_one_nor_the_last(
    place, monkeypatch
):
    monkeypatch.setattr("pooltable.table.upkeep.AT_ONCE", 3)
    table = place.video(20)
    lease, living = place.lease(table), place.lease(table)
    for _ in range(8):
        lease.done(lease.one())
    living.done(living.one())
    held = lease.claim(2)
    lease.done(held[0])
    place.shift(10_000, "closed_at", table="pooltable_video_claims", where="number > 1")
    assert table.prune(0).claims == 0
    lease.close()
    assert table.prune(0, dry_run=True).claims == 7
    assert table.prune(0) == (0, 0, 1, 7)
    # The first is younger than an hour, the ninth of a runner that lives, and the last was closed just now.
    assert [number for (number,) in place.sql("SELECT number FROM pooltable_video_claims ORDER BY 1")] == [1, 9, 10]
    place.shift(10_000, "closed_at", table="pooltable_video_claims")
    living.close()
    assert table.prune(0).claims == 2
    # The greatest number stays, so that none is given twice.
    lease = place.lease(table)
    lease.done(*lease.claim(20))
    assert [number for (number,) in place.sql("SELECT number FROM pooltable_video_claims ORDER BY 1")] == [10, 11]


def test_prune_forgets_runners_that_stopped_or_fell_silent_long_ago(place):
    table = place.video(2)
    old, new, silent, holding = (place.lease(table) for _ in range(4))
    claim = holding.one()
    old.close()
    new.close()
    place.shift(1000, "stopped_at", where=f"id = '{old.id}'")
    place.shift(1000, "expires_at", where=f"id IN ('{silent.id}', '{holding.id}')")
    assert table.prune(500) == (0, 0, 2, 0)
    assert {runner for (runner,) in place.sql("SELECT id FROM pooltable_runner")} == {new.id, holding.id}
    assert ends(holding.done(claim)) == ["done"]


def test_there_is_nothing_to_prune_before_the_first_run_and_nothing_is_made(place):
    table = place.video(1)
    assert table.prune(0) == (0, 0, 0, 0)
    assert all(finding.what != "runners" for finding in table.findings())
    assert "not there yet" in found(table)["side tables"].detail


# ---- the index


def test_others_write_while_the_index_is_made(served):
    table = served.video(20)
    table.prepare()
    # The build waits for this transaction, and without CONCURRENTLY every other writer would wait for the build.
    done = threading.Event()
    with served.holding("UPDATE video SET caption = 'x' WHERE id = 1"):
        build = threading.Thread(target=lambda: (table.create_index(), done.set()))
        build.start()
        waits = {
            "postgresql": "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'",
            "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'CREATE INDEX%'",
        }
        wait_until(lambda: done.is_set() or served.value(waits[served.kind]))
        if served.kind == "postgresql":
            served.sql("UPDATE video SET caption = 'y' WHERE id = 2")
            assert not done.is_set()
    build.join(20)
    assert done.is_set()
    assert "index missing" not in found(table)


def test_an_index_whose_build_was_interrupted_is_named_with_its_remedy(postgresql):
    table = postgresql.video(3)
    table.create_index()
    postgresql.sql(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST('pooltable_video_claim' AS regclass)"
    )
    with pytest.raises(DatabaseError, match="DROP INDEX CONCURRENTLY") as refused:
        table.create_index()
    remedy = found(table)["invalid index"].remedy
    assert str(refused.value).endswith(remedy.partition(": ")[2])
    with postgresql.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(remedy.partition(": ")[2])
    table.create_index()
    assert "invalid index" not in found(table)


def test_an_order_that_no_index_serves_is_told(place):
    table = place.video(1, order_by="length(content)")
    with pytest.raises(MappingError, match="order by columns that are NOT NULL"):
        table.create_index()
    assert found(table)["index"].level == "warning"


def test_the_index_of_a_table_with_odd_names_is_known_again(place):
    mark = "'" if place.kind == "mariadb" else '""'
    columns = f"[a b] VARCHAR(20), [c%] INTEGER, [st{mark}atus] VARCHAR(20), PRIMARY KEY ([a b], [c%])"
    place.sql(f"CREATE TABLE [my % table] ({columns})")
    table = place.table("my % table", status=f"st{mark[0]}atus")
    assert table.create_index() is not None
    assert table.create_index() is None
    table.prepare()
    assert "pooltable_my % table_claim" in found(table)["index"].detail
    assert table.prune(0) == (0, 0, 0, 0)


# ---- doctor


def test_doctor_finds_nothing_wrong_with_a_healthy_table_before_and_after_the_side_tables(place):
    table = place.video(1)
    table.create_index()
    assert wrong(table) == set()
    table.prepare()
    assert wrong(table) == set()
    assert "1 row " in found(table)["claim"].detail


def test_doctor_changes_nothing(place):
    table = place.video(5)
    before = place.sql("SELECT * FROM video ORDER BY id")
    table.findings()
    table.prepare()
    side = [place.sql(f"SELECT * FROM pooltable_{name}") for name in ("video_claims", "video_entry", "runner", "job")]
    table.findings()
    assert place.sql("SELECT * FROM video ORDER BY id") == before
    assert [
        place.sql(f"SELECT * FROM pooltable_{name}") for name in ("video_claims", "video_entry", "runner", "job")
    ] == side


def test_doctor_tells_whether_claims_of_a_large_table_have_an_index_and_use_it(place):
    table = place.video()
    place.script("CREATE TABLE ten (i INTEGER)", f"INSERT INTO ten VALUES {', '.join(f'({i})' for i in range(10))}")
    place.script(
        "INSERT INTO video (id, status) SELECT 1 + a.i + 10 * b.i + 100 * c.i + 1000 * d.i + 10000 * e.i,"
        " CASE WHEN e.i = 1 THEN 'PENDING' ELSE 'DONE' END"
        " FROM ten a, ten b, ten c, ten d, ten e WHERE e.i < 2"
    )
    table.prepare()
    missing = found(table)["index missing"]
    assert missing.level == "error"
    assert missing.remedy == table.look().index_sql
    with place.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(missing.remedy)
    place.script("ANALYZE TABLE video" if place.kind == "mariadb" else "ANALYZE video")
    assert "pooltable_video_claim" in found(table)["index"].detail
    assert found(table)["index"].level == "ok"


def test_doctor_names_foreign_rows_dead_runners_a_pause_and_unknown_words_with_their_remedies(place):
    table = place.video(5)
    place.sql("UPDATE video SET status = 'DOING' WHERE id < 3")
    place.sql("UPDATE video SET status = 'OLD' WHERE id = 3")
    place.foreign_doing = None
    lease = place.lease(table)
    lease.claim(1)
    place.sql("DELETE FROM pooltable_runner")
    table.pause()
    remedies = {what: finding.remedy for what, finding in found(table).items()}
    assert "release --foreign" in remedies["foreign doing rows"]
    assert "pooltable release" in remedies["dead runners"]
    assert remedies["paused"] == "pooltable resume"
    assert "OLD" in found(table)["status words"].detail


def test_doctor_says_when_no_row_holds_the_pending_word(place):
    table = place.video(1, words=Words(pending="NEW"))
    assert found(table)["status words"].level == "error"
    assert "--pending" in found(table)["status words"].remedy


def test_words_that_were_left_alone_are_in_nobodys_way_once_all_is_done(place):
    def nothing(row):
        return None

    place.counts_claims = False
    table = place.video(3)
    place.sql("UPDATE video SET status = 'OLD' WHERE id = 3")
    assert run(nothing, table, processes=0, listeners=()).done == 2
    again = run(nothing, table, processes=0, listeners=())
    assert (again.done, again.exit_code) == (0, 0)
    assert found(table)["status words"].level == "warning"
    place.sql("UPDATE video SET status = 'NEW'")
    with pytest.raises(MappingError, match="none is the pending word"):
        run(nothing, table, processes=0, listeners=())
    assert found(table)["status words"].level == "error"


def test_doctor_names_a_job_that_another_mapping_or_version_set_up(place):
    lease = place.lease(place.video(2))
    lease.done(lease.one())
    lease.close()
    other = place.table("video", job="video", words=Words(pending="NEW"))
    assert "known here with words" in found(other)["job"].detail
    assert "pooltable init --again" in found(other)["job"].remedy
    place.sql("UPDATE pooltable_job SET version = 99")
    assert "another version of pooltable" in found(other)["job"].detail
    with pytest.raises(MappingError, match="another version of pooltable"):
        place.table("video").prepare()
    place.sql("UPDATE pooltable_job SET version = 1")


def test_doctor_names_triggers_and_says_when_one_is_in_the_way_of_claims(place):
    table = place.video(1)
    table.prepare()
    refuse = "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no claims'"
    refusing = {
        "sqlite": ["CREATE TRIGGER no BEFORE UPDATE ON video BEGIN SELECT RAISE(ABORT, 'no claims'); END"],
        "postgresql": [
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no claims'; END $$",
            "CREATE TRIGGER no BEFORE UPDATE ON video FOR EACH ROW EXECUTE FUNCTION no()",
        ],
        "mariadb": [f"CREATE TRIGGER no BEFORE UPDATE ON video FOR EACH ROW {refuse}"],
    }
    place.script(*refusing[place.kind])
    assert "no" in found(table)["triggers"].detail
    claim = found(table)["claim"]
    assert (claim.level, "no claims" in claim.detail) == ("error", True)
    assert place.statuses() == {1: "PENDING"}


def test_doctor_does_not_wait_for_a_locked_table(place, monkeypatch):
    for module in ("postgres", "mysql", "sqlite"):
        monkeypatch.setattr(f"pooltable.table.{module}_checkup.LOCK_SECONDS", 1)
    table = place.video(1)
    table.prepare()
    lock = {
        "sqlite": "BEGIN IMMEDIATE",
        "postgresql": "LOCK TABLE video",
        "mariadb": "LOCK TABLES video WRITE",
    }
    with place.engine.connect() as connection:
        raw = connection.connection.driver_connection
        cursor = raw.cursor()
        if place.kind == "sqlite":
            raw.isolation_level = None
        cursor.execute(lock[place.kind])
        stuck = {what for what, finding in found(table).items() if finding.level != "ok"}
        if place.kind == "mariadb":
            cursor.execute("UNLOCK TABLES")
    assert "claim" in stuck


def test_doctor_names_a_long_transaction(served, monkeypatch):
    for module in ("postgres", "mysql"):
        monkeypatch.setattr(f"pooltable.table.{module}_checkup.LONG_TRANSACTION", -1.0)
    table = served.video(2)
    seen = []

    def is_seen():
        # To who asks within 0.1 s of somebody else InnoDB shows what it showed then.
        time.sleep(0.2)
        seen.append(found(table)["long transaction"])
        return seen[-1].level != "ok"

    with served.holding("UPDATE video SET caption = 'x' WHERE id = 1"):
        wait_until(is_seen)
    long = seen[-1]
    assert (long.level, "KILL" in long.remedy or "pg_terminate_backend" in long.remedy) == ("warning", True)


def test_doctor_names_a_server_that_takes_no_writes(postgresql):
    table = postgresql.video(1)
    table.prepare()
    postgresql.script("ALTER ROLE test SET default_transaction_read_only = on")
    try:
        assert found(table)["read only"].level == "error"
    finally:
        postgresql.script("SET LOCAL transaction_read_only = off; ALTER ROLE test RESET default_transaction_read_only")


def test_doctor_names_a_stricter_isolation_level(postgresql):
    table = postgresql.video(1)
    postgresql.script("ALTER ROLE test SET default_transaction_isolation = 'serializable'")
    try:
        assert "read committed" in found(table)["isolation level"].remedy
    finally:
        postgresql.script("ALTER ROLE test RESET default_transaction_isolation")


def test_doctor_names_the_journal_mode_and_large_rows_of_a_sqlite_file(sqlite):
    table = sqlite.video(1)
    sqlite.sql("UPDATE video SET content = :c", c="x" * 2_000_000)
    sqlite.sql("PRAGMA journal_mode = DELETE")
    table.prepare()
    assert wrong(table) == {"journal mode", "large rows"}


@pytest.fixture
def guest(served):
    """The URL of the server for a role `guest` that has no rights yet, and how to give it some."""
    on_postgresql = served.kind == "postgresql"
    name = "guest" if on_postgresql else "guest@localhost"
    served.script(f"CREATE USER {name}")
    if on_postgresql:
        served.script("GRANT USAGE ON SCHEMA public TO guest")
    else:
        # A role with no right at all in a database may not even connect to it.
        served.script("CREATE TABLE other (id INTEGER)", f"GRANT SELECT ON other TO {name}")
    try:
        yield served.engine.url.set(username="guest").render_as_string(hide_password=False)
    finally:
        served.script("DROP OWNED BY guest; DROP ROLE guest" if on_postgresql else f"DROP USER {name}")


def test_the_rights_that_doctor_names_are_those_that_a_run_needs(served, guest):
    owner = served.video(4, write=("caption",))
    served.script(f"GRANT SELECT ON video TO {'guest' if served.kind == 'postgresql' else 'guest@localhost'}")
    table = TaskTable(guest, "video", write=("caption",))
    refused = [finding for finding in table.findings() if finding.level == "error"]
    assert {finding.what for finding in refused} == {"privileges"}
    assert "UPDATE" in refused[0].remedy
    assert "init --print" in refused[1].remedy
    with pytest.raises(DatabaseError, match="init --print"):
        table.prepare()
    owner.prepare()
    name = {"postgresql": "guest", "mariadb": "guest@localhost"}[served.kind]
    for side in ("pooltable_job", "pooltable_runner", "pooltable_video_claims", "pooltable_video_entry"):
        served.script(f"GRANT SELECT ON {side} TO {name}")
    with pytest.raises(DatabaseError, match="doctor"):
        TaskTable(guest, "video", write=("caption",)).open_lease()
    for finding in TaskTable(guest, "video", write=("caption",)).findings():
        if finding.level == "error":
            served.script(finding.remedy)
    table = TaskTable(guest, "video", write=("caption",))
    (pruning,) = [finding for finding in table.findings() if finding.what == "privileges"]
    assert (pruning.level, "prune" in pruning.detail) == ("warning", True)
    served.script(pruning.remedy)
    assert found(table)["privileges"].level == "ok"
    lease = served.lease(table)
    first, second, *rest = lease.claim(4)
    assert ends(lease.finish([Finish(first, DONE), *(Finish(claim, DONE) for claim in rest)])) == ["done"] * 3
    assert ends(lease.again(second, pause=60)) == ["retry"]
    lease.close()
    assert (table.counts().done, table.counts().waiting) == (3, 1)
    assert table.prune(-1.0).runners == 1
    served.counts_claims = False


def test_row_level_security_that_hides_every_row_is_refused_before_anything_is_claimed(postgresql):
    owner = postgresql.video(2)
    owner.prepare()
    postgresql.script("CREATE ROLE guest LOGIN", "GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
    postgresql.script("GRANT USAGE ON SCHEMA public TO guest", "ALTER TABLE video ENABLE ROW LEVEL SECURITY")
    url = postgresql.engine.url.set(username="guest").render_as_string(hide_password=False)
    table = TaskTable(url, "video")
    try:
        with pytest.raises(MappingError, match="keeps guest from seeing any row") as refused:
            run(str, table, processes=0, listeners=())
        secured = found(table)["row-level security"]
        assert secured.level == "error"
        assert secured.remedy in str(refused.value)
        postgresql.script("CREATE POLICY seen ON video FOR SELECT USING (id = 1)")
        assert "changing" in found(table)["row-level security"].detail
        postgresql.script("CREATE POLICY changed ON video FOR UPDATE TO guest USING (id = 1)")
        assert found(table)["row-level security"].level == "warning"
        lease = postgresql.lease(table)
        assert [claim.key for claim in lease.claim(5)] == [(1,)]
        lease.close()
    finally:
        postgresql.script("DROP OWNED BY guest; DROP ROLE guest")


def test_a_role_without_the_right_to_a_schema_is_told_the_grant(postgresql):
    postgresql.script("CREATE SCHEMA other", "CREATE TABLE other.video (id INT PRIMARY KEY, status TEXT)")
    postgresql.script("CREATE ROLE guest LOGIN")
    url = postgresql.engine.url.set(username="guest").render_as_string(hide_password=False)
    try:
        with pytest.raises(DatabaseError, match='GRANT USAGE ON SCHEMA "other"'):
            TaskTable(url, "other.video").findings()
    finally:
        postgresql.script("DROP OWNED BY guest; DROP ROLE guest")


def test_a_password_that_is_wrong_or_missing_is_not_waited_for():
    psycopg = pytest.importorskip("psycopg")
    database = Database("postgresql://me@127.0.0.1:1/x")
    for said in (
        'connection failed: FATAL:  password authentication failed for user "me"',
        "connection failed: fe_sendauth: no password supplied",
        'connection failed: FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "me", database "x", no encryption',
        'connection failed: FATAL:  database "x" does not exist',
    ):
        assert type(database.unreachable(psycopg.OperationalError(said))) is DatabaseError, said
    for said in ("connection failed: FATAL:  the database system is starting up", "Connection refused"):
        assert type(database.unreachable(psycopg.OperationalError(said))) is DatabaseUnavailable, said
