"""Messages <-> bytes over the socket between the parent and one worker.

    a message       tuples, lists, numbers, bytes and str, as `marshal` writes them: one packet
    a long message  b"L" and its length in one packet, then its bytes in packets of up to 64 KiB
    memory files    come along with the first packet of the message that they belong to

The packets of a SEQPACKET socket arrive whole or not at all, so a worker that dies half-way through a message leaves
no half message behind; where there is no SEQPACKET a stream carries the same packets, each behind its length. Both
ends run the same Python, so `marshal` may be used: it is several times faster than pickle on such values. What users
send is pickled inside, as bytes, and not looked at here.
"""

from __future__ import annotations

import array
import errno
import marshal
import os
import select
import socket
import struct
from collections import deque
from contextlib import suppress
from typing import Any

from pooltable.pool.buffers import Parcel

# A SEQPACKET packet must fit the socket's send buffer (about 208 KiB by default) as a whole, else it is never sent.
PACKET = 65536
# So many packets of a long message at a time, where the socket does not block.
_PATIENCE = 32
_LONG = ord("L")
_MOST_FILES = 253  # in one packet: the kernel's limit
_FILES_ROOM = socket.CMSG_SPACE(_MOST_FILES * array.array("i").itemsize)
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_CUT = getattr(socket, "MSG_CTRUNC", 0)
_SIZE = struct.Struct("<cQ")
_STREAM_SIZE = struct.Struct("<I")
VERSION = 2  # of marshal: later ones look for repeated objects, which costs more than it saves here


class NoMessage(Exception):
    """What came is nothing that the other end sends, or cannot be taken; says why."""


def pack(message: Any) -> bytes:
    """The bytes of a message."""
    return marshal.dumps(message, VERSION)


def _unpack(data: Any) -> Any:
    try:
        return marshal.loads(data)
    except (EOFError, ValueError, TypeError, MemoryError) as error:
        raise NoMessage(f"it cannot be read: {error}") from None


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets: the parent's, which never blocks, and the worker's."""
    kind = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_STREAM)
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    except OSError:
        # macOS knows the constant but has no such sockets.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    return ours, theirs


def channel(end: socket.socket) -> Channel:
    """The channel over a socket that `pair` made."""
    return StreamChannel(end) if end.type == socket.SOCK_STREAM else Channel(end)


class Channel:
    """One end of a worker's socket.

    On a socket that does not block, `send` keeps what the socket does not take and returns False, and `flush` goes on
    with it; `receive` raises BlockingIOError while there is no whole message. It raises EOFError at the end,
    and NoMessage for what it cannot take.
    """

    __slots__ = ("_buffer", "_buffers", "_filled", "_long", "_outbox", "_view", "cut", "files", "received", "socket")

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        # Kept for all messages: a fresh buffer of this size at every call makes the C library map and unmap memory.
        self._buffer = bytearray(PACKET)
        self._buffers = [self._buffer]
        self._view = memoryview(self._buffer)
        self._outbox: deque[bytes | memoryview | tuple[bytes, list[Parcel]]] = deque()
        self.files: deque[int] = deque()  # those that came with the last message
        self.cut = False  # it had more of them, for which there was no descriptor left
        self._long: memoryview | None = None
        self._filled = 0
        self.received = 0  # bytes so far, for people

    def send(self, data: bytes) -> bool:
        """Send what `pack` made; False when part of it waits for `flush`."""
        if not self._outbox and len(data) <= PACKET:
            try:
                self.socket.send(data)
                return True
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                if not _is_full(error):
                    raise
        return self._send_later(data)

    def send_with_files(self, data: bytes, parcels: list[Parcel]) -> bool:
        """Send what `pack` made, and the memory files that it speaks of."""
        return self._send_later(data, parcels)

    def _send_later(self, data: bytes, parcels: list[Parcel] | None = None) -> bool:
        first = data if len(data) <= PACKET else _SIZE.pack(b"L", len(data))
        self._outbox.append((first, parcels) if parcels else first)
        if first is not data:
            view = memoryview(data)
            self._outbox.extend(view[start : start + PACKET] for start in range(0, len(data), PACKET))
        return self.flush()

    def flush(self) -> bool:
        """Send what waits; True when nothing waits any more."""
        outbox = self._outbox
        patience = _PATIENCE if self.socket.gettimeout() is not None else len(outbox)
        while outbox:
            patience -= 1
            if patience < 0:
                return False
            first = outbox[0]
            try:
                if isinstance(first, tuple):
                    socket.send_fds(self.socket, [first[0]], [parcel.fd for parcel in first[1]])
                else:
                    self.socket.send(first)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if _is_full(error):
                    return False
                outbox.clear()
                raise
            outbox.popleft()
        return True

    def fileno(self) -> int:
        return self.socket.fileno()

    def wait(self, timeout: float | None) -> bool:
        """Wait for something to read, the end included, on a socket that does not block; False after `timeout`."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))

    def shutdown(self) -> None:
        """Wake whoever waits here: there is nothing more to come."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    @property
    def waiting(self) -> bool:
        """Whether something waits for `flush`."""
        return bool(self._outbox)

    def receive(self) -> Any:
        """The next message."""
        while self._long is None:
            size, ancillary, flags, _ = self.socket.recvmsg_into(self._buffers, _FILES_ROOM, _CLOSED_ON_EXEC)
            if size == 0:
                raise EOFError
            self.cut = bool(flags & _CUT)
            if ancillary:
                self._take_files(ancillary)
            self.received += size
            if self._buffer[0] == _LONG:
                self._long = _room_for(self._view[:size])
                self._filled = 0
            else:
                return _unpack(self._view[:size])
        return self._receive_long(self._long)

    def _take_files(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self.files.extend(fds)

    def _receive_long(self, data: memoryview) -> Any:
        # A bounded number of packets at a time: the parent has other workers to listen to.
        for _ in range(_PATIENCE):
            size = self.socket.recv_into(data[self._filled : self._filled + PACKET])
            if size == 0:
                raise EOFError
            self._filled += size
            self.received += size
            if self._filled == len(data):
                self._long = None
                return _unpack(data)
        if self.socket.gettimeout() is None:
            return self._receive_long(data)
        raise BlockingIOError

    def close(self) -> None:
        # Its worker is remembered for a while.
        self._buffer = bytearray()
        self._buffers = [self._buffer]
        self._view = memoryview(self._buffer)
        self._outbox.clear()
        while self.files:
            os.close(self.files.popleft())
        self.socket.close()


def _room_for(head: memoryview) -> memoryview:
    try:
        return memoryview(bytearray(_SIZE.unpack(head)[1]))
    except (struct.error, MemoryError, OverflowError) as error:
        raise NoMessage(f"there is no room for it: {error}") from None


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOBUFS, errno.ENOMEM)


class StreamChannel(Channel):
    """The same over a stream: every message goes behind its length."""

    __slots__ = ("_head",)

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self._head = bytearray()

    def send(self, data: bytes) -> bool:
        self._outbox.append(_STREAM_SIZE.pack(len(data)) + data)
        return self.flush()

    def flush(self) -> bool:
        outbox = self._outbox
        while outbox:
            first = outbox[0]
            assert not isinstance(first, tuple)  # where there are no packets there are no memory files either
            try:
                sent = self.socket.send(first)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                outbox.clear()
                raise
            if sent == len(first):
                outbox.popleft()
            else:
                outbox[0] = memoryview(first)[sent:]
        return True

    def receive(self) -> Any:
        while self._long is None:
            part = self.socket.recv(_STREAM_SIZE.size - len(self._head))
            if not part:
                raise EOFError
            self._head += part
            if len(self._head) == _STREAM_SIZE.size:
                self._long = memoryview(bytearray(_STREAM_SIZE.unpack(self._head)[0]))
                self._filled = 0
                self._head.clear()
        return self._receive_long(self._long)
