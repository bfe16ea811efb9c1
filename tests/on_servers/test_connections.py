"""Connections that are cut, slow, half open or silent, through a proxy in front of a real server."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from tests.on_servers.proxy import Moment, Proxy
from tests.on_servers.runs import Running, Site, wait_until

pytestmark = pytest.mark.timeout(30)

MOMENTS: tuple[Moment, ...] = ("before", "after")


def start_behind_the_gate(site: Site, proxy: Proxy, rows: int) -> Running:
    """A run that is past its beginning, so that what is cut next is a claim, a finish or a beat."""
    site.fill(rows)
    site.close_gate()
    running = site.start(url=proxy.url, seconds=0.01)
    wait_until(lambda: len(site.running_tasks()) == 2, about=running)
    return running


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("nth", [1, 2, 7])
def test_a_connection_cut_in_mid_commit_writes_everything_once(
    site: Site, proxy: Proxy, moment: Moment, nth: int
) -> None:
    """`before`: the server never gets the COMMIT. `after`: it is carried out, and the answer is lost."""
    running = start_behind_the_gate(site, proxy, 80)
    rule = proxy.cut_at(b"COMMIT", moment, nth)
    site.open_gate()
    assert running.ends_with() == 0
    assert rule.cut.is_set()
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 81)}
    site.check()


def test_connections_cut_again_and_again_in_mid_commit_write_everything_once(site: Site, proxy: Proxy) -> None:
    running = start_behind_the_gate(site, proxy, 300)
    rules = [proxy.cut_at(b"COMMIT", MOMENTS[nth % 2], nth) for nth in range(5, 60, 5)]
    site.open_gate()
    assert running.ends_with() == 0
    assert sum(rule.cut.is_set() for rule in rules) >= 5
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 301)}
    site.check()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_connection_cut_while_a_runner_registers_itself(site: Site, proxy: Proxy, moment: Moment) -> None:
    site.fill(5)
    rule = proxy.cut_at(b"COMMIT", moment, after=b"pid_namespace", nth=1)
    running = site.start(url=proxy.url)
    assert running.ends_with() == 0, running.story()
    assert rule.cut.is_set()
    site.check()


@pytest.mark.parametrize("words", [b"pooltable_video_claims", b"UPDATE", b"INSERT"])
def test_a_connection_cut_in_the_middle_of_a_transaction_writes_everything_once(
    site: Site, proxy: Proxy, words: bytes
) -> None:
    running = start_behind_the_gate(site, proxy, 80)
    rules = [proxy.cut_at(words, "after", nth) for nth in (1, 4, 7)]
    site.open_gate()
    assert running.ends_with() == 0
    assert any(rule.cut.is_set() for rule in rules)
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 81)}
    site.check()


def test_a_database_that_turns_everybody_away_for_a_while_costs_nothing(site: Site, proxy: Proxy) -> None:
    site.fill(40)
    site.close_gate()
    running = site.start(url=proxy.url)
    wait_until(lambda: len(site.running_tasks()) == 2)
    proxy.refuse()
    site.open_gate()
    wait_until(lambda: running.told("DatabaseAway"), about=running)
    proxy.accept()
    assert running.ends_with() == 0
    assert running.told("DatabaseBack")
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 41)}
    site.check()


def test_a_connection_that_the_server_closed_on_its_side_is_opened_anew(site: Site, proxy: Proxy) -> None:
    site.fill(40)
    site.close_gate()
    running = site.start(url=proxy.url)
    wait_until(lambda: len(site.running_tasks()) == 2)
    proxy.half_close()
    site.open_gate()
    assert running.ends_with() == 0
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 41)}
    site.check()


def test_a_slow_network_only_takes_longer(site: Site, proxy: Proxy) -> None:
    site.fill(40)
    proxy.delay = 0.01
    running = site.start(url=proxy.url, seconds=0.01)
    assert running.ends_with() == 0
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 41)}
    site.check()


def test_rows_keep_running_while_the_connection_is_silent_and_are_written_when_it_speaks_again(
    site: Site, proxy: Proxy
) -> None:
    site.fill(8)
    site.close_gate()
    running = site.start(url=proxy.url)
    wait_until(lambda: len(site.running_tasks()) == 2)
    held = site.statuses()["DOING"]
    proxy.hang()
    site.open_gate()
    wait_until(lambda: sum(note[0] == "end" for note in site.notes()) == held, about=running)
    proxy.flow()
    assert running.ends_with() == 0
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 9)}
    site.check()


def test_a_stop_is_heard_while_the_connection_is_silent(site: Site, proxy: Proxy) -> None:
    site.fill(4)
    site.close_gate()
    running = site.start(url=proxy.url, pace={"grace": 0.5, "lease": 2})
    wait_until(lambda: len(site.running_tasks()) == 2)
    proxy.hang()
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGTERM)
    assert running.ends_with(8) in (3, 4)
    proxy.flow()
    site.open_gate()
    assert site.start().ends_with() == 0
    site.check()


@pytest.mark.parametrize("words", [b"", b"FOR UPDATE", b"SET expires_at"])
def test_a_runner_behind_a_silent_connection_loses_its_rows_to_one_that_is_not(
    site: Site, proxy: Proxy, words: bytes
) -> None:
    """Also when its beat fell silent in the middle of a transaction, whose locks the server then keeps."""
    site.fill(2)
    site.close_gate()
    cut_off = site.start(url=proxy.url, pace={"lease": 2})
    wait_until(lambda: len(site.running_tasks()) == 2, about=cut_off)
    if words:
        rule = proxy.cut_at(words, "silent")
        wait_until(rule.cut.is_set)
    else:
        proxy.hang()
    other = site.start(pace={"lease": 2}, forever=True, poll=0.2)
    wait_until(lambda: other.told("RowsRescued", pending=2), 12, about=other)
    wait_until(lambda: sum(attempt == 2 for _, attempt in site.starts()) == 2, about=other)
    site.open_gate()
    wait_until(lambda: site.done() == 2, about=other)
    proxy.flow()
    assert cut_off.ends_with() == 0
    other.signal(signal.SIGTERM)
    assert other.ends_with() == 0
    assert not cut_off.events("RowsFinished")
    assert site.place.sql("SELECT DISTINCT attempt, ended FROM pooltable_video_entry") == [(2, "done")]
    site.check()
