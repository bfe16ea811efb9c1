"""The engine for processes on this machine: takes calls, runs them in worker processes, answers each exactly once.

    submit: pickle here, in the caller's thread -> floor.py: to an idle worker, or it waits -> the sink is told

This is the engine's outside: what it is asked to do, checked and pickled. `floor.py` has the workers and the I/O
thread. The floor holds no reference to the engine, so one that is dropped without being closed takes its workers
along.
"""

from __future__ import annotations

import os
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import util
from numbers import Real
from typing import Any

from pooltable.cores import usable_cores
from pooltable.errors import UnguardedMain, WorkerStartError
from pooltable.events import Event
from pooltable.pool import preload as preloading
from pooltable.pool.buffers import LARGE, TooLarge, dumps, in_parcel, keep_small
from pooltable.pool.devices import devices_of
from pooltable.pool.engine import Sink, WorkerState
from pooltable.pool.floor import Floor
from pooltable.pool.ledger import READY, Ledger, Payload
from pooltable.pool.memory import limits_of
from pooltable.pool.notices import log_notices
from pooltable.pool.process import Birth
from pooltable.pool.setup import Setup, check as check_setup
from pooltable.pool.spawning import import_path, is_being_imported, main_module, start_method
from pooltable.pool.statistics import PoolStats, stats_of

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# One size or two, in bytes or as in "4GB".
Memory = int | str | tuple[int | str | None, int | str | None] | None
_PLAIN = frozenset({types.FunctionType, types.BuiltinFunctionType})
# So many functions are known to the workers by number; the others travel with each call.
_FUNCTIONS = 1000
_dumps = pickle.dumps


class LocalEngine:
    """Runs calls in up to `processes` worker processes on this machine.

    `min_processes`: so many are kept alive. `memory`: what a worker may have for itself, in bytes or as in "4GB",
    before it is replaced between calls; a pair adds the size at which it is killed during one. `preload`: modules that
    a fork server imports once for all workers. `setup`: what each worker does before the initializer is imported, as a
    function or its name. `capture`: the folder that workers' output goes to. `grace`: seconds
    between SIGTERM and SIGKILL. `plain_errors`: errors in the manner of concurrent.futures.
    """

    def __init__(
        self,
        processes: int,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        min_processes: int | None = None,
        idle_timeout: float | None = None,
        time_limit: float | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        memory: Memory = None,
        threads: int | None = None,
        devices: str | Iterable[str] | None = None,
        preload: str | Iterable[str] | None = None,
        setup: Setup = None,
        max_pending: int | None = None,
        capture: str | None = None,
        listener: Callable[[Event], object] | None = None,
        grace: float = 5.0,
        plain_errors: bool = False,
    ) -> None:
        if is_being_imported():
            raise _unguarded()
        check_whole(processes=processes, min_processes=min_processes, max_pending=max_pending, threads=threads)
        _check(processes, min_processes, maxtasksperchild, max_pending, time_limit, idle_timeout)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        check_setup(setup)
        soft, hard = limits_of(memory)
        self._by_value = _needs_by_value()
        self._time_limit = time_limit
        self._max_pending = max_pending
        self._numbers: dict[Any, int] = {}
        owned = threads if threads is not None else _threads_that_the_user_set() or max(1, usable_cores() // processes)
        variables = _thread_environment(owned, threads is not None)
        method = start_method(context)
        given = devices_of(devices)
        birth = Birth(
            method=method,
            server=_server(method, preload, variables, bool(given)),
            setup=setup,
            initializer=initializer,
            initargs=tuple(initargs),
            processes=processes,
            threads=owned,
            environment={**os.environ, **variables},
            devices=given,
            capture=capture,
            main=main_module(),
            by_value=self._by_value,
            plain_errors=plain_errors,
            memory=soft,
        )
        self._floor = Floor(
            birth,
            Ledger(processes, min_processes or 0, maxtasksperchild, hasattr(os, "eventfd")),
            idle_timeout=idle_timeout,
            grace=grace,
            hard_memory=hard,
            listener=listener or log_notices,
        )
        self._accept = self._floor.accept
        self._finalizer = util.Finalize(self, _leave, args=(weakref.ref(self), self._floor), exitpriority=15)

    # ---- calls

    def submit(self, function: Any, args: Any, kwargs: Any, sink: Sink, time_limit: float | None = None) -> int:
        """The number of the call, which `sink` will be told the end of. Raises what pickling raises. Never blocks,
        unless `max_pending` calls are open already. `kwargs` may be None."""
        # With keyword arguments the function travels along: that is rare, and keeps the usual case short.
        name = None if kwargs or type(function) not in _PLAIN else self._numbers.get(function)
        payload: Payload
        try:
            if name is not None:
                payload = _dumps(args, 5, buffer_callback=keep_small)
            else:
                name, payload = self._first_of(function, args, kwargs or {})
        except TooLarge:
            name, payload = -1, dumps((function, args, kwargs or {}))
        except Exception:
            # A lambda of a notebook, among the arguments of `map`'s own function: pickle looks for its name in vain.
            if not self._by_value:
                raise
            name, payload = -1, _dumps_by_value((function, args, kwargs or {}))
        if self._by_value and _concerns_main(payload):
            name, payload = -1, _dumps_by_value((function, args, kwargs or {}))
        if len(payload) >= LARGE:
            if type(payload) is bytes:
                payload = in_parcel(payload)
            self._floor.with_files = True
        if self._max_pending is not None:
            self._wait_for_room(self._max_pending)
        return self._accept(sink, name, payload, self._time_limit if time_limit is None else time_limit)

    def submit_all(self, function: Any, calls: Sequence[Any], sink: Sink) -> list[int]:
        """The numbers of as many calls, each with its arguments; fewer where those of the next one cannot be
        pickled."""
        name = self._numbers.get(function)
        numbers: list[int] = []
        payloads: list[Payload] = []
        payload: Payload
        try:
            if name is None or self._by_value or self._max_pending is not None:
                for args in calls:
                    numbers.append(self.submit(function, args, None, sink))
                return numbers
            for args in calls:
                payload = _dumps(args, 5, buffer_callback=keep_small)
                if len(payload) >= LARGE:
                    payload = in_parcel(payload)
                    self._floor.with_files = True
                payloads.append(payload)
        except (pickle.PicklingError, TypeError, AttributeError, TooLarge):
            pass  # who submits it alone is told what is the matter, or it goes another way
        if payloads:
            assert name is not None
            numbers = self._floor.accept_all(sink, name, payloads, self._time_limit)
        return numbers

    def _first_of(self, function: Any, args: Any, kwargs: Any) -> tuple[int, bytes]:
        """A function that has no number: it gets one if it is a module's, and is then sent to each worker only once."""
        if self._by_value and getattr(function, "__module__", None) == "__main__":
            return -1, b"__main__"
        if type(function) in _PLAIN and not kwargs and len(self._numbers) < _FUNCTIONS:
            module = sys.modules.get(getattr(function, "__module__", None) or "")
            if module is not None and getattr(module, function.__qualname__, None) is function:
                definition = pickle.dumps(function, 5)
                with self._floor.lock:
                    number = self._numbers.get(function)
                    if number is None:
                        number = len(self._floor.definitions)
                        self._floor.definitions.append(definition)
                        self._numbers[function] = number
                return number, _dumps(args, 5, buffer_callback=keep_small)
        return -1, _dumps((function, args, kwargs), 5, buffer_callback=keep_small)

    def _wait_for_room(self, most: int) -> None:
        floor = self._floor
        if floor.is_io_thread():
            return  # a sink that submits more: who waits here would wait for itself
        with floor.lock:
            floor.room.wait_for(lambda: len(floor.ledger.calls) < most or floor.closing)

    def cancel(self, call: int, kill: bool = False) -> bool:
        """Drop a call that has not started; `kill` also ends one that runs. Its sink is told CancelledError."""
        return self._floor.cancel(call, kill)

    def attend(self, call: int, timeout: float | None) -> None:
        """Wait for the answer to a call in this thread where that is quicker; maybe its sink was told afterwards."""
        self._floor.hearing.attend(call, timeout)

    def cancel_waiting(self) -> None:
        """Drop every call that was not sent to a worker."""
        for call in self._floor.waiting():
            self._floor.cancel(call, False)

    def send_until(self, moment: float) -> None:
        """Calls that are not with a worker at that moment, by the clock of uptime, wait until it is moved."""
        self._floor.go_on_until(moment)

    def is_with_worker(self, call: int) -> bool:
        """Whether a worker has been sent this call and has not answered it."""
        with self._floor.lock:
            return self._floor.ledger.holder(call) is not None

    # ---- workers

    def start(self, count: int) -> None:
        """See to it that so many workers run or are starting, never more than `processes`; does not wait for them."""
        self._floor.staff.want(count)

    def start_here(self, count: int) -> None:
        """Start so many workers in this thread, as `multiprocessing.Pool` does; OSError when none can be started."""
        self._floor.staff.start_here(count)

    @property
    def ready(self) -> int:
        """How many workers are alive and have run their initializer."""
        return self._floor.ledger.ready

    @property
    def broken(self) -> WorkerStartError | UnguardedMain | None:
        """Why no worker can be started; None while there is hope."""
        return self._floor.staff.broken

    def workers(self) -> tuple[WorkerState, ...]:
        """What each worker is at."""
        floor = self._floor
        with floor.lock:
            states = []
            for worker in floor.staff.workers.values():
                seat = worker.seat
                state: Any = ("busy" if seat.batches else "idle") if seat.state == READY else seat.state
                sent = (number for batch in seat.batches for number in batch)
                call = next((number for number in sent if number in floor.ledger.calls), None)
                states.append(WorkerState(worker.index, worker.pid, state, call, seat.since))
        return tuple(states)

    def stats(self, callbacks_failed: int = 0) -> PoolStats:
        """What this engine has done so far, and what it is at."""
        return stats_of(self._floor, callbacks_failed)

    def processes(self) -> list[Any]:
        """The multiprocessing.Process objects of the workers there are."""
        with self._floor.lock:
            return [worker.process for worker in self._floor.staff.workers.values()]

    # ---- the end

    def close(self) -> None:
        """Take no more calls; workers leave when all are answered."""
        self._floor.close()

    def terminate(self, error: BaseException | None = None, *, kill: bool = False) -> None:
        """Take no more calls, end what runs; every open call is answered with `error`, by default a CancelledError.
        `kill` ends the workers with SIGKILL and no grace."""
        self._floor.terminate(error, kill)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all workers are gone; False if some are not after `timeout` seconds."""
        return self._floor.join(timeout)


def _leave(engine: weakref.ref[LocalEngine], floor: Floor) -> None:
    floor.terminate()
    if engine() is not None:  # at the end of the program; a dropped engine is not waited for
        floor.join(10.0)


def check_whole(**numbers: int | None) -> None:
    """Raises TypeError for what is no whole number."""
    for name, number in numbers.items():
        if number is not None and not hasattr(number, "__index__"):
            raise TypeError(f"{name} must be a whole number, such as 4, not {number!r}")


def _check(
    processes: int,
    min_processes: int | None,
    maxtasksperchild: int | None,
    max_pending: int | None,
    time_limit: float | None,
    idle_timeout: float | None,
) -> None:
    if processes < 1:
        raise ValueError(f"Number of processes must be at least 1, not {processes}")
    if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
        raise ValueError("maxtasksperchild must be a positive int or None")
    if min_processes is not None and not 0 <= min_processes <= processes:
        raise ValueError(f"min_processes must be from 0 to {processes}, not {min_processes}")
    if max_pending is not None and max_pending < 1:
        raise ValueError("max_pending must be at least 1")
    for name, seconds in (("time_limit", time_limit), ("idle_timeout", idle_timeout)):
        if seconds is not None and not isinstance(seconds, Real):
            raise TypeError(f"{name} must be a number of seconds, not {seconds!r}")
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{name} must be a positive number of seconds")


def _server(
    method: str, preload: str | Iterable[str] | None, variables: dict[str, str], with_devices: bool
) -> preloading.Server | None:
    """The fork server that has these modules, or None where the program's own will do."""
    modules = preloading.names_of(preload)
    if not modules:
        return None
    if method != "forkserver":
        raise ValueError(f"preload needs the start method forkserver; with {method!r} nobody imports for all")
    environment = tuple(sorted(os.environ.items()))
    wanted = preloading.Wanted(modules, tuple(variables.items()), environment, import_path(), with_devices)
    return preloading.lend(wanted)


def _threads_that_the_user_set() -> int | None:
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(text) if text.isdigit() and int(text) else None


def _thread_environment(threads: int, asked: bool) -> dict[str, str]:
    # What the user has set stays, unless they say otherwise here.
    return {name: str(threads) for name in _THREAD_VARIABLES if asked or name not in os.environ}


def _needs_by_value() -> bool:
    main = sys.modules.get("__main__")
    if getattr(getattr(main, "__spec__", None), "name", None) is not None:
        return False
    file = getattr(main, "__file__", None)
    return file is None or not os.path.exists(file)


def _concerns_main(payload: Payload) -> bool:
    pickled = payload if isinstance(payload, bytes) else payload.head
    return b"__main__" in pickled or b"__mp_main__" in pickled


def _dumps_by_value(value: Any) -> bytes:
    from pooltable.pool import byvalue  # cloudpickle takes a while to import, and most programs never need it

    return byvalue.dumps(value)


def _unguarded() -> UnguardedMain:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__") != "__mp_main__":
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    return UnguardedMain(
        f"{file}, line {line}: every worker imports this file, and would start workers of its own here. Put what "
        'starts the pool under a guard:\n\n    if __name__ == "__main__":\n        ...'
    )
