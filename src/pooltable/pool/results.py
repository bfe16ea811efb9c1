"""What a `Pool` gives back at once: a result that can be waited for, or the results of a map as one.

    I/O thread       heard(): keeps the record, still bytes; wakes who waits
    callback thread  where there is a callback: unpickles, calls it, and only then the result is ready, as in the
                     standard library
    who waits        get(): unpickles, returns or raises

A result without a callback has no lock of its own until somebody waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing import TimeoutError as MultiprocessingTimeoutError
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pooltable.pool.chunks import Mixed
from pooltable.pool.engine import GIVEN, Record, load, rebuild

if TYPE_CHECKING:
    from pooltable.pool.pool import Pool

# A result is ready when its callback has returned. When it must queue for longer than this behind other callbacks, it
# does not wait for them: a callback that blocks would hold up the results of every call that has one.
_PATIENCE = 0.25

Callback = Callable[[Any], object] | None
T = TypeVar("T")


_registering = threading.Lock()


class AsyncResult(Generic[T]):
    """The result of one call, as of `Pool.apply_async`."""

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_call",
        "_callbacks",
        "_locks",
        "_outcome",
        "_pool",
        "_queued_at",
        "_ready",
        "_record",
    )

    def __init__(self, pool: Pool, callback: Callback = None, error_callback: Callback = None) -> None:
        # The pool lives at least as long as a call of it is open.
        self._pool: Pool | None = pool
        self._call = 0
        self._ready = False
        self._locks: list[Any] | None = None  # of threads that wait
        self._record: Any = None
        self._outcome: tuple[bool, Any] | None = None  # whether it is a value, and the value or error
        self._queued_at: float | None = None  # since when its callback waits to be called
        # Those for the value and for the error.
        self._callbacks: Any = None if callback is None and error_callback is None else (error_callback, callback)

    # ---- told

    def heard(self, record: Any, worker: int | None = None, pid: int | None = None) -> None:
        pool = self._pool
        self._pool = None
        self._record = record
        if self._callbacks is None or pool is None:
            # It becomes ready first and looks for locks then; who waits does it the other way round.
            self._ready = True
            if self._locks is not None:
                self._wake()
        else:
            self._queued_at = monotonic()
            pool._callbacks.run(self._call_back)

    def _wake(self) -> None:
        locks, self._locks = self._locks, None
        for lock in locks or ():
            lock.release()

    def _fail(self, error: BaseException) -> None:
        """The call could not be submitted."""
        self.heard((0, GIVEN, 0.0, error))

    def _call_back(self) -> None:
        """Call the user's callback, on the callback thread; the result is ready afterwards, whatever it does."""
        self._queued_at = None
        try:
            returned, value = self._resolved()
            callback = self._callbacks[returned]
            if callback is not None:
                callback(value)
        finally:
            self._callbacks = None
            self._ready = True
            self._wake()

    # ---- asked

    def ready(self) -> bool:
        """Whether the call has ended and its callback, if it has one, was called."""
        return self._ready or self._is_held_up()

    def _is_held_up(self) -> bool:
        queued_at = self._queued_at
        return queued_at is not None and monotonic() - queued_at > _PATIENCE

    def successful(self) -> bool:
        """Whether the call ended without an error; ValueError while it has not ended."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._resolved()[0]

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or for `timeout` seconds."""
        self._wait_for_result(timeout)

    def _wait_for_result(self, timeout: float | None) -> bool:
        if self._callbacks is None:
            pool = self._pool
            if pool is None or not self._call:
                return self._ready or self._wait(timeout)
            end = None if timeout is None else monotonic() + timeout
            pool._engine.attend(self._call, timeout)
            return self._ready or self._wait(None if end is None else end - monotonic())
        end = None if timeout is None else monotonic() + timeout
        while not self.ready():
            rest = _PATIENCE if end is None else min(end - monotonic(), _PATIENCE)
            if rest <= 0:
                break
            self._wait(rest)
        return self.ready()

    def get(self, timeout: float | None = None) -> T:
        """The value, or the error raised; `multiprocessing.TimeoutError` when it takes longer than `timeout`
        seconds."""
        if not self._ready and not self._wait_for_result(timeout):
            raise MultiprocessingTimeoutError
        returned, value = self._outcome or self._resolved()
        if returned:
            return value  # type: ignore[no-any-return]
        try:
            raise value
        finally:
            del value, self  # no reference cycle through the traceback

    def cancel(self, kill: bool = False) -> bool:
        """Drop the call if it has not started; with `kill` also end one that runs. It ends with CancelledError."""
        pool = self._pool
        return pool is not None and pool._engine.cancel(self._call, kill)

    def _wait(self, timeout: float | None) -> bool:
        lock = threading.Lock()
        lock.acquire()
        with _registering:
            locks = self._locks
            if locks is None:
                locks = self._locks = []
            locks.append(lock)
        if not self._ready:
            lock.acquire(True, -1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))
        return self._ready

    def _resolved(self) -> tuple[bool, Any]:
        record = self._record
        if record is not None:
            self._outcome = self._load(record)
            self._record = None
        outcome = self._outcome
        assert outcome is not None
        return outcome

    _load: Any = staticmethod(load)


ApplyResult = AsyncResult


def _load_all(records: list[Record]) -> tuple[bool, Any]:
    values: list[Any] = []
    for record in records:
        returned, value = load(record)
        if not returned:
            return False, value
        if isinstance(value, Mixed):
            return False, rebuild(value.errors[min(value.errors)])
        values.extend(value)
    return True, values


class MapResult(AsyncResult[list[T]]):
    """The results of `Pool.map_async` as one: the list of all values, or the error of the first item that has one."""

    _load: Any = staticmethod(_load_all)

    def __init__(self, pool: Pool, callback: Callback = None, error_callback: Callback = None) -> None:
        super().__init__(pool, callback, error_callback)
        self._records: list[Any] = []  # those of the chunks, None while there is none
        self._numbers: list[int] = []
        self._left = 1  # and one for `_all_sent`
        self._lock = threading.Lock()

    def _part(self) -> _Part:
        """A sink for the next chunk."""
        part = _Part(self, len(self._records))
        self._records.append(None)
        with self._lock:
            self._left += 1
        return part

    def _parts_heard(self) -> int:
        """Of how many chunks the answer is here, while they are not all."""
        return len(self._records) - self._records.count(None)

    def _all_sent(self) -> None:
        """There are no more chunks to come."""
        self._part_heard(None, None)

    def _part_heard(self, index: int | None, record: Record | None) -> None:
        if index is not None:
            self._records[index] = record
        with self._lock:
            self._left -= 1
            ended = not self._left
        if ended:
            records, self._records = self._records, []
            self.heard(records)

    def _part_failed(self, error: BaseException) -> None:
        """The next chunk could not be submitted: that is its error, and no more chunks follow it."""
        if self._records and self._records[-1] is None and len(self._numbers) < len(self._records):
            self._part_heard(len(self._records) - 1, (0, GIVEN, 0.0, error))
        else:
            self._part().heard((0, GIVEN, 0.0, error))

    def cancel(self, kill: bool = False) -> bool:
        """Drop the chunks that have not started; with `kill` also end those that run."""
        pool = self._pool
        return pool is not None and sum(pool._engine.cancel(number, kill) for number in self._numbers) > 0


class _Part:
    """Is told of one chunk."""

    __slots__ = ("_index", "_whole")

    def __init__(self, whole: MapResult[Any], index: int) -> None:
        self._whole = whole
        self._index = index

    def heard(self, record: Record, worker: int | None = None, pid: int | None = None) -> None:
        self._whole._part_heard(self._index, record)
