"""What a `Pool` gives back at once: a result that can be waited for, or the results of a map as one.

    I/O thread       answered(): keeps the answer, still bytes; wakes who waits
    callback thread  where there is a callback: unpickles, calls it, and only then the result is ready, as in the
                     standard library
    who waits        get(): unpickles, returns or raises

A result without a callback has no lock of its own until somebody waits for it.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from multiprocessing import TimeoutError as MultiprocessingTimeoutError
from time import monotonic
from typing import TYPE_CHECKING, Any

from pooltable.outcomes import Outcome, Raised, Returned
from pooltable.pool.chunks import Mixed
from pooltable.pool.engine import GIVEN, Answer, rebuild

if TYPE_CHECKING:
    from pooltable.pool.pool import Pool

# A result is ready when its callback has returned. When it must queue for longer than this behind other callbacks, it
# does not wait for them: a callback that blocks would hold up the results of every call that has one.
_PATIENCE = 0.25

Callback = Callable[[Any], object] | None


_registering = threading.Lock()


class Waiters:
    """Lets threads wait until `_ready` is true, and costs next to nothing while nobody waits."""

    __slots__ = ("_locks", "_ready")

    def __init__(self) -> None:
        self._ready = False
        self._locks: list[Any] | None = None

    def _wait(self, timeout: float | None) -> bool:
        if not self._ready:
            lock = threading.Lock()
            lock.acquire()
            with _registering:
                locks = self._locks
                if locks is None:
                    locks = self._locks = []
                locks.append(lock)
            # It becomes ready first and looks for locks then, so one of the two sees the other.
            if not self._ready:
                lock.acquire(True, -1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))
        return self._ready

    def _set_ready(self) -> None:
        self._ready = True
        if self._locks is not None:
            locks, self._locks = self._locks, None
            for lock in locks:
                lock.release()


class AsyncResult(Waiters):
    """The result of one call, as of `Pool.apply_async`."""

    __slots__ = ("__weakref__", "_answer", "_call", "_callback", "_error_callback", "_outcome", "_pool", "_queued_at")

    def __init__(self, pool: Pool, callback: Callback = None, error_callback: Callback = None) -> None:
        self._ready = False
        self._locks = None
        # The pool lives at least as long as a call of it is open.
        self._pool: Pool | None = pool
        self._call = 0
        self._answer: Any = None
        self._outcome: Outcome | None = None
        self._callback = callback
        self._error_callback = error_callback
        self._queued_at: float | None = None  # since when its callback waits to be called

    # ---- told

    def answered(self, call: int, answer: Any) -> None:
        pool, self._pool = self._pool, None
        self._answer = answer
        if (self._callback is None and self._error_callback is None) or pool is None:
            self._set_ready()
        else:
            self._queued_at = monotonic()
            pool._callbacks.run(self._call_back)

    def _fail(self, error: BaseException) -> None:
        """The call could not be submitted."""
        self.answered(0, Answer(GIVEN, error, 0.0, None, None))

    def _call_back(self) -> None:
        """Call the user's callback, on the callback thread; the result is ready afterwards, whatever it does."""
        self._queued_at = None
        try:
            outcome = self._resolved()
            if isinstance(outcome, Returned):
                if self._callback is not None:
                    self._callback(outcome.value)
            elif self._error_callback is not None:
                self._error_callback(outcome.error)
        finally:
            self._callback = self._error_callback = None
            self._set_ready()

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
        return isinstance(self._resolved(), Returned)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or for `timeout` seconds."""
        self._wait_for_result(timeout)

    def _wait_for_result(self, timeout: float | None) -> bool:
        if self._callback is None and self._error_callback is None:
            return self._wait(timeout)
        end = None if timeout is None else monotonic() + timeout
        while not self.ready():
            rest = _PATIENCE if end is None else min(end - monotonic(), _PATIENCE)
            if rest <= 0:
                break
            self._wait(rest)
        return self.ready()

    def get(self, timeout: float | None = None) -> Any:
        """The value, or the error raised; `multiprocessing.TimeoutError` when it takes longer than `timeout`
        seconds."""
        if not self._ready and not self._wait_for_result(timeout):
            raise MultiprocessingTimeoutError
        outcome = self._outcome
        if outcome is None:
            outcome = self._resolved()
        if isinstance(outcome, Returned):
            return outcome.value
        try:
            raise outcome.error
        finally:
            del outcome, self  # no reference cycle through the traceback

    def cancel(self, kill: bool = False) -> bool:
        """Drop the call if it has not started; with `kill` also end one that runs. It ends with CancelledError."""
        pool = self._pool
        return pool is not None and pool._engine.cancel(self._call, kill)

    def _resolved(self) -> Outcome:
        outcome = self._outcome
        if outcome is None:
            answer = self._answer
            if answer is None:  # another thread has just done the same
                return self._resolved()
            outcome = self._outcome = self._resolve(answer)
            self._answer = None
        return outcome

    def _resolve(self, answer: Any) -> Outcome:
        resolved: Outcome = answer.outcome()
        return resolved

    __class_getitem__: Any = classmethod(types.GenericAlias)


ApplyResult = AsyncResult


class MapResult(AsyncResult):
    """The results of `Pool.map_async` as one: the list of all values, or the error of the first item that has one."""

    __slots__ = ("_answers", "_left", "_lock", "_numbers")

    def __init__(self, pool: Pool, callback: Callback = None, error_callback: Callback = None) -> None:
        super().__init__(pool, callback, error_callback)
        self._answers: list[Answer | None] = []
        self._numbers: list[int] = []
        self._left = 1  # and one for `_all_sent`
        self._lock = threading.Lock()

    def _part(self) -> _Part:
        """A sink for the next chunk."""
        part = _Part(self, len(self._answers))
        self._answers.append(None)
        with self._lock:
            self._left += 1
        return part

    def _all_sent(self) -> None:
        """There are no more chunks to come."""
        self._part_answered(None, None)

    def _part_answered(self, index: int | None, answer: Answer | None) -> None:
        if index is not None:
            self._answers[index] = answer
        with self._lock:
            self._left -= 1
            ended = not self._left
        if ended:
            answers, self._answers = self._answers, []
            self.answered(0, answers)

    def _part_failed(self, error: BaseException) -> None:
        """The next chunk could not be submitted: that is its error, and no more chunks follow it."""
        if self._answers and self._answers[-1] is None and len(self._numbers) < len(self._answers):
            self._part_answered(len(self._answers) - 1, Answer(GIVEN, error, 0.0, None, None))
        else:
            self._part().answered(0, Answer(GIVEN, error, 0.0, None, None))

    def cancel(self, kill: bool = False) -> bool:
        """Drop the chunks that have not started; with `kill` also end those that run."""
        pool = self._pool
        return pool is not None and sum(pool._engine.cancel(number, kill) for number in self._numbers) > 0

    def _resolve(self, answer: list[Answer]) -> Outcome:
        values: list[Any] = []
        for part in answer:
            outcome = part.outcome()
            if isinstance(outcome, Raised):
                return outcome
            if isinstance(outcome.value, Mixed):
                return Raised(rebuild(outcome.value.errors[min(outcome.value.errors)]))
            values.extend(outcome.value)  # type: ignore[arg-type]
        return Returned(values)


class _Part:
    """Is told of one chunk."""

    __slots__ = ("_index", "_whole")

    def __init__(self, whole: MapResult, index: int) -> None:
        self._whole = whole
        self._index = index

    def answered(self, call: int, answer: Answer) -> None:
        self._whole._part_answered(self._index, answer)
