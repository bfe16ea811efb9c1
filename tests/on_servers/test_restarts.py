"""The server goes away under load and comes back: rows keep running, their ends are written later, once each."""

from __future__ import annotations

import json
import signal
from collections import Counter
from functools import partial

import pytest

from tests.on_servers.runs import Site, wait_until
from tests.servers import Server

pytestmark = pytest.mark.timeout(30)

# By the signal, what the server's own documentation calls it.
FAST, IMMEDIATE = None, {"postgresql": signal.SIGQUIT, "mariadb": signal.SIGKILL}


def how_of(server: Server, how: str) -> signal.Signals | None:
    return IMMEDIATE[server.kind] if how == "immediate" else FAST


def more_than(site: Site, share: int) -> bool:
    return site.done() > share


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_restart_under_load_loses_nothing_and_repeats_nothing(site: Site, server: Server, how: str) -> None:
    site.fill(3000)
    running = site.start(seconds=0.001)
    for share in (300, 1200):
        wait_until(partial(more_than, site, share), about=running)
        server.restart(how_of(server, how))
    assert running.ends_with() == 0
    # A server that is back before anybody asks it twice was never away.
    assert len(running.events("DatabaseAway")) == len(running.events("DatabaseBack"))
    # Nobody else could have taken them, so every row was run by its first claim.
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 3001)}
    site.check()


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_rows_that_run_while_the_server_is_away_are_written_when_it_is_back(
    site: Site, server: Server, how: str
) -> None:
    site.fill(8)
    site.close_gate()
    running = site.start()
    wait_until(lambda: len(site.running_tasks()) == 2)
    held = site.statuses()["DOING"]
    server.stop(how_of(server, how))
    site.open_gate()
    # What was claimed runs to its end without the database.
    wait_until(lambda: sum(note[0] == "end" for note in site.notes()) == held, about=running)
    wait_until(lambda: running.told("DatabaseAway"), about=running)
    assert running.alive
    server.start()
    assert running.ends_with() == 0
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 9)}
    site.check()


@pytest.mark.timeout(60)
def test_a_run_that_starts_while_the_server_is_away_waits_for_it(site: Site, server: Server) -> None:
    site.fill(8)
    server.stop()
    running = site.start(pace={"db_wait": 60})
    wait_until(lambda: running.told("DatabaseAway", begun=False), about=running)
    server.start()
    assert running.ends_with() == 0
    assert [len(running.events(what)) for what in ("DatabaseAway", "DatabaseBack", "RunStarted")] == [1, 1, 1]
    site.check()


@pytest.mark.parametrize("pace", [{}, {"db_wait": 0.5}])
def test_a_run_that_starts_while_the_server_is_away_ends_with_4_when_it_is_not_to_wait_longer(
    site: Site, server: Server, pace: dict[str, float]
) -> None:
    site.fill(1)
    server.stop()
    running = site.start(pace=pace)
    assert running.ends_with() == 4
    assert len(running.events("DatabaseAway")) == len(pace)


def test_runners_that_missed_their_beats_in_an_outage_do_not_rob_each_other(site: Site, server: Server) -> None:
    site.fill(4)
    site.close_gate()
    runs = [site.start(pace={"lease": 2}) for _ in range(2)]
    wait_until(lambda: len(site.running_tasks()) == 4)
    server.stop(IMMEDIATE[server.kind])
    for one in runs:
        wait_until(partial(one.told, "DatabaseAway"), about=one)
    # As if the outage had been longer than every lease, without waiting for it.
    server.start()
    site.place.sql("UPDATE pooltable_runner SET expires_at = started_at")
    for one in runs:
        wait_until(partial(one.told, "DatabaseBack"), about=one)
    site.open_gate()
    assert [one.ends_with() for one in runs] == [0, 0]
    assert not any(one.events("RowsRescued") for one in runs)
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 5)}
    site.check()


def test_a_server_that_is_away_at_the_start_ends_the_run_with_exit_code_4(site: Site, server: Server) -> None:
    site.fill(1)
    server.stop(IMMEDIATE[server.kind])
    running = site.start()
    assert running.ends_with() == 4
    assert running.events("Raised")[0]["error"] == "DatabaseUnavailable"
    server.start()
    assert site.statuses() == {"PENDING": 1}


def test_a_server_that_is_away_longer_than_db_wait_ends_the_run(site: Site, server: Server) -> None:
    site.fill(4)
    site.close_gate()
    running = site.start(pace={"db_wait": 1.0, "lease": 2})
    wait_until(lambda: len(site.running_tasks()) == 2)
    workers = running.workers()
    server.stop(IMMEDIATE[server.kind])
    assert running.ends_with() == 4
    assert running.events("Raised")[0]["error"] == "DatabaseUnavailable"
    assert not any(worker.is_running() for worker in workers)
    server.start()
    site.open_gate()
    # What it could not give back, the next one takes: its process is gone.
    heir = site.start()
    assert heir.ends_with() == 0
    assert heir.events("RowsRescued")
    site.check()


def test_a_stop_is_heard_while_the_server_is_away(site: Site, server: Server) -> None:
    site.fill(4)
    site.close_gate()
    running = site.start(pace={"grace": 1.0, "lease": 2})
    wait_until(lambda: len(site.running_tasks()) == 2)
    server.stop(IMMEDIATE[server.kind])
    wait_until(lambda: running.told("DatabaseAway"), about=running)
    running.signal(signal.SIGTERM)
    assert running.ends_with(15) in (3, 4)
    server.start()
    site.open_gate()
    assert site.start().ends_with() == 0
    site.check()


def test_a_read_only_server_is_refused_at_the_start(site: Site, server: Server) -> None:
    site.fill(3)
    if server.kind == "postgresql":
        site.place.sql("ALTER ROLE test SET default_transaction_read_only = on")
        writable = "ALTER ROLE test SET default_transaction_read_only = off"
    else:
        # MariaDB lets those who may administrate it write all the same.
        site.place.sql("CREATE USER reader@localhost")
        site.place.sql("GRANT ALL ON test.* TO reader@localhost")
        site.place.sql("SET GLOBAL read_only = ON")
        writable = "SET GLOBAL read_only = OFF"
    try:
        running = site.start(url=site.place.url.replace("//root@", "//reader@"))
        assert running.ends_with() == 4
    finally:
        with site.place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if server.kind == "postgresql":
                connection.exec_driver_sql("SET default_transaction_read_only = off")
            connection.exec_driver_sql(writable)
            if server.kind == "mariadb":
                connection.exec_driver_sql("DROP USER reader@localhost")
    assert running.events("Raised")[0]["error"] == "DatabaseReadOnly"
    assert not site.starts()
    assert site.statuses() == {"PENDING": 3}


@pytest.mark.parametrize("sturdy", ["postgresql"], indirect=True)
def test_a_server_that_becomes_read_only_ends_the_run_with_one_message(site: Site, server: Server) -> None:
    site.fill(6)
    site.close_gate()
    running = site.start()
    wait_until(lambda: len(site.running_tasks()) == 2)
    site.place.sql("ALTER ROLE test SET default_transaction_read_only = on")
    try:
        # As in a fail-over to a replica: the connection is new, and the server behind it takes no writes.
        server.restart(signal.SIGQUIT)
        site.open_gate()
        assert running.ends_with() == 4
    finally:
        with site.place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SET default_transaction_read_only = off")
            connection.exec_driver_sql("ALTER ROLE test SET default_transaction_read_only = off")
    assert running.events("Raised")[0]["error"] == "DatabaseReadOnly"
    assert site.start().ends_with() == 0
    site.check()


def forget_the_end(site: Site, key: int) -> None:
    """The claim that took the row holds it again, as before its last end was written."""
    for number, keys, ended in site.place.sql("SELECT number, row_keys, ended FROM pooltable_video_claims"):
        if key in (listed := json.loads(keys)):
            letters = "".join("h" if one == key else letter for one, letter in zip(listed, ended, strict=True))
            site.place.sql(
                "UPDATE pooltable_video_claims SET ended = :letters, left_open = :left, closed_at = NULL WHERE"
                " number = :number",
                letters=letters,
                left=letters.count("h"),
                number=number,
            )


def test_an_end_that_the_server_forgot_is_run_again(site: Site) -> None:
    """As after a fail-over to a replica that was behind: what was committed is not there."""
    site.fill(6, audit=False)
    running = site.start(pace={"lease": 2}, seconds=0.3)
    wait_until(lambda: site.done() >= 2, about=running)
    key = site.place.value("SELECT min(id) FROM video WHERE status = 'DONE'")
    forget_the_end(site, key)
    site.place.sql(f"UPDATE video SET status = 'DOING', caption = NULL WHERE id = {key}")
    assert running.ends_with() == 0, running.story()
    assert site.statuses() == {"DONE": 6}
    assert (key, 2) in site.starts()


def test_a_claim_that_the_server_forgot_is_made_again(site: Site) -> None:
    site.fill(6, audit=False)
    site.close_gate()
    running = site.start()
    held = wait_until(site.running_tasks, about=running)
    site.place.sql("DELETE FROM pooltable_video_claims WHERE closed_at IS NULL")
    site.place.sql("UPDATE video SET status = 'PENDING' WHERE status = 'DOING'")
    site.open_gate()
    assert running.ends_with() == 0
    assert site.statuses() == {"DONE": 6}
    assert all(sum(started == key for started, _ in site.starts()) == 2 for key in held)
