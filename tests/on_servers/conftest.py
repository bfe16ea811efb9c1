"""An empty database on a server of each kind, and a site on it; the invariants are checked by the tests themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.on_servers.proxy import Proxy
from tests.on_servers.runs import Site, site_at
from tests.on_servers.sturdy import STURDY
from tests.servers import Missing, Server, running
from tests.table.places import Place


@pytest.fixture(scope="session", params=sorted(STURDY, reverse=True))
def sturdy(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of our own of each kind, which keeps what was committed when it is killed."""
    try:
        with running(STURDY[request.param]) as server:
            yield server
    except Missing as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing).replace("\n", " "))


@pytest.fixture
def server(sturdy: Server) -> Iterator[Server]:
    """The server, running and empty, however the test before left it."""
    if sturdy.process is None or sturdy.process.poll() is not None:
        sturdy.start()
    sturdy.make_empty()
    yield sturdy
    if sturdy.process is None:
        sturdy.start()


@pytest.fixture
def place(server: Server) -> Place:
    return Place(server.kind, server.url)


@pytest.fixture
def site(place: Place, tmp_path: Path) -> Iterator[Site]:
    with site_at(place, tmp_path) as site:
        yield site


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        yield proxy
