"""`PoolExecutor`: everything that concurrent.futures.ProcessPoolExecutor offers, on an engine that does not break."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pooltable.cores import usable_cores
from pooltable.errors import WorkerError
from pooltable.pool.callbacks import Callbacks
from pooltable.pool.chunks import Mixed, call_each_unpacked
from pooltable.pool.engine import GIVEN, rebuild
from pooltable.pool.futures import PoolFuture
from pooltable.pool.statistics import PoolStats

if TYPE_CHECKING:
    from pooltable.pool.local import Memory
    from pooltable.pool.setup import Setup

P = ParamSpec("P")
T = TypeVar("T")


class PoolExecutor(Executor):
    """An executor over worker processes: a drop-in for `concurrent.futures.ProcessPoolExecutor`.

        with PoolExecutor(4) as executor:
            future = executor.submit(predict, image)

    A worker that dies fails the call it was running, with an error that is also a BrokenProcessPool; the executor
    goes on. Workers are started as calls need them. The keyword arguments after `initargs` are those of `Pool`.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        min_processes: int | None = None,
        idle_timeout: float | None = None,
        time_limit: float | None = None,
        max_pending: int | None = None,
        memory: Memory = None,
        threads: int | None = None,
        devices: str | Iterable[str] | None = None,
        preload: str | Iterable[str] | None = None,
        setup: Setup = None,
    ) -> None:
        # Here, and not with the module: a worker imports the main module, which names this class as a rule, and would
        # pay for all that makes pools at every start.
        from pooltable.pool.devices import devices_of
        from pooltable.pool.local import LocalEngine, check_whole

        check_whole(max_workers=max_workers)
        found = devices_of(devices)
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        self._max_workers = max_workers if max_workers is not None else len(found) or usable_cores()
        self._shut_down = False
        self._time_limit = time_limit
        self._callbacks = Callbacks()
        self._engine = LocalEngine(
            self._max_workers,
            initializer=initializer,
            initargs=initargs,
            min_processes=min_processes,
            idle_timeout=idle_timeout,
            time_limit=time_limit,
            maxtasksperchild=max_tasks_per_child,
            context=mp_context,
            memory=memory,
            threads=threads,
            devices=[device.name for device in found] or None,
            preload=preload,
            setup=setup,
            max_pending=max_pending,
            plain_errors=True,
        )
        if min_processes:
            self._engine.start_here(min_processes)
        _executors.add(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The future of `fn(*args, **kwargs)`."""
        return self._submit(fn, args, kwargs)

    def _submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> PoolFuture:
        engine = self._engine
        if self._shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if engine.broken is not None:
            raise engine.broken
        future = PoolFuture(self)
        try:
            future._call = engine.submit(fn, args, kwargs, future)
        except Exception as error:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown") from None
            future.heard((0, GIVEN, 0.0, error))
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """The values of `fn` over the iterables, in order. `buffersize`: submit at most so many calls ahead of the
        consumer."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else monotonic() + timeout
        if self._time_limit is not None:
            chunksize = 1  # the limit is for each item
        rows = zip(*iterables)  # noqa: B905 - as the built-in map does it
        if chunksize == 1:
            futures = (self._submit(fn, row, {}) for row in rows)
        else:
            futures = (self._submit(call_each_unpacked, (fn, chunk), {}) for chunk in _in_tuples(rows, chunksize))
        return _results(deque(islice(futures, buffersize)), futures, end, chunksize > 1)

    def stats(self) -> PoolStats:
        """What this executor has done so far, and what it is at."""
        return self._engine.stats(self._callbacks.failures)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; `wait` until those that are open have ended; `cancel_futures` drops the ones that
        wait."""
        self._shut_down = True
        if cancel_futures:
            self._engine.cancel_waiting()
        self._engine.close()
        if wait:
            self._engine.join()
            self._callbacks.finish()

    def terminate_workers(self) -> None:
        """End the workers now, with SIGTERM; calls that are open end with a BrokenProcessPool."""
        self._end_workers(kill=False)

    def kill_workers(self) -> None:
        """End the workers now, with SIGKILL; calls that are open end with a BrokenProcessPool."""
        self._end_workers(kill=True)

    def _end_workers(self, kill: bool) -> None:
        self._shut_down = True
        self._engine.terminate(WorkerError("the workers of this executor were ended"), kill=kill)
        self._engine.join()
        self._callbacks.finish()

    @property
    def _processes(self) -> dict[int, Any]:
        return {process.pid: process for process in self._engine.processes()}


def _in_tuples(source: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    source = iter(source)
    while chunk := tuple(islice(source, size)):
        yield chunk


def _results(pending: deque[PoolFuture], more: Iterator[PoolFuture], end: float | None, chunked: bool) -> Iterator[Any]:
    try:
        while pending:
            # The future is let go before its result is given out, so that nothing here keeps the result alive.
            values = [pending.popleft().result(None if end is None else end - monotonic())]
            pending.extend(islice(more, 1))
            if chunked:
                chunk = values.pop()
                yield from _until_error(chunk) if isinstance(chunk, Mixed) else chunk
            else:
                yield values.pop()
    finally:
        for future in pending:
            future.cancel()


def _until_error(chunk: Mixed) -> Iterator[Any]:
    first = min(chunk.errors)
    yield from chunk.values[:first]
    raise rebuild(chunk.errors[first], executor=True)


_executors: weakref.WeakSet[PoolExecutor] = weakref.WeakSet()
_exiting = False


def _wait_at_exit() -> None:
    global _exiting
    _exiting = True
    for executor in list(_executors):
        executor.shutdown()


# Before threads are joined and long before exit handlers run, as concurrent.futures does it: what was submitted is
# done.
threading._register_atexit(_wait_at_exit)  # type: ignore[attr-defined]
