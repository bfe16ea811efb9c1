"""What only SQLite has: files that are missing, read-only, replaced or of another kind, its modes, its limits, its
triggers."""

from __future__ import annotations

import os
import sqlite3
import threading

import pytest

from pooltable import TaskTable
from pooltable.errors import DatabaseError, DatabaseReadOnly, DatabaseUnavailable, MappingError
from pooltable.table import sqlite as dialect
from pooltable.table.states import Done, Finish
from tests.table.places import RETRY, ends, sqlite_place


def file_of(place):
    return place.engine.url.database


def test_a_file_that_is_not_there_is_not_made_by_looking(tmp_path):
    table = TaskTable(f"sqlite:///{tmp_path}/no.db", "video")
    for verb in (table.counts, table.prepare, table.look, table.open_lease):
        with pytest.raises(MappingError, match=r"there is no file '.*no.db'"):
            verb()
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_database(tmp_path):
    with pytest.raises(MappingError, match="is a folder"):
        TaskTable(f"sqlite:///{tmp_path}", "video").counts()


def test_a_file_of_another_kind_is_told_in_one_line(tmp_path):
    (tmp_path / "x.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(DatabaseError, match=r"x.db.*not a database") as caught:
        TaskTable(f"sqlite:///{tmp_path}/x.db", "video").prepare()
    assert not isinstance(caught.value, DatabaseUnavailable)


def test_a_file_that_may_not_be_written_is_refused_and_can_still_be_read(sqlite):
    sqlite.video(2).prepare()
    url = f"sqlite:///file:{file_of(sqlite)}?mode=ro&uri=true"
    table = TaskTable(url, "video")
    assert table.counts().pending == 2
    with pytest.raises(DatabaseReadOnly, match="takes no writes"):
        table.open_lease()


def test_a_file_in_wal_mode_is_made_for_those_who_need_one(tmp_path):
    path = str(tmp_path / "new.db")
    dialect.create_file(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_the_journal_mode_of_the_users_file_stays_as_it_is(tmp_path):
    connection = sqlite3.connect(tmp_path / "old.db")
    connection.execute("CREATE TABLE video (id INTEGER PRIMARY KEY, status TEXT)")
    connection.execute("INSERT INTO video (status) VALUES ('PENDING')")
    connection.commit()
    lease = TaskTable(f"sqlite:///{tmp_path}/old.db", "video").open_lease()
    assert [fate.end for fate in lease.finish([Finish(claim, Done()) for claim in lease.claim(1)])] == ["done"]
    lease.close()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_changed_tells_that_somebody_else_has_committed(sqlite):
    lease = sqlite.lease(sqlite.video(1))
    assert lease.changed() is False
    assert lease.changed() is False
    lease.release(*lease.claim(1))
    assert lease.changed() is False, "our own commits are no news"
    sqlite.sql("INSERT INTO video (id, status) VALUES (2, 'PENDING')")
    assert lease.changed() is True
    assert lease.changed() is False


def test_servers_cannot_tell_cheaply_whether_somebody_committed(served):
    lease = served.lease(served.video(1))
    assert lease.changed() is None


def test_a_writer_that_takes_its_time_is_waited_for(sqlite):
    lease = sqlite.lease(sqlite.video(2))
    connection = sqlite3.connect(file_of(sqlite), isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: connection.execute("COMMIT"))
    timer.start()
    assert len(lease.claim(2)) == 2
    timer.join()
    connection.close()


def test_a_writer_that_never_ends_makes_the_database_unavailable(sqlite, monkeypatch):
    monkeypatch.setattr("pooltable.table.sqlite.BUSY_SECONDS", 0.01)
    monkeypatch.setattr("pooltable.table.database.TRIES", 3)
    lease = sqlite.lease(sqlite.video(2))
    connection = sqlite3.connect(file_of(sqlite), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match="locked by others"):
        lease.claim(2)
    connection.execute("ROLLBACK")
    connection.close()
    assert len(lease.claim(2)) == 2


def test_a_file_that_was_replaced_is_opened_anew_and_told_once(sqlite, tmp_path):
    table = sqlite.video(3)
    lease = sqlite.lease(table)
    claims = lease.claim(2)
    connection = sqlite3.connect(file_of(sqlite))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = sqlite3.connect(tmp_path / "copy.db")
    connection.backup(backup)
    backup.close()
    connection.close()
    os.replace(tmp_path / "copy.db", file_of(sqlite))
    for end in ("-wal", "-shm"):
        if os.path.exists(file_of(sqlite) + end):
            os.unlink(file_of(sqlite) + end)
    # Who looked before us knows only the new file.
    assert table.counts().doing == 2
    assert ends(lease.done(*claims)) == ["done", "done"]
    assert sqlite.statuses() == {1: "DONE", 2: "DONE", 3: "PENDING"}
    assert [lease.beat().replaced for _ in range(2)] == [True, False]


def test_a_file_without_our_tables_in_its_place_is_told_as_what_it_is(sqlite, tmp_path):
    lease = sqlite.lease(sqlite.video(1))
    os.replace(file_of(sqlite), tmp_path / "moved.db")
    dialect.create_file(file_of(sqlite))
    with pytest.raises(DatabaseError, match=r"no such table.*; another file took its place while it was in use"):
        lease.claim(1)
    sqlite.foreign_doing = None


def test_a_file_that_was_removed_is_waited_for_and_not_made_again(sqlite):
    lease = sqlite.lease(sqlite.video(1))
    for end in ("", "-wal", "-shm"):
        if os.path.exists(file_of(sqlite) + end):
            os.unlink(file_of(sqlite) + end)
    with pytest.raises(DatabaseUnavailable, match="has gone while it was in use: there is no file"):
        lease.claim(1)
    assert not os.path.exists(file_of(sqlite))
    sqlite.foreign_doing = None


def test_a_trigger_that_undoes_the_whole_transaction_costs_its_row_alone(sqlite):
    table = sqlite.video(5)
    sqlite.script(
        "CREATE TRIGGER t BEFORE UPDATE ON video WHEN NEW.status = 'DONE' AND NEW.id = 3 BEGIN SELECT RAISE(ROLLBACK,"
        " 'all of it'); END",
        "CREATE TRIGGER u BEFORE UPDATE ON video WHEN NEW.status IN ('DONE', 'FAILED') AND NEW.id = 4 BEGIN SELECT"
        " RAISE(ROLLBACK, 'all'); END",
    )
    lease = sqlite.lease(table)
    claims = lease.claim(5)
    answer = lease.exchange([Finish(claim, Done()) for claim in claims], 1)
    assert ends(answer.fates) == ["done", "done", "failed", "stuck", "done"]
    assert table.entry(4).ended == "stuck"


def test_a_trigger_that_undoes_a_rescue_is_told_as_a_refusal_of_the_database(sqlite):
    table = sqlite.video(1)
    sqlite.script(
        "CREATE TRIGGER t BEFORE UPDATE ON video WHEN NEW.status = 'PENDING' BEGIN SELECT RAISE(ROLLBACK, 'no way"
        " back'); END"
    )
    dead, lease = sqlite.lease(table), sqlite.lease(table)
    claims = dead.claim(1)
    sqlite.process_gone(dead)
    with pytest.raises(DatabaseError, match="no way back"):
        lease.rescue(RETRY)
    dead.done(*claims)


def test_rows_with_a_null_key_are_left_alone(sqlite):
    sqlite.script("CREATE TABLE t (path TEXT PRIMARY KEY, status TEXT)")
    sqlite.sql("INSERT INTO t VALUES (NULL, 'PENDING'), ('a', 'PENDING'), (NULL, 'PENDING')")
    table = sqlite.table("t")
    lease = sqlite.lease(table)
    assert [claim.key for claim in lease.claim(10)] == [("a",)]
    assert lease.left().pending == 0
    lease.close()


def test_keys_that_differ_only_in_case_are_one_under_a_collation_that_says_so(sqlite):
    sqlite.script("CREATE TABLE t (path TEXT COLLATE NOCASE PRIMARY KEY, status TEXT)")
    sqlite.sql("INSERT INTO t VALUES ('a', 'PENDING')")
    table = sqlite.table("t")
    lease = sqlite.lease(table)
    lease.again(lease.one())
    sqlite.sql("UPDATE t SET path = 'A'")
    sqlite.due_now("pooltable_t_entry")
    sqlite.counts_claims = False
    claims = lease.claim(5)
    assert lease.read(claims)[0].path == "A"
    assert claims[0].attempt == 2
    assert ends(lease.done(*claims)) == ["done"]


def test_a_thousand_keys_of_three_columns_do_not_pass_the_limit_of_bound_values(sqlite):
    sqlite.script("CREATE TABLE t (a INTEGER, b TEXT, c INTEGER, status TEXT, PRIMARY KEY (a, b, c))")
    with sqlite.engine.begin() as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)"
            " INSERT INTO t SELECT i, 'x', i, 'PENDING' FROM n"
        )
    table = sqlite.table("t")
    lease = sqlite.lease(table)
    claims = lease.claim(12000)
    assert len(claims) == 12000
    assert None not in lease.read(claims)
    assert set(ends(lease.done(*claims))) == {"done"}
    assert table.requeue([claim.key for claim in claims]) == 12000


@pytest.mark.parametrize(
    "kind, unsafe",
    [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("9p", True), ("ext4", False), ("overlay", False)],
)
def test_a_network_file_system_is_noticed(sqlite, monkeypatch, kind, unsafe):
    monkeypatch.setattr("pooltable.table.sqlite._file_system", lambda path: kind)
    table = sqlite.video(1)
    assert table.look().unsafe_file_system == (kind if unsafe else None)
    assert ("network file system" in [finding.what for finding in table.findings()]) is unsafe


def test_this_file_system_is_known(tmp_path):
    assert dialect._file_system(str(tmp_path)) is not None or not os.path.exists("/proc/self/mountinfo")


def test_two_places_of_one_file_are_one_database(tmp_path):
    place = sqlite_place(tmp_path)
    table = place.video(2)
    again = TaskTable(f"sqlite:///{tmp_path}/../{tmp_path.name}/tasks.db", "video")
    lease, other = table.open_lease(), again.open_lease()
    assert len(lease.claim(1)) == len(other.claim(5)) == 1
    lease.close()
    other.close()
    place.close()
