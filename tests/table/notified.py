"""A service that PostgreSQL tells of new rows. Nothing else would have it look for them within a minute."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pooltable import Event, Runner, TaskTable
from pooltable.events import Noticed
from pooltable.pace import Probe, Pulse
from tests.table.places import Place, wait_until

MINUTE = 60.0


class Told:
    """A service in a thread, on the table `video` with its triggers and one row; that is done."""

    def __init__(self, place: Place, table: TaskTable, url: str | None = None) -> None:
        self.place = place
        self.noticed: list[str] = []
        table.set_notify(True)
        table = TaskTable(url or place.url, "video", write=("caption",))
        self.runner = Runner(lambda row: "seen", table, processes=0, forever=True, poll=MINUTE, listeners=(self._hear,))
        self.thread = threading.Thread(target=self.runner.run)
        self.thread.start()
        self.wait_for(1)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Noticed):
            self.noticed.append(event.what)

    def wait_for(self, done: int) -> None:
        wait_until(lambda: self.place.value("SELECT count(*) FROM video WHERE status = 'DONE'") == done)

    @property
    def listens(self) -> bool:
        return bool(self.place.sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"))

    def add(self, *keys: int) -> None:
        for key in keys:
            self.place.sql("INSERT INTO video (id, content, status) VALUES (:key, 'a', 'PENDING')", key=key)

    def close(self) -> None:
        self.runner.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Told]]:
    """Starts them, and ends them at the end of the block."""
    monkeypatch.setattr(Pulse, "QUICKEST", MINUTE)
    monkeypatch.setattr(Probe, "QUICKEST", MINUTE)
    running: list[Told] = []

    def start(place: Place, table: TaskTable, url: str | None = None) -> Told:
        running.append(Told(place, table, url))
        return running[-1]

    try:
        yield start
    finally:
        for one in running:
            one.close()
