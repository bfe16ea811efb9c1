"""Runners that PostgreSQL tells of new rows, and the triggers by which it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from pooltable import DatabaseError, Runner, SettingError, TaskTable
from pooltable.pace import Probe
from tests.table.notified import Told, services
from tests.table.places import Place, wait_until


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Told]]:
    with services(monkeypatch) as start:
        yield start


def test_new_rows_and_those_that_wait_again_are_begun_without_a_look_for_them(
    postgresql: Place, told: Callable[..., Told]
) -> None:
    table = postgresql.video(1, write=("caption",))
    service = told(postgresql, table)
    wait_until(lambda: service.listens)
    service.add(2)
    service.wait_for(2)
    service.add(3, 4)
    service.wait_for(4)
    postgresql.sql("UPDATE video SET status = 'PENDING', caption = NULL WHERE id = 1")
    wait_until(lambda: postgresql.value("SELECT caption FROM video WHERE id = 1") == "seen")
    assert service.noticed == []


def test_runners_ask_again_once_the_triggers_are_removed(
    postgresql: Place, told: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = postgresql.video(1, write=("caption",))
    service = told(postgresql, table)
    wait_until(lambda: service.listens)
    monkeypatch.setattr(Probe, "QUICKEST", 0.02)
    assert table.set_notify(False)
    assert not table.set_notify(False)
    assert not postgresql.sql("SELECT 1 FROM pg_proc WHERE proname LIKE 'pooltable%'")
    wait_until(lambda: not service.listens)
    service.add(2)
    service.wait_for(2)


def test_a_name_that_needs_quotes_in_another_schema(postgresql: Place) -> None:
    postgresql.script(
        'CREATE SCHEMA "100%% o\'hers"',
        'CREATE TABLE "100%% o\'hers"."a ""b"" %%s" (id integer PRIMARY KEY, "St%%atus" text)',
    )
    schema, name = "100% o'hers", 'a "b" %s'
    declared = sa.Table(
        name, sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("St%atus", sa.Text), schema=schema
    )
    table = TaskTable(postgresql.url, declared, status="St%atus")
    assert [table.set_notify(True), table.notifies, table.set_notify(True)] == [True, True, False]
    (finding,) = [one for one in table.findings() if one.what == "notify"]
    assert (finding.level, "an INSERT takes" in finding.detail) == ("ok", True)
    assert [table.set_notify(False), table.notifies] == [True, False]
    postgresql.script('DROP SCHEMA "100%% o\'hers" CASCADE')


def test_a_claim_and_an_end_tell_nothing_and_an_insert_tells_once_a_transaction(postgresql: Place) -> None:
    table = postgresql.video(3, write=("caption",))
    table.set_notify(True)
    # Of its own, because it stays as it is here.
    with sa.create_engine(postgresql.url, poolclass=NullPool).connect() as connection:
        raw = connection.connection.driver_connection
        raw.autocommit = True
        raw.execute("LISTEN pooltable_public_video")
        Runner(lambda row: "seen", table, processes=0, listeners=()).run()
        assert set(postgresql.statuses().values()) == {"DONE"}
        with postgresql.engine.begin() as other:
            for key in (4, 5):
                other.exec_driver_sql(f"INSERT INTO video (id, content, status) VALUES ({key}, 'a', 'PENDING')")
            other.exec_driver_sql("UPDATE video SET status = 'PENDING'")
        postgresql.sql("SELECT pg_notify('pooltable_public_video', 'the last')")
        told = list(takewhile(lambda payload: payload != "the last", (one.payload for one in raw.notifies())))
        # A runner that begins to listen makes sure that it hears itself.
        assert [payload for payload in told if len(payload) != 16] == [""]


def test_a_role_without_the_rights_is_told_what_the_owner_may_run(postgresql: Place) -> None:
    postgresql.video().prepare()
    postgresql.script(
        "DROP ROLE IF EXISTS small",
        "CREATE ROLE small LOGIN",
        "GRANT USAGE, CREATE ON SCHEMA public TO small",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO small",
    )
    poor = TaskTable(postgresql.url.replace("test@", "small@"), "video")
    with pytest.raises(DatabaseError, match=r"permission denied for table video.* may run this: CREATE .*;"):
        poor.set_notify(True)
    assert not poor.notifies
    postgresql.script(*poor.notify_sql().replace("%", "%%").split(";\n")[:-1])
    assert poor.notifies
    with pytest.raises(DatabaseError, match=r"must be owner .*DROP TRIGGER"):
        poor.set_notify(False)
    postgresql.script("DROP OWNED BY small", "DROP ROLE small")


@pytest.mark.parametrize("place", ["sqlite", "mariadb"], indirect=True)
def test_elsewhere_it_is_refused_in_clear_words(place: Place) -> None:
    table = place.video()
    otherwise = "SQLite's runners are woken" if place.kind == "sqlite" else "runners ask"
    with pytest.raises(SettingError, match=f"only PostgreSQL has NOTIFY; {otherwise}"):
        table.set_notify(True)
    assert not table.notifies
