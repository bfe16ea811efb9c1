"""Columns of a user's own type: what the type does with a value, it does where the task runs, within the row's time."""

from __future__ import annotations

import os
import threading

import pytest
import sqlalchemy as sa

from pooltable import Runner, TaskTable, run
from tests.runner import slow_types
from tests.runner.videos import wait_until

pytestmark = pytest.mark.timeout(60)


def table(videos, caption=slow_types.Slow, facts=slow_types.Listed):
    videos.sql("ALTER TABLE video ADD COLUMN facts JSON")
    declared = sa.Table(
        "video",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("caption", caption),
        sa.Column("facts", facts),
    )
    return TaskTable(videos.url, declared, write=("caption", "facts"))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_type_that_is_never_ready_costs_its_own_row_alone(videos, batch):
    videos.add("hangs", "raises", *["ok"] * 6)
    task = slow_types.listed if batch > 1 else slow_types.boxed
    summary = run(task, table(videos), processes=2, batch=batch, time_limit=1.0)
    assert (summary.done, summary.failures) == (6, {"TimeLimitExceeded": 1, "CannotStore": 1})
    error = videos.entry(2)["error"]
    assert "column 'caption': the value cannot be stored: ValueError: not for this column" in error
    found = videos.sql("SELECT DISTINCT caption, facts FROM video WHERE status = 'DONE'")
    assert {facts for _, facts in found} == {'{"parts": ["a", "b"]}'}
    assert all(caption.startswith("sqlite ") and caption.endswith(" ['ok']") for caption, _ in found)
    assert str(os.getpid()) not in {caption.split()[1] for caption, _ in found}


def test_a_stop_is_heard_while_a_type_is_not_ready(videos):
    videos.add("hangs", *["ok"] * 4)
    runner = Runner(slow_types.boxed, table(videos), processes=2, forever=True)
    thread = threading.Thread(target=runner.run)
    thread.start()
    wait_until(lambda: videos.statuses().get("DONE") == 4)
    runner.stop()
    runner.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert videos.statuses() == {"DONE": 4, "PENDING": 1}


def test_a_type_that_no_worker_can_import_travels_with_its_code(videos):
    class Local(sa.TypeDecorator):
        impl = sa.String
        cache_ok = True

        def process_bind_param(self, value, dialect):
            return f"{os.getpid()}"

    videos.add("ok")
    assert run(slow_types.boxed, table(videos, caption=Local), processes=1).done == 1
    assert videos.sql("SELECT caption FROM video") != [(str(os.getpid()),)]


def test_a_type_that_cannot_travel_does_its_part_in_the_runner(videos):
    class Stuck(sa.TypeDecorator):
        impl = sa.String
        cache_ok = True

        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

        def process_bind_param(self, value, dialect):
            with self.lock:
                return f"{os.getpid()}"

    videos.add("ok")
    assert run(slow_types.boxed, table(videos, caption=Stuck()), processes=1).done == 1
    assert videos.sql("SELECT caption FROM video") == [(str(os.getpid()),)]
