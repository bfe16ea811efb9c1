"""Keeps a server that falls silent from holding a session up for ever.

A network that swallows packets, a server that is stopped, a host without power: nothing is closed, so no driver ever
raises. A guard knows since when its session waits; past the bound it shuts the connection's socket down, which the
driver takes for a lost connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from pooltable.signals import leave_to_main_thread

LOOK_SECONDS = 0.2

# The kernel asks a peer that says nothing whether it is still there, and gives it up after about so many seconds; by
# default it takes two hours, or a quarter of one with data under way.
DEAD_SECONDS = 30
_OPTIONS = {
    "TCP_KEEPIDLE": DEAD_SECONDS // 2,
    "TCP_KEEPINTVL": DEAD_SECONDS // 6,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": DEAD_SECONDS * 1000,
}


class Line:
    """A second descriptor of a connection's socket: whoever closes the first one, this one is never somebody else's."""

    def __init__(self, descriptor: int) -> None:
        blocking = os.get_blocking(descriptor)
        self._socket = socket.socket(fileno=os.dup(descriptor))
        # The mode belongs to both, and Python changes it where the user has set a default for timeouts.
        os.set_blocking(descriptor, blocking)
        self._closing = threading.Lock()
        self.severed = False
        if self._socket.family in (socket.AF_INET, socket.AF_INET6):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _OPTIONS.items():
                if hasattr(socket, name):
                    self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def sever(self) -> None:
        """Whoever waits for the other end is told that it is gone. From any thread."""
        with self._closing, contextlib.suppress(OSError):
            self.severed = True
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        # Not while it is severed: its number may be another file's at once.
        with self._closing:
            self._socket.close()


class Guard:
    """Calls `sever`, on a thread of its own, while what began at `since()` takes longer than `bound()` seconds."""

    def __init__(
        self, bound: Callable[[], float], since: Callable[[], float | None], sever: Callable[[], None]
    ) -> None:
        self._bound = bound
        self._since = since
        self._sever = sever
        self._opening: Future[Any] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="pooltable-guard", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._opening is not None:
            self._opening.add_done_callback(_close)

    @property
    def is_over(self) -> bool:
        """Whether what is under way has taken as long as it may."""
        began = self._since()
        return began is not None and time.monotonic() - began >= self._bound()

    def opened(self, connect: Callable[[], Any]) -> Any:
        """What `connect` opened, in a thread that is left alone with a server that does not answer. Raises TimeoutError
        then; the next call waits for the same connection."""
        if self._opening is None:
            self._opening = Future()
            threading.Thread(
                target=_connect, args=(connect, self._opening), name="pooltable-connect", daemon=True
            ).start()
        while not wait([self._opening], LOOK_SECONDS).done:
            if self.is_over:
                raise TimeoutError
        opening, self._opening = self._opening, None
        return opening.result()

    def _work(self) -> None:
        leave_to_main_thread()
        while not self._ended.wait(LOOK_SECONDS):
            if self.is_over:
                self._sever()


def _connect(connect: Callable[[], Any], opening: Future[Any]) -> None:
    leave_to_main_thread()
    try:
        opening.set_result(connect())
    except BaseException as error:
        opening.set_exception(error)


def _close(opening: Future[Any]) -> None:
    if opening.exception() is None:
        opening.result().close()
