"""The parent's half of the capture: reads what workers printed and logged, while they run and after they died.

Everything here is called from one thread. Nothing blocks, and nothing is read without a bound. Of a file that has grown
large, what was shown is freed on the disk, but for the beginning and the end of each attempt's output, for `log_of`.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import ctypes
import itertools
import json
import logging
import mmap
import os
import time
from collections import deque
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

from pooltable.events import Key, WorkerDoing, WorkerLogged, WorkerPrinted
from pooltable.pool.capture import (
    HEADER,
    LOG_FREED,
    MIB,
    OUT_FREED,
    PROGRESS,
    PROGRESS_AT,
    SERIAL,
    SIZE,
    SLOT,
    SLOT_SIZE,
    SLOTS,
    TRIM,
    pack_key,
    unpack_key,
)

BURST = 256 * 1024  # of prints that one worker's poll gives; what is more is left out in the middle
RECORDS = MIB  # of log lines that one worker's poll reads; the rest waits for the next
PATIENCE = 0.3  # seconds that a line without an end is waited for
KEPT = 64 * 1024  # of an attempt's beginning, and as much of its end, stays when what was shown is freed
ATTEMPTS_KEPT = 16
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # FALLOC_FL_*, which Python does not name
_libc = ctypes.CDLL(None, use_errno=True)


class Mark(NamedTuple):
    """From these offsets on, output belongs to this row; `key` None is no row or one that was forgotten."""

    serial: int
    out_at: int
    log_at: int
    attempt: int
    started: float
    key: Key | None


def free(fd: int, start: int, stop: int) -> None:
    """Gives these bytes of a file back to the disk: they read as zeros, the file's size and all else stay."""
    if stop <= start:
        return
    if _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(stop - start)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class _File:
    """One of a worker's two files, which only grows: what was shown is freed, and nothing is ever moved."""

    def __init__(self, path: str, words: memoryview, freed: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._words = words
        self._freed = freed
        self._gone = 0  # of the attempts before this offset nothing is kept
        self.shown = 0

    @property
    def end(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self._fd, stop - start, start) if stop > start else b""

    def cut(self, start: int, stop: int, limit: int) -> tuple[bytes, int, bytes]:
        """Beginning, number of bytes left out, and end of an attempt's output, `limit` bytes in all."""
        whole, limit = stop - start, min(limit, KEPT)
        if start < self._gone:
            return b"", whole, b""
        if whole <= limit:
            return self.read(start, stop), 0, b""
        head = limit // 4
        return self.read(start, start + head), whole - limit, self.read(stop - limit + head, stop)

    def free_if_large(self, starts: list[int]) -> None:
        """Frees what was shown of a large file; `starts` is where the output of each of the latest attempts begins."""
        if self.end - self._words[self._freed] <= TRIM:
            return
        edges = [*starts, self.shown]
        self._gone = min(edges)
        try:
            free(self._fd, 0, self._gone)
            for start, stop in itertools.pairwise(edges):
                free(self._fd, start + KEPT, min(stop, self.shown) - KEPT)
        except OSError:
            return  # the file system cannot do that: the worker drops what is past FULL, and says so in its output
        self._words[self._freed] = self.shown

    def close(self) -> None:
        os.close(self._fd)


class _Stacks:
    """What a worker was at when it was ended, or crashed."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._shown = self._seen = 0

    def new(self, last: bool) -> str:
        """What was not shown yet, once nothing was added since the last look: a thread is written after the other."""
        before, self._seen = self._seen, os.fstat(self._fd).st_size
        if self._seen == self._shown or not (last or self._seen == before):
            return ""
        start, self._shown = self._shown, self._seen
        return clean_text(os.pread(self._fd, min(self._seen - start, BURST), start))

    def read(self) -> str:
        return clean_text(os.pread(self._fd, BURST, 0))

    def close(self) -> None:
        os.close(self._fd)


class _Worker:
    """What is known of one worker's files."""

    def __init__(self, folder: str, stem: str) -> None:
        index, _, pid = stem.partition("-")
        self.index, self.pid = int(index), int(pid)
        self._paths = [os.path.join(folder, stem + ending) for ending in (".now", ".out", ".log", ".stacks")]
        fd = os.open(self._paths[0], os.O_RDWR | os.O_CLOEXEC)
        try:
            self._memory = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self._words = memoryview(self._memory).cast("Q")
        self._out = _File(self._paths[1], self._words, OUT_FREED)
        self._log = _File(self._paths[2], self._words, LOG_FREED)
        self._stacks = _Stacks(self._paths[3])
        self._marks: deque[Mark] = deque(maxlen=SLOTS)
        self._partial_since: float | None = None
        self._refresh()

    # ---- marks

    def _slot(self, serial: int) -> Mark | None:
        place = HEADER + serial % SLOTS * SLOT_SIZE
        for _ in range(20):
            version = self._words[place // 8]
            _, found, out_at, log_at, attempt, started, length = SLOT.unpack_from(self._memory, place)
            key = self._memory[place + SLOT.size : place + SLOT.size + min(length, SLOT_SIZE - SLOT.size)]
            if version == self._words[place // 8] and not version & 1:
                return Mark(found, out_at, log_at, attempt, started, unpack_key(key)) if found == serial else None
        return None  # a worker that died while it wrote the mark

    def _refresh(self) -> None:
        last = self._words[SERIAL]
        if self._marks:
            first = self._marks.pop().serial  # read again: a row that printed nothing is replaced in its place
            if last - first >= SLOTS:
                # Too many rows printed since the last look; who printed what in between is not known any more.
                self._marks.append(Mark(first, self._out.shown, self._log.shown, 0, 0.0, None))
                first = last - SLOTS + 1
        else:
            first = max(0, last - SLOTS + 1)
        for serial in range(first, last + 1):
            mark = self._slot(serial)
            if mark is not None:
                self._marks.append(mark)

    def now(self) -> WorkerDoing:
        self._refresh()
        mark = self._marks[-1] if self._marks else None
        seconds = max(0.0, time.monotonic() - mark.started) if mark and mark.started else 0.0
        if mark is None or mark.key is None:
            return WorkerDoing(self.index, self.pid, None, seconds)
        started, done, total = PROGRESS.unpack_from(self._memory, PROGRESS_AT)
        if started != mark.started:
            return WorkerDoing(self.index, self.pid, mark.key, seconds)
        return WorkerDoing(self.index, self.pid, mark.key, seconds, done, total or None)

    # ---- what is new

    def poll(self, last: bool = False) -> Iterator[WorkerPrinted | WorkerLogged]:
        self._refresh()
        records = list(self._new_records())
        start, stop = self._out.shown, self._new_stop(last)
        self._out.shown = max(start, stop)
        inside = [mark.out_at for mark in self._marks] + [at for at, _ in records]
        cuts = sorted({start, stop, *(at for at in inside if start < at < stop)})
        waiting = deque(records)
        for left, right in itertools.pairwise(cuts):
            while waiting and waiting[0][0] <= left:
                yield waiting.popleft()[1]
            text = self._shown_text(left, right)
            if text:
                yield WorkerPrinted(self.index, self.pid, self._key_at(left), text)
        yield from (record for _, record in waiting)
        stacks = self._stacks.new(last)
        if stacks:
            # Not as prints, which are never swallowed: who ends a run, or has rows that crash, does not want to see a
            # page for each of them. Of a crash between rows, or before the first one, there is no other record.
            key = self._key_at(self._out.end)
            level = logging.WARNING if key is None else logging.DEBUG
            record = {
                "name": "pooltable.output",
                "levelno": level,
                "levelname": logging.getLevelName(level),
                "msg": stacks.rstrip(),
            }
            yield WorkerLogged(self.index, self.pid, key, record)
        latest = list(self._marks)[-ATTEMPTS_KEPT:]
        self._out.free_if_large([mark.out_at for mark in latest])
        self._log.free_if_large([mark.log_at for mark in latest])

    def _new_stop(self, last: bool) -> int:
        """Up to where prints are shown now: whole lines, unless the rest of one lets itself be waited for."""
        start, end = self._out.shown, self._out.end
        tail = self._out.read(max(start, end - 8192), end)
        whole = max(tail.rfind(b"\n"), tail.rfind(b"\r")) + 1
        stop = end - len(tail) + whole
        if last or stop == end or len(tail) - whole >= 8192:
            self._partial_since = None
            return end
        boundary = self._marks[-1].out_at if self._marks else 0
        now = time.monotonic()
        if self._partial_since is None or stop > start:
            self._partial_since = now
        if start < boundary <= end:
            stop = max(stop, boundary)
        if now - self._partial_since > PATIENCE:
            self._partial_since = None
            pending = codecs.getincrementaldecoder("utf-8")("backslashreplace")
            pending.decode(tail)
            return max(stop, end - len(pending.getstate()[0]))
        return stop

    def _shown_text(self, start: int, stop: int) -> str:
        if stop - start <= BURST:
            return clean_text(self._out.read(start, stop))
        half = BURST // 2
        first, last = self._out.read(start, start + half), self._out.read(stop - half, stop)
        return clean_text(first) + _left_out(stop - start - BURST) + clean_text(last)

    def _key_at(self, offset: int) -> Key | None:
        for mark in reversed(self._marks):
            if mark.out_at <= offset:
                return mark.key
        return None

    def _new_records(self) -> Iterator[tuple[int, WorkerLogged]]:
        start, end = self._log.shown, self._log.end
        if end - start > TRIM:
            start = end - RECORDS // 2  # a worker that logs faster than it can be shown: the newest matter more
        data = self._log.read(start, min(end, start + RECORDS))
        size = data.rfind(b"\n") + 1
        if not size and len(data) == RECORDS:
            size = len(data)
        self._log.shown = start + size
        for _, key, at, record in _records(data[:size]):
            yield at, WorkerLogged(self.index, self.pid, key, record)

    # ---- what one attempt wrote

    def log_of(self, key: Key, attempt: int, limit: int) -> str:
        self._refresh()
        shown = unpack_key(pack_key(key))
        marks = list(self._marks)
        for position in range(len(marks) - 1, -1, -1):
            if marks[position].key == shown and marks[position].attempt == attempt:
                mark = marks[position]
                break
        else:
            return ""
        following = marks[position + 1] if position + 1 < len(marks) else None
        out_stop = following.out_at if following else self._out.end
        log_stop = following.log_at if following else self._log.end
        head, left_out, tail = self._out.cut(mark.out_at, out_stop, limit)
        lines = b"\n".join(part for part in self._log.cut(mark.log_at, log_stop, 4 * limit)[::2] if part)
        records = [(at, _line(record)) for own, _, at, record in _records(lines) if own == attempt]
        # Woven together by the offsets at which the records were made, as far as those bytes are still there.
        tail_start = out_stop - len(tail) if tail else out_stop + 1
        parts = list(_woven(head, mark.out_at, [(at, line) for at, line in records if at < tail_start]))
        if left_out:
            parts.append(_left_out(left_out))
        parts += _woven(tail, tail_start, [(at, line) for at, line in records if at >= tail_start])
        if following is None:
            parts.append(self._stacks.read())
        return _capped("".join(parts), limit)

    def close(self, remove: bool) -> None:
        self._words.release()
        self._memory.close()
        self._out.close()
        self._log.close()
        self._stacks.close()
        if remove:
            for path in self._paths:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


class Reader:
    """Reads what the workers that were given `folder` print and log. All methods are called from one thread."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.abspath(folder)
        self._workers: dict[int, _Worker] = {}
        self._last: list[WorkerPrinted | WorkerLogged] = []

    def poll(self) -> list[WorkerPrinted | WorkerLogged]:
        """What is new since the last poll, each worker's in order; never blocks and is bounded."""
        self._discover()
        events, self._last = self._last, []
        for worker in sorted(self._workers.values(), key=lambda worker: (worker.index, worker.pid)):
            events.extend(worker.poll())
        return events

    def now(self, ended: Container[int] = ()) -> tuple[WorkerDoing, ...]:
        """What each worker is at, without the pids that have `ended` and whose output is kept until it is forgotten."""
        self._discover()
        there = (worker for pid, worker in self._workers.items() if pid not in ended)
        return tuple(sorted((worker.now() for worker in there), key=lambda doing: doing.worker))

    def log_of(self, pid: int, key: Key, attempt: int, limit: int = 16384) -> str:
        """What that attempt printed and logged, at most about `limit` characters of it: the beginning and the end."""
        self._discover()
        worker = self._workers.get(pid)
        return worker.log_of(key, attempt, limit) if worker else ""

    def forget(self, pid: int) -> None:
        """That worker is gone: removes its files. What was not shown yet comes with the next poll."""
        self._discover()
        worker = self._workers.pop(pid, None)
        if worker:
            self._last.extend(worker.poll(last=True))
            worker.close(remove=True)

    def finish(self) -> list[WorkerPrinted | WorkerLogged]:
        """The run is over and all workers are gone: everything that was not shown yet. Their files are removed."""
        self._discover()
        for pid in sorted(self._workers):
            self.forget(pid)
        events, self._last = self._last, []
        return events

    def close(self) -> None:
        """Closes all files and leaves them where they are."""
        while self._workers:
            self._workers.popitem()[1].close(remove=False)

    def _discover(self) -> None:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return
        for name in names:
            stem, _, ending = name.rpartition(".")
            if ending == "now" and int(stem.partition("-")[2]) not in self._workers:
                try:
                    worker = _Worker(self._folder, stem)
                except FileNotFoundError:
                    continue  # its files were removed by somebody else, such as a cleaner of /tmp
                self._workers[worker.pid] = worker


def clean_text(data: bytes) -> str:
    """Bytes of a worker as text that any database can hold: what is not UTF-8, and NUL, is written out."""
    return data.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _records(data: bytes) -> Iterator[tuple[int, Key | None, int, dict[str, Any]]]:
    """Attempt, key, offset of the prints before it, and record of each line; a line that is not whole is left out."""
    for line in data.splitlines():
        try:
            (key, attempt), at, record = json.loads(line)
            yield attempt, unpack_key(base64.b64decode(key)), at, record
        except (ValueError, TypeError):
            continue


def _line(record: dict[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(record.get("created", 0.0)))
    parts = [f"{at} {record.get('levelname')} {record.get('name')}: {record.get('msg')}"]
    parts += [str(record[name]) for name in ("exc_text", "stack_info") if record.get(name)]
    return "\n".join(parts).replace("\0", "\\x00") + "\n"


def _woven(data: bytes, start: int, records: list[tuple[int, str]]) -> Iterator[str]:
    done = 0
    for at, line in records:
        place = min(max(at - start, done), len(data))
        if place > done:
            text = clean_text(data[done:place])
            yield text if text.endswith("\n") else text + "\n"
            done = place
        yield line
    yield clean_text(data[done:])


def _left_out(size: int) -> str:
    amount = f"{size / MIB:.1f} MiB" if size >= MIB else f"{size} bytes"
    return f"\n[... {amount} left out ...]\n"


def _capped(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = limit // 4
    return text[:head] + _left_out(len(text) - limit) + text[head - limit :]
