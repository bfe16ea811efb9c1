"""Twenty seconds of accidents on each database; longer ones are benchmarks/chaos.py's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.chaos import DATABASES, chaos
from tests.servers import Missing


@pytest.mark.timeout(120)
@pytest.mark.parametrize("database", DATABASES)
def test_after_twenty_seconds_of_accidents_nothing_is_lost_and_nothing_was_written_twice(
    database: str, tmp_path: Path
) -> None:
    try:
        verdict = chaos(database, tmp_path, seconds=20, seed=random.randrange(2**31))
    except Missing as missing:
        pytest.skip(str(missing).replace("\n", " "))
    print(verdict)
    assert not verdict.wrong, str(verdict)
    assert sum(verdict.accidents.values()) > 20
