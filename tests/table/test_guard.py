"""A server that falls silent holds nobody up for longer than it may."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from pooltable import TaskTable
from pooltable.errors import DatabaseUnavailable
from pooltable.table.guard import Guard, Line
from tests.table.places import Place, wait_until

SLEEP = {"postgresql": "SELECT pg_sleep(20)", "mariadb": "SELECT sleep(20)"}


class Clock:
    """What a guard is told: since when something is under way, and how long it may take."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.bound = 1000.0
        self.severed = threading.Event()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> Iterator[Guard]:
    guard = Guard(lambda: clock.bound, lambda: clock.since, clock.severed.set)
    yield guard
    guard.end()


def test_what_takes_too_long_is_severed_and_nothing_else(clock: Clock, guard: Guard) -> None:
    clock.since = time.monotonic()
    assert not clock.severed.wait(0.5)
    clock.bound = 0.1
    assert clock.severed.wait(10)
    clock.since = None
    assert not guard.is_over


def test_whoever_reads_from_a_severed_line_is_woken() -> None:
    here, there = socket.socketpair()
    line = Line(here.fileno())
    threading.Timer(0.2, line.sever).start()
    assert here.recv(1) == b""
    # The second descriptor is its own: closing the first leaves nothing that could be taken for another file.
    here.close()
    line.sever()
    line.close()
    there.close()


def test_a_line_leaves_the_connection_as_it_was_whatever_default_the_user_has_set_for_timeouts() -> None:
    here, there = socket.socketpair()
    socket.setdefaulttimeout(30.0)
    try:
        line = Line(here.fileno())
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(here.fileno())
    for one in (line, here, there):
        one.close()


def test_a_connection_that_is_not_answered_is_given_up_and_waited_for_by_the_next_try(
    clock: Clock, guard: Guard
) -> None:
    answered = threading.Event()
    tries = []

    def connect() -> str:
        tries.append(1)
        answered.wait(20)
        return "connected"

    clock.since, clock.bound = time.monotonic(), 0.0
    with pytest.raises(TimeoutError):
        guard.opened(connect)
    answered.set()
    clock.bound = 1000.0
    assert guard.opened(connect) == "connected"
    assert len(tries) == 1


def test_what_a_connection_raises_is_raised(guard: Guard) -> None:
    def refused() -> None:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(ConnectionRefusedError):
        guard.opened(refused)


def test_a_verb_that_the_server_does_not_answer_is_given_up_and_the_next_one_is_answered(served: Place) -> None:
    lease = served.lease(served.video(1))
    bound = 0.3
    lease.bound(lambda: bound)
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match=r"did not answer for \d"):
        lease._session.read(lambda c: c.all(SLEEP[served.kind]))
    assert time.monotonic() - began < 10
    bound = 20.0
    lease.done(*lease.claim(1))
    assert served.statuses() == {1: "DONE"}
    lease.close()


def test_a_users_own_engine_is_guarded_as_well(served: Place) -> None:
    served.video(1)
    lease = TaskTable(served.engine, "video").open_lease()
    lease.bound(lambda: 0.3)
    with pytest.raises(DatabaseUnavailable, match="did not answer"):
        lease._session.transact(lambda c: c.all(SLEEP[served.kind]))
    lease.abandon()
    wait_until(lambda: not any(thread.name == "pooltable-guard" for thread in threading.enumerate()))


def test_a_server_that_does_not_answer_while_a_connection_is_opened_is_given_up(served: Place) -> None:
    """Also through an engine of the user's own, whose driver waits for as long as it likes."""
    served.video(1)
    answers = threading.Event()
    answers.set()

    def connect() -> Any:
        answers.wait(20)
        pooled = served.engine.raw_connection()
        raw = pooled.driver_connection
        pooled.detach()
        return raw

    engine = sa.create_engine(served.url, creator=connect, poolclass=NullPool)
    lease = served.lease(TaskTable(engine, "video"))
    bound = 0.3
    lease.bound(lambda: bound)
    lease._session.close_connection()
    answers.clear()
    with pytest.raises(DatabaseUnavailable, match=r"did not answer .* while a connection was opened"):
        lease.claim(1)
    bound = 20.0
    answers.set()
    lease.done(*lease.claim(1))
    lease.close()
