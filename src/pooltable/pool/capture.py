"""What a worker prints and logs, kept outside of it so that a crash loses nothing.

    worker                                       files                  parent (captured.py)
    print, C code, children --- fd 1 and 2 --->  <index>-<pid>.out ---> Reader.poll() -> WorkerPrinted
    logging records         ----------------->   <index>-<pid>.log ---> Reader.poll() -> WorkerLogged
    stacks, when it is ended or crashes ------>   <index>-<pid>.stacks > Reader.poll() -> WorkerLogged, at DEBUG
    begin(key), rest()      --- shared mmap -->  <index>-<pid>.now ---> Reader.now(), whose output is whose

Files and not pipes, because a full pipe would block the worker and a file outlives it. Of a file past TRIM the reader
frees on the disk what it has shown, by a hole: what a worker appends meanwhile is not touched, and offsets stay true.
The size goes on growing: at 1 MiB a second it takes half a year to the 16 TiB that ext4 allows. What goes past
`ulimit -f` is dropped, where Python prints it. Where the file system makes no holes (ext4, xfs, btrfs, tmpfs and NFS
from 4.2 do) nothing is freed: what Python prints past FULL is dropped, what C code and children print is not.

The marks are a ring in the shared mapping. A row that neither printed nor logged leaves none: the next one takes its
place, so that the ring remembers the last thousand rows that had something to say.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import io
import json
import logging
import mmap
import os
import pickle
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from pooltable.text import safe_repr

if TYPE_CHECKING:
    from pooltable.pool.captured import Reader as Reader

MIB = 1 << 20
TRIM = 32 * MIB  # the reader frees what it has shown of a file that holds more
FULL = 64 * MIB  # from here on a worker drops what it prints until the reader has caught up
TEXT = 64 * 1024  # of one record's message and traceback

SLOTS = 1024
SLOT_SIZE = 256
HEADER = 64
SIZE = HEADER + SLOTS * SLOT_SIZE
# version (odd while it is written), serial, offset in .out, offset in .log, attempt, started, length of the key
SLOT = struct.Struct("=QQQQqdQ")
ROOM = SLOT_SIZE - SLOT.size
# Words of the header: up to which offset the reader has freed each file, and the last mark.
OUT_FREED, LOG_FREED, SERIAL = range(3)
# Behind them in the header: how far the row is that started then.
PROGRESS = struct.Struct("=ddd")  # started, done, total (0: not known)
PROGRESS_AT = 8 * 3
NO_KEY = b""
BRIEF = 0.001  # a row or a rest of up to so many seconds is looked at less closely


def __getattr__(name: str) -> Any:
    # The parent's half is imported only where it is used: a worker has no need of it.
    if name == "Reader":
        from pooltable.pool.captured import Reader

        return Reader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pack_key(key: tuple[Any, ...]) -> bytes:
    """The key as bytes that fit into a mark; what is too long is shortened, for it is only shown and compared."""
    try:
        packed = pickle.dumps(key, 5)
        if len(packed) > ROOM:
            room = max(4, (ROOM - 40) // (4 * len(key)) - 8)
            packed = pickle.dumps(tuple(_shortened(part, room) for part in key), 5)
    except Exception:
        packed = b""
    if not packed or len(packed) > ROOM:
        packed = pickle.dumps((_shortened(repr(key), 32),), 5)
    return packed


def _shortened(part: Any, room: int) -> Any:
    if isinstance(part, str) and len(part) > room:
        return part[:room] + "…"
    if isinstance(part, bytes) and len(part) > room:
        return part[:room] + b"..."
    return part


def unpack_key(packed: bytes) -> tuple[Any, ...] | None:
    try:
        key = pickle.loads(packed) if packed else None
    except Exception:
        return None
    return key if isinstance(key, tuple) else None


def _opened(path: str, flags: int = 0) -> int:
    low = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    try:
        # A high number, because code that closes descriptors and opens others gets the low ones.
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 100)
    finally:
        os.close(low)


class _Appended:
    """A file that this process appends to, by a descriptor of its own that user code may close or reuse at any time."""

    def __init__(self, path: str, words: memoryview, freed: int) -> None:
        self._path = path
        self._words = words
        self._freed = freed
        self._past = 0
        self.writes = 0
        self.fd = _opened(path, os.O_CREAT)
        opened = os.fstat(self.fd)
        self._identity = (opened.st_ino, opened.st_dev)

    def is_ours(self, fd: int) -> os.stat_result | None:
        """The state of our file if `fd` is that file, else None; OSError where `fd` is closed."""
        found = os.fstat(fd)
        return found if (found.st_ino, found.st_dev) == self._identity else None

    def _stat(self) -> os.stat_result | None:
        try:
            found = self.is_ours(self.fd)
            if found is not None:
                return found
        except OSError:
            pass
        try:
            # The number may be somebody else's file by now, so it is left alone and not closed.
            self.fd = _opened(self._path)
            return self.is_ours(self.fd)
        except OSError:
            return None  # the reader has removed it: nobody wants our output any more

    def offset(self) -> int:
        """How much was ever written to the file."""
        found = self._stat()
        return found.st_size if found else 0

    def append(self, data: Any) -> None:
        found = self._stat()
        if found is None:
            return
        self.writes += 1
        size = memoryview(data).nbytes
        # Past the limit a little is let through: what follows a flood is often the error that explains it.
        self._past = self._past + size if found.st_size - self._words[self._freed] >= FULL else 0
        if self._past <= MIB:
            try:
                os.write(self.fd, data)
            except OSError as error:
                # `ulimit -f` is meant for the row's own files, and this one holds what all rows have printed.
                if error.errno != errno.EFBIG:
                    raise
        elif self._past - size <= MIB:
            os.write(
                self.fd, b"\n[output is dropped here: %d MiB wait to be read or cannot be freed]\n" % (FULL // MIB)
            )


class _Raw(io.RawIOBase):
    """Under sys.stdout and sys.stderr: appends to our file, whatever has become of descriptors 1 and 2."""

    def __init__(self, file: _Appended, number: int) -> None:
        self._file = file
        self._number = number
        self.name = "<stdout>" if number == 1 else "<stderr>"
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._file.append(data)
        return size


class _Hushed(threading.local):
    """Whether this thread is inside the handlers of a record that is captured already."""

    on = False


_hushed = _Hushed()


class _Stream(io.TextIOWrapper):
    def __init__(self, raw: _Raw, **options: Any) -> None:
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", newline="\n", **options)

    def write(self, text: str) -> int:
        # What a handler of the user's shows of a captured record would be the same record a second time.
        return len(text) if _hushed.on else super().write(text)


class _Capture:
    """The capture of this process: its files, its streams and its marks."""

    def __init__(self, folder: str, index: int) -> None:
        stem = os.path.join(os.path.abspath(folder), f"{index}-{os.getpid()}")
        fd = os.open(stem + ".new", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Written, not only truncated to size: a full disk must be an error here and not a SIGBUS at some mark.
            os.write(fd, bytes(SIZE))
            self._memory = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self._words = memoryview(self._memory).cast("Q")
        self._out = _Appended(stem + ".out", self._words, OUT_FREED)
        self._log = _Appended(stem + ".log", self._words, LOG_FREED)
        self.stacks = _opened(stem + ".stacks", os.O_CREAT)
        self._pid = os.getpid()
        self._key = NO_KEY
        self._attempt = 0
        self._row: list[Any] | None = None
        self._serial = 0
        self._versions = [0] * SLOTS
        self._at = (0, 0)
        self._writes = (0, 0)
        self._marked = self._looked = 0.0
        for number in (1, 2):
            os.dup2(self._out.fd, number)
        self._open_streams()
        self._look()
        self._mark(NO_KEY, 0)
        os.rename(stem + ".new", stem + ".now")  # the reader looks for this name, and everything is there now

    def _open_streams(self) -> None:
        sys.stdout = self._stdout = _Stream(_Raw(self._out, 1), line_buffering=True)
        sys.stderr = self._stderr = _Stream(_Raw(self._out, 2), write_through=True)
        # The originals as well: code that restores sys.stdout after a redirection takes it from there.
        vars(sys).update(__stdout__=self._stdout, __stderr__=self._stderr)

    def begin(self, key: tuple[Any, ...], attempt: int) -> None:
        # Right after the last row, which was looked at when it ended, there is nothing to see; after a brief rest only
        # what we have written ourselves.
        rested = self._key == NO_KEY
        if time.monotonic() - self._looked > BRIEF or (rested and (not self._are_open() or self._has_written())):
            self._look()
        self._mark(pack_key(key), attempt)

    def end(self) -> None:
        # The mark stays until the next row or a rest: as a rule that comes at once.
        now = time.monotonic()
        if now - self._marked > BRIEF or self._is_stirred():
            self._look()
        self._looked = now

    def rest(self) -> None:
        if self._key != NO_KEY:
            self._mark(NO_KEY, 0)

    def progress(self, done: float, total: float) -> None:
        PROGRESS.pack_into(self._memory, PROGRESS_AT, self._marked, done, total)

    def _are_open(self) -> bool:
        try:
            return not (self._stdout.closed or self._stderr.closed)
        except ValueError:
            return False  # somebody has taken what is under it for a stream of their own

    def _has_written(self) -> bool:
        """Whether this process has printed or logged since the last look."""
        self._stdout.flush()
        return self._writes != (self._out.writes, self._log.writes)

    def _is_stirred(self) -> bool:
        """Whether anybody has written since the last look, or closed what is written to: for a part of its price."""
        try:
            if not self._are_open() or self._has_written():
                return True
            os.lseek(1, 0, os.SEEK_CUR)
            os.lseek(2, 0, os.SEEK_CUR)
            # Anybody may write to the first, by a descriptor of their own; to the second only a child forked off, too.
            return (os.fstat(self._out.fd).st_size, os.lseek(self._log.fd, 0, os.SEEK_CUR)) != self._at
        except OSError:
            return True

    def _repair(self) -> None:
        """Undoes what the last row did to the streams, as far as nobody else owns what stands in their place now."""
        if not self._are_open():
            found = [sys.stdout, sys.stderr]
            ours = [sys.stdout is self._stdout, sys.stderr is self._stderr]
            self._open_streams()
            if not ours[0]:
                sys.stdout = found[0]
            if not ours[1]:
                sys.stderr = found[1]
        for number in (1, 2):
            try:
                os.fstat(number)
            except OSError:
                # Closed, so the number is free; an open file on it is the user's, and overlaying that would ruin it.
                self._out.offset()
                os.dup2(self._out.fd, number)

    def _look(self) -> None:
        """Mend what was closed, and see how much was written."""
        self._repair()
        self._stdout.flush()
        # These first: what is written after them shows the next time.
        self._writes = self._out.writes, self._log.writes
        at = self._out.offset(), self._log.offset()
        if at != self._at:
            self._serial += 1
            self._at = at

    def _mark(self, key: bytes, attempt: int) -> None:
        slot = self._serial % SLOTS
        place = HEADER + slot * SLOT_SIZE
        version = self._versions[slot] + 2
        self._versions[slot] = version
        memory = self._memory
        self._marked = self._looked = time.monotonic()
        SLOT.pack_into(memory, place, version - 1, self._serial, *self._at, attempt, self._marked, len(key))
        memory[place + SLOT.size : place + SLOT.size + len(key)] = key
        self._words[place // 8] = version
        self._words[SERIAL] = self._serial
        self._key, self._attempt, self._row = key, attempt, None

    def forked(self) -> None:
        """In a child that user code forked off: it shares our mapping, and must leave the marks alone."""
        global _capture
        if _capture is self:
            _capture = None

    def record(self, record: logging.LogRecord) -> bool:
        """Writes the record down; False where that failed, as on a full disk: logging never raises."""
        try:
            if self._row is None:
                self._row = [base64.b64encode(self._key).decode("ascii"), self._attempt]
            line = json.dumps([self._row, self._out.offset(), plain_record(record)])
            self._log.append(line.encode("ascii") + b"\n")
        except Exception:
            return False
        return True


_capture: _Capture | None = None


def install(folder: str, index: int) -> int:
    """Captures what this process prints and logs from now on, into files in `folder`.

    Called once per worker, before any user code. Returns the descriptor for its stacks, which are no output of a row.
    """
    global _capture
    if _capture is None:
        os.register_at_fork(after_in_child=_forked)
    _capture = capture = _Capture(folder, index)
    _capture_records(capture)
    return capture.stacks


def _forked() -> None:
    if _capture is not None:
        _capture.forked()


def begin(key: tuple[Any, ...], attempt: int) -> None:
    """What is printed and logged from now on belongs to this attempt of this row."""
    if _capture is not None:
        _capture.begin(key, attempt)


def end() -> None:
    """That row is over; the next one begins, or a rest."""
    if _capture is not None:
        _capture.end()


def rest() -> None:
    """No row is run for now."""
    if _capture is not None:
        _capture.rest()


def progress(done: float, total: float) -> None:
    """So much of the row is done, of so much in all; 0 where that is not known."""
    if _capture is not None:
        _capture.progress(done, total)


def _capture_records(capture: _Capture) -> None:
    """Has every record from INFO up written to the log file, exactly once.

    Not by a handler on the root logger: `basicConfig(force=True)` and `dictConfig` take such a handler away, a plain
    `basicConfig(level=...)` would do nothing because of it, and every handler of the user's that writes to stderr would
    show its records a second time.
    """
    root = logging.getLogger()
    for logger in (root, *(known for known in root.manager.loggerDict.values() if isinstance(known, logging.Logger))):
        # They came along from the process that this one was forked off, which shows our records itself.
        logger.handlers.clear()
    if root.level in (logging.WARNING, logging.NOTSET):
        root.setLevel(logging.INFO)
    original = getattr(logging.Logger.callHandlers, "original", logging.Logger.callHandlers)

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        before = _hushed.on
        _hushed.on = before or (record.levelno >= logging.INFO and capture.record(record))
        try:
            original(self, record)
        finally:
            _hushed.on = before

    call_handlers.original = original  # type: ignore[attr-defined]
    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]


def plain_record(record: logging.LogRecord) -> dict[str, Any]:
    """The record's facts as values that can leave the process: message merged, traceback as text."""
    facts = dict(record.__dict__)
    try:
        message = record.getMessage()
    except Exception as error:
        message = f"{safe_repr(record.msg)} (with arguments that do not fit: {type(error).__name__})"
    facts.update(msg=_capped(message), args=None, exc_info=None)
    facts.pop("message", None)
    if record.exc_info and not record.exc_text:
        try:
            facts["exc_text"] = logging.Formatter().formatException(record.exc_info)
        except Exception:
            facts["exc_text"] = f"{type(record.exc_info[1]).__name__} (its traceback cannot be shown)"
    for name in ("exc_text", "stack_info"):
        if facts.get(name):
            facts[name] = _capped(facts[name])
    return {name: _plain(value) for name, value in facts.items()}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float, bool)) else _capped(safe_repr(value))


def _capped(text: str) -> str:
    if len(text) <= TEXT:
        return text
    return f"{text[: TEXT // 2]}\n[... {len(text) - TEXT} characters left out ...]\n{text[-TEXT // 2 :]}"
