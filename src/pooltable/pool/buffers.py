"""Large arguments and results: in files of anonymous memory whose descriptors go over the socket, not through it.

    sender      pickle, large buffers out of band -> Parcel: a fresh memory file with all of it
    receiver    Received: mapped, unpickled; arrays stay views over the mapping, which is theirs alone

A memory file has no name and needs no /dev/shm, so nothing is left behind by a crash. It is used for one message and
never again: a view that somebody keeps does not change under their eyes. Each one costs a descriptor while it is on its
way, and before Python 3.13 as long as it is mapped, so beyond some hundreds the data is copied instead.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import weakref
from typing import Any

# From here on a memory file is cheaper than the socket.
LARGE = 1 << 19
# So many memory files on their way, and so many mapped, in one process.
_MOST_OPEN = 128
_MOST_MAPPED = 256
_ALIGNED = 64  # what vector instructions like

_HAVE = hasattr(os, "memfd_create")
_mapped: set[weakref.ref[mmap.mmap]] = set()
_open = 0


class TooLarge(Exception):
    """A buffer that should not be pickled in band."""


def keep_small(buffer: pickle.PickleBuffer) -> bool:
    """The `buffer_callback` of a usual pickle: small buffers in band, a large one stops it."""
    try:
        if buffer.raw().nbytes >= LARGE and _HAVE:
            raise TooLarge
    except BufferError:
        pass  # not contiguous: pickle says so itself
    return True


def dumps(value: Any) -> bytes | Parcel:
    """The value pickled, in a parcel if it is large."""
    try:
        return in_parcel(pickle.dumps(value, 5, buffer_callback=keep_small))
    except TooLarge:
        buffers: list[memoryview] = []
        head = pickle.dumps(value, 5, buffer_callback=lambda buffer: _keep(buffer, buffers))
    try:
        return Parcel([head, *buffers])
    except OSError:
        return pickle.dumps(value, 5)


def in_parcel(pickled: bytes) -> bytes | Parcel:
    """The bytes themselves, or in a parcel if they are many."""
    if len(pickled) >= LARGE and _HAVE:
        try:
            return Parcel([pickled])
        except OSError:
            pass  # no descriptor or no memory for it: then through the socket
    return pickled


def _keep(buffer: pickle.PickleBuffer, large: list[memoryview]) -> bool:
    raw = buffer.raw()
    if raw.nbytes < LARGE:
        return True
    large.append(raw)
    return False


class Parcel:
    """A pickle and its large buffers in a memory file. Closed when it is dropped."""

    __slots__ = ("_size", "fd", "head", "sizes")

    def __init__(self, pieces: list[Any]) -> None:
        global _open
        self.fd = -1
        if _open >= _MOST_OPEN:
            raise OSError("too many memory files")
        self.head = pieces[0] if len(pieces) > 1 else b""  # for those who look for a name in it
        self.sizes = tuple(len(piece) for piece in pieces)
        self._size = sum(self.sizes)
        self.fd = os.memfd_create("pooltable", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        _open += 1
        end = 0
        for piece in pieces:
            end = _write(self.fd, memoryview(piece), _aligned(end))
        # A file that became shorter would kill whoever has it mapped.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)

    def __len__(self) -> int:
        return self._size

    def close(self) -> None:
        global _open
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            _open -= 1
            os.close(fd)

    __del__ = close


def _aligned(place: int) -> int:
    return -(-place // _ALIGNED) * _ALIGNED


def _write(fd: int, data: memoryview, place: int) -> int:
    # One call writes at most two gigabytes.
    while data:
        written = os.pwrite(fd, data, place)
        data = data[written:]
        place += written
    return place


class Received:
    """A parcel at its destination."""

    __slots__ = ("_fd", "_pieces", "_sizes")

    def __init__(self, fd: int, sizes: tuple[int, ...]) -> None:
        global _open
        self._fd = fd
        self._sizes = sizes
        self._pieces: list[Any] | None = None
        _open += 1
        if _open > _MOST_OPEN:
            self._pieces = self._copy()
            self.close()

    def __len__(self) -> int:
        return sum(self._sizes)

    def load(self) -> Any:
        """What was pickled. Large arrays in it are views over memory that belongs to them alone."""
        pieces = self._pieces
        mapping: mmap.mmap | None = None
        if pieces is None:
            if len(self._sizes) > 1 and len(_mapped) >= _MOST_MAPPED:
                pieces = self._copy()
            else:
                mapping = mmap.mmap(self._fd, self._places()[-1][1], access=mmap.ACCESS_COPY)
                view = memoryview(mapping)
                pieces = [view[start:end] for start, end in self._places()]
                view.release()
        value = pickle.loads(pieces[0], buffers=pieces[1:])
        if mapping is not None:
            pieces[0].release()
            if len(pieces) == 1:
                mapping.close()
            else:
                _mapped.add(weakref.ref(mapping, _mapped.discard))
        return value

    def _places(self) -> list[tuple[int, int]]:
        places = []
        end = 0
        for size in self._sizes:
            start = _aligned(end)
            end = start + size
            places.append((start, end))
        return places

    def _copy(self) -> list[Any]:
        pieces = []
        for start, end in self._places():
            piece = bytearray(end - start)
            view = memoryview(piece)
            while view:
                read = os.preadv(self._fd, [view], start)
                view = view[read:]
                start += read
            pieces.append(piece)
        return pieces

    def close(self) -> None:
        global _open
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            _open -= 1
            os.close(fd)

    __del__ = close
