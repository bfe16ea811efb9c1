"""One wait over many descriptors: epoll where there is one, else whatever `selectors` finds."""

from __future__ import annotations

import select
import selectors
from collections.abc import Callable
from contextlib import suppress
from typing import Any

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
Act = Callable[[Any, int], None]


class Poller:
    """Waits for descriptors; each comes with what is to be called, and with whom it is about."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._asleep: dict[int, tuple[Act, Any]] = {}  # those that wait for nothing: `selectors` has no such thing

    def register(self, fd: int, act: Act, about: Any) -> None:
        self._selector.register(fd, READ, (act, about))

    def want(self, fd: int, mask: int) -> None:
        """Wait for READ, for READ | WRITE, or for nothing, from now on."""
        if mask:
            act, about = self._asleep.pop(fd, None) or self._selector.get_key(fd).data
            self.unregister(fd)
            self._selector.register(fd, mask, (act, about))
        else:
            self._asleep[fd] = self._selector.unregister(fd).data

    def unregister(self, fd: int) -> None:
        self._asleep.pop(fd, None)
        with suppress(KeyError):
            self._selector.unregister(fd)

    def wait(self, timeout: float | None) -> list[tuple[Act, Any, int]]:
        """Whom to call, with about whom and with what happened; after `timeout` seconds nobody."""
        return [(*key.data, mask) for key, mask in self._selector.select(timeout)]

    def close(self) -> None:
        self._selector.close()


class EpollPoller(Poller):
    """The same without the detour: this runs for every message."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._acts: dict[int, tuple[Act, Any]] = {}

    def register(self, fd: int, act: Act, about: Any) -> None:
        self._acts[fd] = (act, about)
        self._epoll.register(fd, select.EPOLLIN)

    def want(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, (select.EPOLLIN if mask & READ else 0) | (select.EPOLLOUT if mask & WRITE else 0))

    def unregister(self, fd: int) -> None:
        if self._acts.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wait(self, timeout: float | None) -> list[tuple[Act, Any, int]]:
        acts = self._acts
        ready = []
        for fd, events in self._epoll.poll(timeout):
            if fd in acts:
                # An error or the end of the other side counts as something to read: reading tells which.
                mask = WRITE if events & select.EPOLLOUT else 0
                ready.append((*acts[fd], mask | READ if events & ~select.EPOLLOUT else mask))
        return ready

    def close(self) -> None:
        self._epoll.close()


def new_poller() -> Poller:
    return EpollPoller() if hasattr(select, "epoll") else Poller()
