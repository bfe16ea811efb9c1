"""Runners that PostgreSQL tells of new rows. Nothing else would look for them within a minute here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from pooltable import DatabaseError, Event, Runner, SettingError, TaskTable
from pooltable.events import Noticed
from pooltable.pace import Probe, Pulse
from tests.on_servers.runs import Site, wait_until
from tests.on_servers.test_pgbouncer import bouncer as bouncer
from tests.servers import Server

pytestmark = pytest.mark.timeout(40)
on_postgresql = pytest.mark.parametrize("sturdy", ["postgresql"], indirect=True)
MINUTE = 60.0


class Told:
    """A service in a thread, on the table `video` with its triggers; its first row is done."""

    def __init__(self, site: Site, url: str | None = None) -> None:
        self.site = site
        self.noticed: list[str] = []
        site.fill(1).set_notify(True)
        table = TaskTable(url or site.place.url, "video", write=("caption",))
        self.runner = Runner(lambda row: "seen", table, processes=0, forever=True, poll=MINUTE, listeners=(self._hear,))
        self.thread = threading.Thread(target=self.runner.run)
        self.thread.start()
        self.wait_for(1)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Noticed):
            self.noticed.append(event.what)

    def wait_for(self, done: int) -> None:
        wait_until(lambda: self.site.done() == done)

    @property
    def listens(self) -> bool:
        return bool(self.site.place.sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"))

    def add(self, *keys: int) -> None:
        for key in keys:
            self.site.place.sql("INSERT INTO video (id, content, status) VALUES (:key, 'a', 'PENDING')", key=key)

    def close(self) -> None:
        self.runner.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def told(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Told]]:
    monkeypatch.setattr(Pulse, "QUICKEST", MINUTE)
    monkeypatch.setattr(Probe, "QUICKEST", MINUTE)
    running: list[Told] = []

    def start(url: str | None = None) -> Told:
        running.append(Told(site, url))
        return running[-1]

    yield start
    for one in running:
        one.close()


@on_postgresql
def test_new_rows_and_those_that_wait_again_are_begun_without_a_look_for_them(
    site: Site, told: Callable[..., Told]
) -> None:
    service = told()
    wait_until(lambda: service.listens)
    service.add(2)
    service.wait_for(2)
    service.add(3, 4)
    service.wait_for(4)
    site.place.sql("UPDATE video SET status = 'PENDING', caption = NULL WHERE id = 1")
    wait_until(lambda: site.place.value("SELECT caption FROM video WHERE id = 1") == "seen")
    assert service.noticed == []


@on_postgresql
def test_a_restart_of_the_server_is_survived(site: Site, server: Server, told: Callable[..., Told]) -> None:
    service = told()
    wait_until(lambda: service.listens)
    server.restart()
    wait_until(lambda: service.listens)
    service.add(2)
    service.wait_for(2)
    service.add(3)
    service.wait_for(3)


@on_postgresql
def test_runners_ask_again_once_the_triggers_are_removed(
    site: Site, told: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = told()
    wait_until(lambda: service.listens)
    monkeypatch.setattr(Probe, "QUICKEST", 0.02)
    assert site.table is not None
    assert site.table.set_notify(False)
    assert not site.table.set_notify(False)
    assert not site.place.sql("SELECT 1 FROM pg_proc WHERE proname LIKE 'pooltable%'")
    wait_until(lambda: not service.listens)
    service.add(2)
    service.wait_for(2)


@on_postgresql
def test_behind_pgbouncer_in_transaction_mode_it_says_once_that_it_asks_instead(
    bouncer: str, told: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "QUICKEST", 0.02)
    service = told(bouncer)
    wait_until(lambda: service.noticed)
    service.add(2)
    service.wait_for(2)
    assert service.noticed == ["notify lost"]


@on_postgresql
def test_a_name_that_needs_quotes_in_another_schema(site: Site) -> None:
    site.place.script(
        'CREATE SCHEMA "100%% o\'hers"',
        'CREATE TABLE "100%% o\'hers"."a ""b"" %%s" (id integer PRIMARY KEY, "St%%atus" text)',
    )
    schema, name = "100% o'hers", 'a "b" %s'
    declared = sa.Table(
        name, sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("St%atus", sa.Text), schema=schema
    )
    table = TaskTable(site.place.url, declared, status="St%atus")
    assert [table.set_notify(True), table.notifies, table.set_notify(True)] == [True, True, False]
    (finding,) = [one for one in table.findings() if one.what == "notify"]
    assert (finding.level, "an INSERT takes" in finding.detail) == ("ok", True)
    assert [table.set_notify(False), table.notifies] == [True, False]


@on_postgresql
def test_a_claim_and_an_end_tell_nothing_and_an_insert_tells_once_a_transaction(site: Site) -> None:
    table = site.fill(3)
    table.set_notify(True)
    with site.place.engine.connect() as connection:
        raw = connection.connection.driver_connection
        raw.autocommit = True
        raw.execute("LISTEN pooltable_public_video")
        Runner(lambda row: "seen", table, processes=0, listeners=()).run()
        assert site.done() == 3
        with site.place.engine.begin() as other:
            for key in (4, 5):
                other.exec_driver_sql(f"INSERT INTO video (id, content, status) VALUES ({key}, 'a', 'PENDING')")
            other.exec_driver_sql("UPDATE video SET status = 'PENDING'")
        # A runner that begins to listen makes sure that it hears itself.
        assert [one.payload for one in raw.notifies(timeout=0.5) if len(one.payload) != 16] == [""]


@on_postgresql
def test_a_role_without_the_rights_is_told_what_the_owner_may_run(site: Site) -> None:
    site.fill(0)
    site.place.script(
        "DROP ROLE IF EXISTS small",
        "CREATE ROLE small LOGIN",
        "GRANT USAGE, CREATE ON SCHEMA public TO small",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO small",
    )
    poor = TaskTable(site.place.url.replace("test@", "small@"), "video")
    with pytest.raises(DatabaseError, match=r"permission denied for table video.* may run this: CREATE .*;"):
        poor.set_notify(True)
    assert not poor.notifies
    site.place.script(*poor.notify_sql().replace("%", "%%").split(";\n")[:-1])
    assert poor.notifies
    with pytest.raises(DatabaseError, match=r"must be owner .*DROP TRIGGER"):
        poor.set_notify(False)
    site.place.script("DROP OWNED BY small", "DROP ROLE small")


@pytest.mark.parametrize("sturdy", ["mariadb"], indirect=True)
def test_on_mariadb_it_is_refused_in_clear_words(site: Site) -> None:
    table = site.fill(0)
    with pytest.raises(SettingError, match="only PostgreSQL has NOTIFY; runners ask"):
        table.set_notify(True)
    assert not table.notifies
