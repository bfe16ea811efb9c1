"""What parent and worker share besides their socket: a slab of memory that only the worker writes, and tokens.

    slab     started | epoch | end | record record record ...        worker writes, parent reads
    tokens   one per call of a batch: the worker takes one to start a call, the parent takes one to recall a call

The slab is how a result is neither lost nor held up by the call after it: the worker notes which call it starts and,
while calls of a batch are left, each result, without a system call. The parent looks there when a batch takes long,
and after a death. When the worker sends its results by socket it begins a new epoch. There is no lock: the parent
reads twice, some milliseconds apart, and believes only what did not change.
"""

from __future__ import annotations

import io
import marshal
import mmap
import os
import tempfile
from typing import Any

from pooltable.pool.wire import VERSION

SIZE = 131072
_STARTED, _EPOCH, _END = 0, 1, 2
_HEAD = 24


def new_slab() -> int:
    """The descriptor of a fresh slab, without a name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pooltable", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, SIZE)
    return fd


class Slab:
    """One process's view of a slab."""

    __slots__ = ("_map", "_place", "words")

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE)
        os.close(fd)
        # An aligned store of eight bytes is seen whole by the other process.
        self.words = memoryview(self._map)[:_HEAD].cast("Q")
        self._place = _HEAD

    # ---- the worker's side

    def write(self, record: tuple[Any, ...]) -> bool:
        """Note a result; False when there is no room, and what is there must be sent and cleared first."""
        data = marshal.dumps(record, VERSION)
        start = self._place
        end = start + len(data)
        if end > SIZE:
            return False
        self._map[start:end] = data
        self._place = self.words[_END] = end
        return True

    def clear(self) -> None:
        """What was noted has been sent."""
        if self._place != _HEAD:
            self.words[_EPOCH] += 1
            self._place = self.words[_END] = _HEAD

    # ---- the parent's side

    def started(self) -> int:
        """The call that was started last, 0 if none was."""
        return self.words[_STARTED]

    def mark(self) -> tuple[int, int, int]:
        """Changes whenever the worker starts a call, notes a result, or clears the slab."""
        words = self.words
        return words[_STARTED], words[_EPOCH], words[_END]

    def read(self, mark: tuple[int, int, int]) -> list[tuple[Any, ...]]:
        """The results noted; none if anything changed since `mark`."""
        data = self._map[_HEAD : max(mark[2], _HEAD)]
        if self.mark() != mark:
            return []
        records = []
        file = io.BytesIO(data)
        while file.tell() < len(data):
            records.append(marshal.load(file))
        return records

    def close(self) -> None:
        self.words.release()
        self._map.close()


class Tokens:
    """A counter in the kernel that both processes take from, never waiting."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def give(self, count: int) -> None:
        os.eventfd_write(self._fd, count)

    def take(self) -> bool:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def new_tokens() -> int:
    """The descriptor of a fresh counter; -1 where the system has none, and then nothing is sent ahead of time."""
    if not hasattr(os, "eventfd"):
        return -1
    return os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
