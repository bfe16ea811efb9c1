"""Runners that PostgreSQL tells of new rows, through a restart and behind a pooler."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pooltable.pace import Probe
from tests.on_servers.runs import Site, wait_until
from tests.on_servers.test_pgbouncer import bouncer as bouncer
from tests.servers import Server
from tests.table.notified import Told, services

pytestmark = [pytest.mark.timeout(40), pytest.mark.parametrize("sturdy", ["postgresql"], indirect=True)]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Told]]:
    with services(monkeypatch) as start:
        yield start


def test_a_restart_of_the_server_is_survived(site: Site, server: Server, told: Callable[..., Told]) -> None:
    service = told(site.place, site.fill(1))
    wait_until(lambda: service.listens)
    server.restart()
    wait_until(lambda: service.listens)
    service.add(2)
    service.wait_for(2)
    service.add(3)
    service.wait_for(3)


def test_behind_pgbouncer_in_transaction_mode_it_says_once_that_it_asks_instead(
    site: Site, bouncer: str, told: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "QUICKEST", 0.02)
    service = told(site.place, site.fill(1), bouncer)
    wait_until(lambda: service.noticed)
    service.add(2)
    service.wait_for(2)
    assert service.noticed == ["notify lost"]
