"""The fixtures of the runner's tests; what is wrong after a test is found here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.prepared import Prepared
from tests.runner.missions import notes
from tests.runner.videos import Service, Videos


@pytest.fixture
def videos(tmp_path: Path, temporary_folder: Path) -> Videos:
    for old in (notes(), notes().with_name("sick")):
        old.unlink(missing_ok=True)
    return Videos(tmp_path)


@pytest.fixture
def service(videos: Videos, prepared: Prepared | None) -> Iterator[Callable[..., Service]]:
    """Start a run in a process of its own: `service("mission", "processes=2")`."""
    started: list[Service] = []

    def start(task: str, options: str = "processes=2") -> Service:
        started.append(Service(videos, task, options, prepared))
        return started[-1]

    yield start
    for running in started:
        running.close()


@pytest.fixture(autouse=True)
def invariants(videos: Videos) -> Iterator[None]:
    """After every test: each row in one state, no row in work, and the attempts add up."""
    yield
    if not videos.sql("SELECT 1 FROM sqlite_master WHERE name='pooltable_video_claims'"):
        return
    wrong = videos.sql(
        """SELECT number, row_keys, ended FROM pooltable_video_claims c WHERE closed_at IS NULL AND NOT EXISTS (
             SELECT 1 FROM pooltable_runner r WHERE r.id = c.runner_id AND r.stopped_at IS NULL)"""
    )
    assert not wrong, f"open claims without a live runner: {wrong}"
