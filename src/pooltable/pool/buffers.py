"""Large arguments and results: in files of anonymous memory whose descriptors go over the socket, not through it.

    sender      pickle, large buffers out of band -> Parcel: a memory file with all of it, given away
    receiver    Received: mapped, unpickled; the file is the receiver's now, and arrays are views over its memory
                the file is written to again, for a message of the receiver's, when the last view of it is gone

A memory file has no name and needs no /dev/shm, so nothing is left behind by a crash. It belongs to one process at a
time, and that one writes to it only while nobody looks at it, so a view that somebody keeps does not change under their
eyes. Fresh memory costs several times what it takes to fill it, and to map it as much again; a few files are therefore
kept, with their mappings, also while they belong to the other process.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import pickle
import resource
import weakref
from sys import getrefcount
from typing import Any

# From here on a memory file is cheaper than the socket, also when it is a fresh one.
LARGE = 1 << 17
# So many memory files on their way, and so many mapped, in one process: each costs a descriptor, and another one as
# long as it is mapped. Beyond that, and beyond one in four of the descriptors that this process may have, data is
# copied.
_MOST_OPEN = 128
_MOST_MAPPED = 256
_PART_OF_DESCRIPTORS = 4
# So many memory files, and so many bytes in them, are kept for the next message.
_MOST_KEPT = 8
_BYTES_KEPT = 128 << 20
_ALIGNED = 64  # what vector instructions like

_HAVE = hasattr(os, "memfd_create")
_mapped: set[weakref.ref[mmap.mmap]] = set()
_open = 0
# Both by inode, the oldest first: the mappings that are kept, and the descriptors of those files that are ours to write
# to. No lock: a finalizer or signal handler may come here at any time, and each step is one operation of a dict.
_kept: dict[int, mmap.mmap] = {}
_ours: dict[int, int] = {}
_sample = {0: object()}
_ALONE = getrefcount(_sample[0])  # what it says of a mapping in _kept that nobody has a view of
_forks = 0  # how often this process was copied


def _descriptors_left() -> int:
    """How many more descriptors memory files may take."""
    try:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (OSError, ValueError):
        limit = 0
    most = limit // _PART_OF_DESCRIPTORS if limit > 0 else _MOST_OPEN + _MOST_MAPPED
    return most - _open - len(_mapped) - len(_ours)


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
        places = _places(self.sizes)
        file = _take(places[-1][1])
        if file is not None:
            self.fd, mapping = file
            _open += 1
            with memoryview(mapping) as view:
                for piece, (start, end) in zip(pieces, places, strict=True):
                    view[start:end] = piece
            return
        if _descriptors_left() < 1:
            raise OSError("too few descriptors")
        self.fd = os.memfd_create("pooltable", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        _open += 1
        for piece, (start, _) in zip(pieces, places, strict=True):
            _write(self.fd, memoryview(piece), start)
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


def _places(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """Where in a file pieces of these sizes begin and end."""
    places = []
    end = 0
    for size in sizes:
        start = -(-end // _ALIGNED) * _ALIGNED
        end = start + size
        places.append((start, end))
    return places


def _write(fd: int, data: memoryview, place: int) -> None:
    # One call writes at most two gigabytes.
    while data:
        written = os.pwrite(fd, data, place)
        data = data[written:]
        place += written


class Received:
    """A parcel at its destination."""

    __slots__ = ("_fd", "_forks", "_pieces", "_sizes")

    def __init__(self, fd: int, sizes: tuple[int, ...]) -> None:
        global _open
        self._forks = _forks
        self._fd = fd
        self._sizes = sizes
        self._pieces: list[Any] | None = None
        _open += 1
        if _open > _MOST_OPEN or _descriptors_left() < 1:  # one for the mapping
            self._pieces = self._copy()
            self.close()

    def __len__(self) -> int:
        return sum(self._sizes)

    def load(self) -> Any:
        """What was pickled. Large arrays in it are views over memory that belongs to them alone. Called once."""
        pieces = self._pieces
        file = os.fstat(self._fd) if pieces is None else None
        if file is None or (file.st_ino not in _kept and (len(_mapped) >= _MOST_MAPPED or _descriptors_left() < 1)):
            pieces = pieces or self._copy()
            return pickle.loads(pieces[0], buffers=pieces[1:])
        # A child that was forked meanwhile has this file, too, and may load it: each must get memory of its own.
        shared = self._forks != _forks
        mapping = None if shared else _kept.pop(file.st_ino, None)
        if mapping is None:
            access = mmap.ACCESS_COPY if shared else mmap.ACCESS_WRITE
            mapping = mmap.mmap(self._fd, file.st_size, access=access)
            _mapped.add(weakref.ref(mapping, _mapped.discard))
        with memoryview(mapping) as view:
            pieces = [view[start:end] for start, end in _places(self._sizes)]
        try:
            return pickle.loads(pieces[0], buffers=pieces[1:])
        finally:
            pieces[0].release()
            if not shared and file.st_size <= _BYTES_KEPT:
                self._becomes_ours(file.st_ino, mapping)

    def _becomes_ours(self, inode: int, mapping: mmap.mmap) -> None:
        global _open
        fd, self._fd = self._fd, -1
        _open -= 1
        _kept[inode] = mapping
        _ours[inode] = fd
        # A file that is kept takes two descriptors: half of what there is for all.
        most = min(_MOST_KEPT, max(0, _descriptors_left() + 2 * len(_kept)) // 4)
        while len(_kept) > most or sum(len(each) for each in list(_kept.values())) > _BYTES_KEPT:
            _let_go(next(iter(list(_kept))))

    def _copy(self) -> list[Any]:
        pieces = []
        for start, end in _places(self._sizes):
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


class Missing:
    """Stands for a parcel that did not arrive, because this process had no descriptor left for it."""

    def __len__(self) -> int:
        return 0

    def load(self) -> Any:
        raise OSError(errno.EMFILE, "no file descriptor was left for a large value; close files, or raise `ulimit -n`")


# ---- files that are kept


def _take(size: int) -> tuple[int, mmap.mmap] | None:
    """A file of ours for a message of this size, and its mapping, of which there is no view."""
    for inode in list(_ours):
        fd = _ours.pop(inode, -1)
        if fd >= 0:
            try:
                if size <= len(_kept[inode]) <= 2 * size and getrefcount(_kept[inode]) == _ALONE:
                    return fd, _kept[inode]
            except KeyError:  # another thread has let it go
                os.close(fd)
            else:
                _ours[inode] = fd
    return None


def _let_go(inode: int) -> None:
    """Keep this file no longer; memory that somebody still looks at lives as long as they do."""
    _kept.pop(inode, None)
    fd = _ours.pop(inode, -1)
    if fd >= 0:
        os.close(fd)


def let_go_of_all() -> None:
    """Keep no files for the next message."""
    for inode in list(_kept):
        _let_go(inode)


def _before_fork() -> None:
    # The child will look at whatever is looked at now, for as long as it likes.
    global _forks
    _forks += 1
    for inode in list(_kept):
        if getrefcount(_kept.get(inode)) != _ALONE:
            _let_go(inode)


os.register_at_fork(before=_before_fork, after_in_child=let_go_of_all)
