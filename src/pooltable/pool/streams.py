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

from pooltable.pool.bar import Bar, label_of
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
        # Where the results are wanted in order: the calls that were sent and not taken, and the answers there are.
        self.order: deque[int] = deque()
        self.answers: dict[int, Record] = {}
        self.wanted: int | None = None  # the call that the consumer waits for; None: whatever comes
        self.queue: deque[Record] = deque()  # where they are not
        self.sent = self.received = self.taken = 0
        self.bytes_received = self.bytes_taken = 0
        self.length: int | None = None  # how many there are in all, once the source has ended
        self.missing = 0  # items that the last chunk is short of
        self.unbounded = False
        self.resume = 0  # the feeder waits until only so many are ahead
        self.feeder = _Gate()
        self.consumer = _Gate()

    # ---- feeder

    def feed(self, function: Callable[[Any], Any], source: Iterable[Any], chunksize: int) -> None:
        pool = self.pool
        assert pool is not None
        room = 0
        try:
            for item in source if chunksize == 1 else _in_tuples(source, chunksize):
                room -= 1
                while room < 0:
                    room = self._room()
                    if room < 0:
                        self.feeder.wait(lambda: self._room() >= 0)
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
        try:
            if chunksize == 1:
                call = pool._engine.submit(function, (item,), None, self)
            else:
                self.missing += chunksize - len(item)
                call = pool._engine.submit(call_each, (function, item), None, self)
        except Exception as error:
            if pool._state == "TERMINATE":
                return False
            self._fail(error)
            return True
        self._count(call)
        return True

    def _count(self, call: int) -> None:
        if self.ordered:
            self.order.append(call)
        self.sent += 1
        if self.wanted is None:
            self.consumer.open()

    def _fail(self, error: BaseException) -> None:
        number = -1 - self.sent  # of no call
        self.heard((number, GIVEN, 0.0, error), None, None)
        self._count(number)

    def _room(self) -> int:
        """How many more calls may be sent after the next one before this is to be asked again; -1: not even that."""
        ahead = self.sent - self.taken
        if self.unbounded:
            return _STEP
        if ahead < self.least:
            return self.least - ahead - 1
        if ahead >= _CALLS:
            self.resume = ahead - _STEP
            return -1
        # Of results that are under way the size is not known, only that of those before.
        received = self.received
        mean = self.bytes_received // received if received else _BYTES
        rest = _BYTES - (self.bytes_received - self.bytes_taken) - (self.sent - received) * mean
        if rest <= 0:
            self.resume = ahead - 1
            return -1
        return min(_STEP, _CALLS - ahead, rest // (mean + 1))

    def lift_bound(self) -> None:
        self.unbounded = True
        self.feeder.open()

    def bar(self, label: str, source: Any, chunksize: int) -> Bar:
        """A bar that shows how many of the items have their answer."""
        known = len(source) if hasattr(source, "__len__") else None

        def total() -> int | None:
            return known if known is not None or self.length is None else self.length * chunksize - self.missing

        def done() -> int:
            return min(self.received * chunksize, total() or self.received * chunksize)

        return Bar(label, done, total, lambda: self.received == self.length)

    # ---- I/O thread

    def heard(self, record: Record, worker: int | None, pid: int | None) -> None:
        payload = record[3]
        if type(payload) is bytes or type(payload) is Received:
            self.bytes_received += len(payload)
        self.received += 1
        if self.ordered:
            self.answers[record[0]] = record
            if self.wanted is None or self.wanted == record[0]:
                self.consumer.open()
        else:
            self.queue.append(record)
            self.consumer.open()

    # ---- consumer

    def take(self) -> Record | None:
        """The next answer if it is there."""
        try:
            if self.ordered:
                record = self.answers.pop(self.order[0])
                self.order.popleft()
            else:
                record = self.queue.popleft()
        except (KeyError, IndexError):
            return None
        self.taken += 1
        payload = record[3]
        if type(payload) is bytes or type(payload) is Received:
            self.bytes_taken += len(payload)
        if self.sent - self.taken <= self.resume:
            self.feeder.open()
        return record

    def has_news(self) -> bool:
        """Whether `take` may give something now; notes what is waited for."""
        if not self.ordered:
            return bool(self.queue) or self.length == self.taken
        self.wanted = None
        if self.order:
            self.wanted = self.order[0]
        return self.wanted in self.answers or self.length == self.taken


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

    _bar: Bar | None = None

    def __init__(
        self,
        pool: Pool,
        function: Callable[[Any], Any],
        source: Iterable[Any],
        chunksize: int,
        progress: bool | str = False,
    ) -> None:
        self._stream = stream = _Stream(pool, self._ordered)
        self._chunked = chunksize > 1
        self._left: deque[Any] = deque()  # of the chunk that was taken last
        self._lock = threading.Lock()
        pool._feeder_started(stream)
        if progress:
            self._bar = stream.bar(label_of(progress, function), source, chunksize)
        threading.Thread(
            target=stream.feed, args=(function, source, chunksize), name="pooltable-feeder", daemon=True
        ).start()

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.lift_bound()
        if self._bar is not None:
            self._bar.drop()

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
                if self._bar is not None:
                    self._bar.finish()
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
