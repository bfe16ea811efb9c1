"""One suite for every database: the fixture `place` is an empty database of each kind that can be had here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.table.invariants import check_invariants
from tests.table.places import Place, sqlite_place

KINDS = ("sqlite",)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database; what a test leaves in its tables is checked at the end."""
    place = sqlite_place(tmp_path)
    yield place
    place.close()
    unchecked = request.node.get_closest_marker("invariants_broken")
    failed = getattr(request.node, "failed", False)
    if unchecked is None and not failed:
        for table in {id(t.mapping): t for t in place.tables if t._mapping is not None}.values():
            check_invariants(table)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Place]:
    """A SQLite database, for what only SQLite has."""
    place = sqlite_place(tmp_path)
    yield place
    place.close()
