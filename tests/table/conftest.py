"""One suite for every database: the fixture `place` is an empty database of each kind that can be had here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooltable.table import cursor
from tests.servers import Server, in_memory, mariadb_server as mariadb_server, postgresql_server as postgresql_server
from tests.table.invariants import check_finished_once, check_invariants
from tests.table.places import Place, sqlite_place

KINDS = ("sqlite", "postgresql", "mariadb")


@pytest.fixture(autouse=True)
def looks_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is: a look from the start of the order that seems slow is not taken again at once."""
    monkeypatch.setattr(cursor, "QUICK", 60.0)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty database; what a test leaves in its tables is checked at the end."""
    if request.param == "sqlite":
        with tempfile.TemporaryDirectory(prefix="pt-", dir=in_memory()) as folder:
            yield from checked(sqlite_place(Path(folder)))
    else:
        yield from checked(served_place(request.getfixturevalue(f"{request.param}_server")))


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Place]:
    """A SQLite database, for what only SQLite has."""
    yield from checked(sqlite_place(tmp_path))


@pytest.fixture
def postgresql(postgresql_server: Server) -> Iterator[Place]:
    """A PostgreSQL database, for what only PostgreSQL has."""
    yield from checked(served_place(postgresql_server))


@pytest.fixture
def mariadb(mariadb_server: Server) -> Iterator[Place]:
    """A MariaDB database, for what only MariaDB has."""
    yield from checked(served_place(mariadb_server))


@pytest.fixture(params=KINDS[1:])
def served(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A database of a server, for what happens to connections and locks."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    place = served_place(server)
    place.server = server
    yield from checked(place)


def served_place(server: Server) -> Place:
    server.make_empty()
    return Place(server.kind, server.url, server.engine)


def checked(place: Place) -> Iterator[Place]:
    """The place, and the invariants over it once the test is through."""
    yield place
    try:
        check_place(place)
    finally:
        place.close()


def check_place(place: Place) -> None:
    """The invariants over each table that the test worked with, and over what it was told."""
    check_finished_once(place.fates)
    for table in place.tables:
        if table._mapping is not None and place.foreign_doing is not None:
            check_invariants(
                table,
                claims=place.claims if place.counts_claims and len(place.tables) == 1 else None,
                foreign_doing=place.foreign_doing,
            )
