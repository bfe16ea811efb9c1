"""Results one by one, while the source of the arguments is still being read: `imap` and `imap_unordered`.

    feeder thread    reads the source, pickles, submits; keeps a bounded distance to the consumer
    I/O thread       heard(): keeps the record, still bytes
    consumer         next(): unpickles, returns or raises

The distance is bounded in calls and in bytes. The bound is lifted when the iterator is dropped or the pool is closed:
what the source still gives is run all the same, as in the standard library.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import TimeoutError as MultiprocessingTimeoutError
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pooltable.pool.buffers import Received
from pooltable.pool.chunks import Mixed, call_each
from pooltable.pool.engine import GIVEN, Record, load, rebuild

if TYPE_CHECKING:
    from pooltable.pool.pool import Pool

T = TypeVar("T")

# How far the feeder runs ahead of the consumer: so many calls, so many bytes of results, but so many per worker in
# any case.
_CALLS = 4096
_BYTES = 64 << 20
_PER_WORKER = 4
# A feeder that waits because of the number of calls goes on when so many were taken, not at each one.
_STEP = 64


class _Gate:
    """One thread waits here until another opens; opening takes no lock, so a finalizer may do it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock: Any = None

    def wait(self, is_open: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `open` is called, unless `is_open()` says now that there is nothing to wait for."""
        lock = threading.Lock()
        lock.acquire()
        self._lock = lock
        # Who opens changes what `is_open` looks at first and looks for the lock then, so one of the two sees the other.
        return is_open() or lock.acquire(True, -1 if timeout is None else max(timeout, 0.0))

    def open(self) -> None:
        lock = self._lock
        if lock is not None:
            self._lock = None
            try:
                lock.release()
            except RuntimeError:
                pass  # another thread was as quick


class _Stream:
    """What feeder, I/O thread and consumer share of one `imap`."""

    def __init__(self, pool: Pool, ordered: bool) -> None:
        self.pool: Pool | None = pool
        self.ordered = ordered
        self.least = _PER_WORKER * pool._processes
        self.answers: dict[int, Record] = {}  # by position, where they are wanted in order
        self.queue: deque[Record] = deque()  # else as they come
        self.sent = self.received = self.taken = 0
        self.bytes_received = self.bytes_taken = 0
        self.length: int | None = None  # how many there are in all, once the source has ended
        self.unbounded = False
        self.resume = 0  # the feeder waits until only so many are ahead
        self.feeder = _Gate()
        self.consumer = _Gate()

    # ---- feeder

    def feed(self, function: Callable[[Any], Any], source: Iterable[Any], chunksize: int) -> None:
        pool = self.pool
        assert pool is not None
        try:
            for item in source if chunksize == 1 else _in_tuples(source, chunksize):
                if self.sent - self.taken >= self.least:
                    while not self._may_send():
                        self.feeder.wait(self._may_send)
                if not self._submit(pool, function, item, chunksize):
                    break
                del item
        except Exception as error:
            self._fail(error)
        finally:
            self.length = self.sent
            self.pool = None
            self.consumer.open()
            pool._feeder_ended(self)

    def _submit(self, pool: Pool, function: Callable[[Any], Any], item: Any, chunksize: int) -> bool:
        sink = _Item(self, self.sent)
        try:
            if chunksize == 1:
                pool._engine.send(function, (item,), None, sink)
            else:
                pool._engine.send(call_each, (function, item), None, sink)
        except Exception as error:
            if pool._state == "TERMINATE":
                return False
            self._fail(error)
            return True
        self.sent += 1
        return True

    def _fail(self, error: BaseException) -> None:
        self.arrived(self.sent, (0, GIVEN, 0.0, error))
        self.sent += 1

    def _may_send(self) -> bool:
        ahead = self.sent - self.taken
        if self.unbounded or ahead < self.least:
            return True
        if ahead >= _CALLS:
            self.resume = ahead - _STEP
            return False
        # Of results that are under way the size is not known, only that of those before.
        received = self.received
        under_way = (self.sent - received) * (self.bytes_received // received) if received else _BYTES
        self.resume = ahead - 1
        return self.bytes_received - self.bytes_taken + under_way < _BYTES

    def lift_bound(self) -> None:
        self.unbounded = True
        self.feeder.open()

    # ---- I/O thread

    def arrived(self, position: int, record: Record) -> None:
        self.bytes_received += _weight(record)
        self.received += 1
        if self.ordered:
            self.answers[position] = record
            if position == self.taken:
                self.consumer.open()
        else:
            self.queue.append(record)
            self.consumer.open()

    # ---- consumer

    def take(self) -> Record | None:
        """The next answer if it is there."""
        try:
            record = self.answers.pop(self.taken) if self.ordered else self.queue.popleft()
        except (KeyError, IndexError):
            return None
        self.taken += 1
        self.bytes_taken += _weight(record)
        if self.sent - self.taken <= self.resume:
            self.feeder.open()
        return record

    def has_news(self) -> bool:
        if self.length == self.taken:
            return True
        return self.taken in self.answers if self.ordered else bool(self.queue)


def _weight(record: Record) -> int:
    payload = record[3]
    return len(payload) if type(payload) in (bytes, Received) else 0


class _Item:
    """Is told of one call of a stream."""

    __slots__ = ("_position", "_stream")

    def __init__(self, stream: _Stream, position: int) -> None:
        self._stream = stream
        self._position = position

    def heard(self, record: Record, worker: int | None, pid: int | None) -> None:
        self._stream.arrived(self._position, record)


def _in_tuples(source: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    # A source that raises in the middle of a chunk takes the begun chunk along, as in the standard library.
    part: list[Any] = []
    for item in source:
        part.append(item)
        if len(part) == size:
            yield tuple(part)
            part = []
    if part:
        yield tuple(part)


class IMapIterator(Generic[T]):
    """The results of `Pool.imap`, in the order of the arguments. One thread at a time may take from it."""

    _ordered = True

    def __init__(self, pool: Pool, function: Callable[[Any], Any], source: Iterable[Any], chunksize: int) -> None:
        self._stream = stream = _Stream(pool, self._ordered)
        self._chunked = chunksize > 1
        self._left: deque[Any] = deque()  # of the chunk that was taken last
        self._lock = threading.Lock()
        pool._feeder_started(stream)
        threading.Thread(
            target=stream.feed, args=(function, source, chunksize), name="pooltable-feeder", daemon=True
        ).start()

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.lift_bound()

    def __iter__(self) -> Self:
        return self

    def next(self, timeout: float | None = None) -> T:
        """The next value, or the error raised; `multiprocessing.TimeoutError` after `timeout` seconds without one."""
        with self._lock:
            if self._left:
                return _value(self._left.popleft())  # type: ignore[no-any-return]
            returned, value = load(self._wait_for_record(timeout))
            if not returned:
                raise value
            if not self._chunked:
                return value  # type: ignore[no-any-return]
            self._left.extend(_items(value))
            return _value(self._left.popleft())  # type: ignore[no-any-return]

    __next__ = next

    def _wait_for_record(self, timeout: float | None) -> Record:
        stream = self._stream
        end = None if timeout is None else monotonic() + timeout
        while (record := stream.take()) is None:
            if stream.length == stream.taken:
                raise StopIteration
            if not stream.consumer.wait(stream.has_news, None if end is None else end - monotonic()):
                raise MultiprocessingTimeoutError
        return record


class IMapUnorderedIterator(IMapIterator[T]):
    """The results of `Pool.imap_unordered`, as they come."""

    _ordered = False


class _Failed:
    """The place of an item that raised, in a chunk."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _items(chunk: Any) -> Iterable[Any]:
    if not isinstance(chunk, Mixed):
        return list(chunk)
    items = list(chunk.values)
    for position, described in chunk.errors.items():
        items[position] = _Failed(rebuild(described))
    return items


def _value(item: Any) -> Any:
    if type(item) is _Failed:
        raise item.error
    return item
