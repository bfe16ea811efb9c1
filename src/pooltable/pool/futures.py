"""The future that `PoolExecutor` gives: a concurrent.futures.Future that costs a third while nobody waits for it.

    I/O thread       heard(): state and record, still bytes; wakes who waits
    callback thread  the functions of add_done_callback
    who asks         result(), exception(): unpickles

Its condition and lists are made when somebody asks for them: one that waits, `concurrent.futures.wait`, `as_completed`,
`asyncio.wrap_future`.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from time import monotonic
from typing import TYPE_CHECKING, Any

from pooltable.pool.engine import GIVEN, RAISED, Record, load

if TYPE_CHECKING:
    from pooltable.pool.executor import PoolExecutor

# Held for an instant where a condition is made and where a future without one ends: one of the two comes first.
_making = threading.Lock()
_OVER = (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED)


class PoolFuture(Future[Any]):
    """The future of one call of a `PoolExecutor`."""

    # One is made for every call: attributes in slots are made and read in half the time.
    __slots__ = (
        "_call",
        "_condition",
        "_done_callbacks",
        "_exception",
        "_executor",
        "_record",
        "_result",
        "_state",
        "_waiters",
        "_watched",
    )

    def __init__(self, executor: PoolExecutor) -> None:
        # Not super().__init__(), which makes everything at once. The executor lives as long as a call of it is open.
        self._executor: PoolExecutor | None = executor
        self._call = 0
        self._state = PENDING
        self._record: Record | None = None
        self._result: Any = None
        self._exception: BaseException | None = None
        self._watched = False  # whether there is a condition

    def __getattr__(self, name: str) -> Any:
        if name not in ("_condition", "_waiters", "_done_callbacks"):
            raise AttributeError(name)
        with _making:
            if not self._watched:
                self._waiters: list[Any] = []
                self._done_callbacks: list[Any] = []
                self._condition = threading.Condition()
                self._watched = True
        return object.__getattribute__(self, name)

    # ---- told

    def heard(self, record: Record, worker: int | None = None, pid: int | None = None) -> None:
        executor = self._executor
        self._executor = None
        if record[1] == GIVEN and isinstance(record[3], CancelledError):
            self._end_cancelled(executor)
            return
        self._record = record
        with _making:
            watched = self._watched
            if not watched:
                self._state = FINISHED
        if watched:
            # Whoever looks at it under its condition sees it either open, and is told, or over.
            with self._condition:
                self._state = FINISHED
                failed = record[1] in (RAISED, GIVEN)
                for waiter in self._waiters:
                    waiter.add_exception(self) if failed else waiter.add_result(self)
                self._condition.notify_all()
            self._call_back(executor)

    def _end_cancelled(self, executor: PoolExecutor | None) -> None:
        with self._condition:
            if self._state not in _OVER:
                self._state = CANCELLED
            self.set_running_or_notify_cancel()
            self._condition.notify_all()
        self._call_back(executor)

    def _call_back(self, executor: PoolExecutor | None) -> None:
        if not self._done_callbacks:
            return
        if executor is None:
            self._invoke_callbacks()
        else:
            executor._callbacks.run(self._invoke_callbacks)

    # ---- asked

    def cancel(self) -> bool:
        """Drop the call if it has not started."""
        if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
            return True
        executor = self._executor
        if self._state == FINISHED or executor is None or not executor._engine.cancel(self._call):
            return False
        with self._condition:
            if self._state == PENDING:
                self._state = CANCELLED
                self._condition.notify_all()
        return True

    def running(self) -> bool:
        """Whether a worker has the call now."""
        executor = self._executor
        return self._state == PENDING and executor is not None and executor._engine.is_with_worker(self._call)

    def done(self) -> bool:
        """Whether the call was cancelled or has ended."""
        return self._state in _OVER

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def result(self, timeout: float | None = None) -> Any:
        """The value, or the error raised; TimeoutError when it takes longer than `timeout` seconds."""
        if self._state != FINISHED:
            self._wait(timeout)
        if self._record is not None:
            self._resolve()
        if self._exception is None:
            return self._result
        try:
            raise self._exception
        finally:
            self = None  # type: ignore[assignment]  # no reference cycle through the traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error that the call ended with, or None."""
        if self._state != FINISHED:
            self._wait(timeout)
        self._resolve()
        return self._exception

    def _wait(self, timeout: float | None) -> None:
        executor = self._executor
        if executor is not None and self._call:
            end = None if timeout is None else monotonic() + timeout
            executor._engine.attend(self._call, timeout)
            timeout = None if end is None else end - monotonic()
            if self._state == FINISHED:
                return
        with self._condition:
            if not self._condition.wait_for(lambda: self._state in _OVER, timeout):
                raise TimeoutError
        if self._state != FINISHED:
            raise CancelledError

    def _resolve(self) -> None:
        record = self._record
        if record is not None:
            returned, value = load(record, executor=True)
            if returned:
                self._result = value
            else:
                self._exception = value
            self._record = None

    def __repr__(self) -> str:
        if self._state == FINISHED:
            self._resolve()
        return super().__repr__()
