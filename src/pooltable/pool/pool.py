"""`Pool`: everything that multiprocessing.Pool offers, by the same names, on an engine that does not hang.

apply, map, starmap            wait for their result
apply_async, map_async, ...    give an AsyncResult at once          (results.py)
imap, imap_unordered           give an iterator at once             (streams.py)
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pooltable.cores import usable_cores
from pooltable.pool.bar import Bar, label_of
from pooltable.pool.callbacks import Callbacks
from pooltable.pool.chunks import call_each, call_each_unpacked
from pooltable.pool.results import AsyncResult, Callback, MapResult
from pooltable.pool.statistics import PoolStats
from pooltable.pool.streams import IMapIterator, IMapUnorderedIterator, _Stream

if TYPE_CHECKING:
    from pooltable.pool.local import Memory
    from pooltable.pool.setup import Setup

T = TypeVar("T")

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
# A chunk of `map` has at most so many items: what a worker may be busy with when the others have nothing left.
_LONGEST_CHUNK = 16384
# With a progress bar there are at least so many chunks.
_STEPS = 200


class Pool:
    """A pool of worker processes: a drop-in for `multiprocessing.Pool`.

        with Pool(4, initializer=load_model) as pool:
            labels = pool.map(predict, images)

    `processes` defaults to the cores this process may really use. `min_processes=None` starts all of them at once; a
    number keeps that many and starts the others when calls wait. `idle_timeout`: seconds after which idle ones above
    the minimum leave. `time_limit`: seconds that a call may run (in `map`: each item). `max_pending`: submitting waits
    while so many calls are open. `memory`: bytes, or a size as in "4GB", after which a worker is replaced between
    calls; of two, as in `("4GB", "6GB")` or "4GB,6GB", the second kills one during a call. `threads`: how many threads
    each worker owns. `devices`: such as "cuda:0,cuda:1", or "auto" for all there are, and then as many processes.
    `preload`: modules that are imported once, such as "numpy,torch", for all workers to share. `setup`: what each
    worker does before the modules of its initializer and its calls are imported, as a name such as "django.setup" or
    "app:prepare", or as a function.
    """

    _state = "INIT"  # also of one that was never made: __del__ looks at it

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
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
        from pooltable.pool.local import LocalEngine

        found = devices_of(devices)
        self._processes = processes if processes is not None else len(found) or usable_cores()
        self._callbacks = Callbacks()
        self._feeders: set[_Stream] = set()
        self._feeders_changed = threading.Condition(threading.RLock())
        self._time_limit = time_limit
        at_once = self._processes if min_processes is None else min_processes
        self._engine = LocalEngine(
            self._processes,
            initializer=initializer,
            initargs=initargs,
            min_processes=at_once,
            idle_timeout=idle_timeout,
            time_limit=time_limit,
            maxtasksperchild=maxtasksperchild,
            context=context,
            memory=memory,
            threads=threads,
            devices=[device.name for device in found] or None,
            preload=preload,
            setup=setup,
            max_pending=max_pending,
        )
        self._engine.start_here(at_once)
        self._state = RUN

    # ---- one call

    def apply(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> T:
        """`func(*args, **kwds)`, run in a worker."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callback = None,
        error_callback: Callback = None,
        *,
        time_limit: float | None = None,
    ) -> AsyncResult[T]:
        """The result of `func(*args, **kwds)`, at once; `time_limit` is for this call alone."""
        if self._state != RUN:
            raise ValueError("Pool not running")
        result: AsyncResult[T] = AsyncResult(self, callback, error_callback)
        try:
            result._call = self._engine.submit(func, args, kwds, result, time_limit)
        except Exception as error:
            self._submit_failed(result, error)
        return result

    def _submit_failed(self, result: AsyncResult[Any], error: Exception) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running") from None
        result._fail(error)

    # ---- many calls

    def map(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        progress: bool | str = False,
    ) -> list[T]:
        """`[func(item) for item in iterable]`, run in the workers; `progress` shows a bar on stderr, under that text if
        it is one."""
        return self._map(func, iterable, chunksize, call_each, progress)

    def map_async(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> MapResult[T]:
        """The result of `map`, at once."""
        return self._map_async(func, iterable, chunksize, call_each, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        progress: bool | str = False,
    ) -> list[T]:
        """`[func(*item) for item in iterable]`, run in the workers; `progress` as in `map`."""
        return self._map(func, iterable, chunksize, call_each_unpacked, progress)

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: Callback = None,
    ) -> MapResult[T]:
        """The result of `starmap`, at once."""
        return self._map_async(func, iterable, chunksize, call_each_unpacked, callback, error_callback)

    def _map(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None,
        each: Callable[..., Any],
        progress: bool | str,
    ) -> list[T]:
        if not progress:
            return self._map_async(func, iterable, chunksize, each, None, None).get()
        items = list(iterable)
        # Small chunks, for the bar to move.
        size = chunksize or max(1, min(len(items) // _STEPS, len(items) // (4 * self._processes)))
        size = size if self._time_limit is None else 1
        result: MapResult[T] = MapResult(self)

        def done() -> int:
            return len(items) if result.ready() else min(len(items), size * result._parts_heard())

        with Bar(label_of(progress, func), done, lambda: len(items)):
            self._send_all(result, func, items, size, each)
            return result.get()

    def _map_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None,
        each: Callable[..., Any],
        callback: Callback,
        error_callback: Callback,
    ) -> MapResult[T]:
        result: MapResult[T] = MapResult(self, callback, error_callback)
        self._send_all(result, func, iterable, chunksize, each)
        return result

    def _send_all(
        self,
        result: MapResult[T],
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None,
        each: Callable[..., Any],
    ) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")
        items = list(iterable)
        if self._time_limit is not None:
            chunksize = 1  # the limit is for each item
        try:
            for chunk in _chunks(items, chunksize, self._processes):
                result._numbers.append(self._engine.submit(each, (func, chunk), None, result._part()))
        except Exception as error:
            if self._state == TERMINATE:
                raise ValueError("Pool not running") from None
            result._part_failed(error)
        result._all_sent()

    def imap(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        progress: bool | str = False,
    ) -> IMapIterator[T]:
        """The values of `func(item)`, one by one in order, while `iterable` is still being read; `progress` as in
        `map`."""
        self._check(chunksize)
        return IMapIterator(self, func, iterable, chunksize, progress)

    def imap_unordered(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        progress: bool | str = False,
    ) -> IMapUnorderedIterator[T]:
        """The values of `func(item)` as they come, while `iterable` is still being read; `progress` as in `map`."""
        self._check(chunksize)
        return IMapUnorderedIterator(self, func, iterable, chunksize, progress)

    def _check(self, chunksize: int) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")

    def stats(self) -> PoolStats:
        """What this pool has done so far, and what it is at."""
        return self._engine.stats(self._callbacks.failures)

    # ---- the end

    def close(self) -> None:
        """Take no more calls. Workers leave when all have been answered; `join` waits for that."""
        if self._state == RUN:
            self._state = CLOSE
            with self._feeders_changed:
                for stream in self._feeders:
                    stream.lift_bound()
                if not self._feeders:
                    self._engine.close()

    def terminate(self) -> None:
        """Take no more calls and end what runs; calls that are open end with CancelledError."""
        self._state = TERMINATE
        self._engine.terminate()
        for stream in list(self._feeders):
            stream.lift_bound()

    def join(self) -> None:
        """Wait until the workers are gone and the callbacks were called; after `close` or `terminate`."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        with self._feeders_changed:
            # A source that never ends may keep its feeder for ever; after terminate nobody waits for that.
            self._feeders_changed.wait_for(lambda: not self._feeders or self._state == TERMINATE)
        self._engine.join()
        self._callbacks.finish()

    def _feeder_started(self, stream: _Stream) -> None:
        with self._feeders_changed:
            self._feeders.add(stream)

    def _feeder_ended(self, stream: _Stream) -> None:
        with self._feeders_changed:
            self._feeders.discard(stream)
            if self._state == CLOSE and not self._feeders:
                self._engine.close()
            self._feeders_changed.notify_all()

    def __enter__(self) -> Pool:
        if self._state != RUN:
            raise ValueError("Pool not running")
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __del__(self, _warn: Any = warnings.warn, _run: str = RUN) -> None:
        if self._state == _run:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__qualname__} state={self._state} pool_size={len(self._pool)}>"

    # ---- what programs look at though it has an underscore

    @property
    def _pool(self) -> list[Any]:
        return self._engine.processes() if hasattr(self, "_engine") else []

    def _repopulate_pool(self) -> None:
        self._engine.start(self._processes)


def _chunks(items: list[Any], size: int | None, workers: int) -> Iterator[tuple[Any, ...]]:
    """The items in chunks of `size`, or in chunks that become smaller towards the end, so that all workers end
    together."""
    start = 0
    while start < len(items):
        if size is None:
            length = min(_LONGEST_CHUNK, max(1, (len(items) - start) // (2 * workers)))
        else:
            length = max(1, size)
        yield tuple(items[start : start + length])
        start += length
