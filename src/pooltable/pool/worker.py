"""Runs calls in a worker process.

    parent                                      worker
    calls, one or a small batch  -- wire -->    take a token -> load -> run -> pickle -> note in the slab
    answers                      <-- wire --    at the end of the batch, or after two milliseconds

A worker runs one call at a time, in the order it got them, on its main thread, and starts no thread of its own. It
shares no lock, queue or semaphore with any other process, so it can die at any moment and harm nobody. It imports as
little as possible: the user's own modules are what its start should cost.

A call may fork. A copy of the worker that comes back to this code ends there: it answers for nobody, and the calls that
follow are not for it (forked.py).
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from math import inf
from time import perf_counter, sleep
from typing import Any, NamedTuple

from pooltable.pool import forked
from pooltable.pool.buffers import LARGE, Missing, Parcel, Received, TooLarge, dumps as parcel, in_parcel, keep_small
from pooltable.pool.slab import Slab, Tokens
from pooltable.pool.wire import Channel, channel, pack
from pooltable.text import safe_str

# How a call ended; engine.py has the same numbers, and is not imported here for what it would import.
RETURNED = 0
RAISED = 1

# Results wait in the worker for at most so long, in seconds, before they are sent, and while they are at most so large.
_FLUSH = 0.002
_ENOUGH = 49152
# A worker that leaves waits so many seconds for threads that a task has left running.
_FOR_THREADS = 2.0
# Its threads are looked at after so many seconds, and then ever more rarely.
_FIRST_LOOK = 0.5
_LONGEST_TEXT = 262144
# The exit code of a worker whose socket was closed by the function it ran.
CLOSED_BY_CALL = 74


class Identity(NamedTuple):
    """Who this worker is: its slot from 0 up, the threads it owns, its device, and how many workers there may be."""

    index: int  # type: ignore[assignment]  # a method of tuples that nobody calls here
    threads: int
    device: str | None
    processes: int


_identity: Identity | None = None
_recycle = False


def identity() -> Identity | None:
    """Who this worker is; None outside a worker."""
    return _identity


def ask_to_be_recycled() -> None:
    """Leave after the call that runs now, and be replaced by a fresh worker."""
    global _recycle
    _recycle = True


class Orders(NamedTuple):
    """What a worker is told when it is started."""

    index: int  # type: ignore[assignment]
    processes: int
    threads: int
    device: str | None
    environment: dict[str, str]
    capture: str | None
    main: dict[str, Any]
    by_value: bool
    plain_errors: bool
    memory: int | None


def main(orders: Orders, task: Any, end: Any, lifeline: Any, slab: Any, tokens: Any) -> None:
    """The whole life of a worker; `task` gives the setup, and the initializer and its arguments, when it is asked."""
    global _identity
    from pooltable.pool import birth

    own = forked.own()
    os.register_at_fork(before=forked.flush)  # what is left in a buffer would be written by the copy as well
    birth.settle(orders, lifeline.take())
    _identity = Identity(orders.index, orders.threads, orders.device, orders.processes)
    end = socket.socket(fileno=end.take())
    end.settimeout(None)  # the program may have set another default
    line = channel(end)
    # A task may close every descriptor and open a file in its place; answers must never be written into that file.
    inode = os.fstat(line.socket.fileno()).st_ino
    mine = Slab(slab.take())
    taken = tokens.take()
    failure = birth.prepare(orders, task, own)
    if failure is not None:
        line.send(pack(("failed", *failure)))
        return
    line.send(pack(("ready",)))
    try:
        _serve(line, inode, mine, Tokens(taken), orders, own)
        _wait_for_threads(line)
    except (EOFError, ConnectionError):
        pass  # the parent is gone or wants nothing more


def _serve(line: Channel, inode: int, slab: Slab, tokens: Tokens, orders: Orders, own: Any) -> None:
    loads, dumps, clock = pickle.loads, pickle.dumps, perf_counter
    words, note, receive = slab.words, slab.write, line.receive
    # Where there is no such thing, nothing is sent that needs a token.
    take: Any = getattr(os, "eventfd_read", None)
    counter = tokens.fileno()
    functions: list[Any] = []
    weigh = _Scales(orders.memory)
    threads = _Threads(line, orders.threads, clock())
    rest: Any = None
    if orders.capture is not None:
        from pooltable.pool.capture import rest
    function: Any = None
    while (message := receive()) is not None:
        definitions, tokened, calls = message
        if line.files or line.cut:
            calls = _with_files(calls, line)
        for definition in definitions:
            functions.append(_Late(definition))
        answers: list[tuple[int, int, float, Any]] = []
        weight = dropped = 0
        last = len(calls) - 1
        flushed = ended = clock()
        for position, (number, name, payload) in enumerate(calls):
            if tokened:
                try:
                    take(counter)
                except BlockingIOError:
                    dropped = len(calls) - position
                    break
            began = ended
            words[0] = number
            try:
                if name < 0:
                    function, args, kwargs = loads(payload) if type(payload) is bytes else payload.load()
                    value = function(*args, **kwargs)
                else:
                    args = loads(payload) if type(payload) is bytes else payload.load()
                    function = functions[name]
                    if type(function) is _Late:
                        function = functions[name] = function.load()
                    value = function(*args)
                if not own[0]:
                    forked.leave(None)
                kind = RETURNED
                try:
                    data: Any = dumps(value, 5, buffer_callback=keep_small)
                    if len(data) >= LARGE:
                        data = in_parcel(data)
                except TooLarge:
                    data = parcel(value)
                except Exception as error:
                    kind, data = _unpicklable(error, value, orders)
            except BaseException as error:
                if not own[0]:
                    forked.leave(error)
                kind, data = RAISED, describe(error)
                if isinstance(error, MemoryError):
                    ask_to_be_recycled()
            function = args = kwargs = value = payload = None
            if not own[0]:  # what is pickled or dropped may fork, too
                forked.leave(None)
            ended = clock()
            answer = (number, kind, ended - began, data)
            answers.append(answer)
            weight += len(data)
            if position == last:
                break
            if _recycle:
                dropped = last - position
                break
            if ended - flushed > _FLUSH or weight > _ENOUGH or not note(answer):
                _check(line, inode)
                _answer(line, answers, weight, (ended - flushed, False, 0, False))
                slab.clear()
                answers = []
                weight = 0
                flushed = ended
        weigh(ended)
        if rest is not None:
            rest()
        _check(line, inode)
        _answer(line, answers, weight, (ended - flushed, True, dropped, _recycle))
        slab.clear()
        if ended >= threads.due:
            threads.look(ended)
        if _recycle:
            return


def _wait_for_threads(line: Channel) -> None:
    """See to it that threads that the task has left running do not keep this process, which leaves now, for long."""
    if not _threads_left():
        return
    import threading

    def outlast() -> None:
        sleep(_FOR_THREADS)
        left = _threads_left()
        if left:
            line.send(pack(("outlasted", left)))  # and the parent ends this process

    # Some of them end only when Python asks them to, as those of executors do: that comes after this.
    with suppress(RuntimeError):  # there can be no more threads
        threading.Thread(target=outlast, name="pooltable-last", daemon=True).start()


def _threads_left() -> list[str]:
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    return [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]


def _with_files(calls: list[Any], line: Channel) -> list[Any]:
    """The calls of a message that came with memory files: those that only have sizes for arguments have one each."""
    return [
        (number, name, payload)
        if type(payload) is not tuple
        else (number, name, Received(line.files.popleft(), payload) if line.files else Missing())
        for number, name, payload in calls
    ]


def _answer(line: Channel, answers: list[Any], weight: int, rest: tuple[float, bool, int, bool]) -> None:
    if weight >= LARGE:
        parcels = [answer[3] for answer in answers if type(answer[3]) is Parcel]
        if parcels:
            slim = [(*answer[:3], getattr(answer[3], "sizes", answer[3])) for answer in answers]
            line.send_with_files(pack((slim, *rest)), parcels)
            for each in parcels:
                each.close()
            return
    line.send(pack((answers, *rest)))


def _check(line: Channel, inode: int) -> None:
    try:
        if os.fstat(line.socket.fileno()).st_ino == inode:
            return
    except OSError:
        pass
    os._exit(CLOSED_BY_CALL)


class _Late:
    """A function that is loaded when it is first called, so that an import that fails is that call's error."""

    __slots__ = ("definition",)

    def __init__(self, definition: bytes) -> None:
        self.definition = definition

    def load(self) -> Any:
        return pickle.loads(self.definition)


class _Scales:
    """Asks for a fresh worker when this one's own memory has grown over the limit; looks at most every 0.1 s."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._next = 0.0
        if limit is not None:
            # Now, because a task may leave nothing with which something could be imported.
            from pooltable.pool.memory import over_limit

            self._over_limit = over_limit

    def __call__(self, now: float) -> None:
        if self._limit is None or now < self._next:
            return
        if self._over_limit("self", self._limit) is not None:
            ask_to_be_recycled()
        # To look at a large process takes milliseconds: one part in twenty of the time at most.
        ended = perf_counter()
        self._next = ended + max(0.1, 20 * (ended - now))


class _Threads:
    """Tells the parent, once, when this process runs more threads than it owns."""

    def __init__(self, line: Channel, owned: int, now: float) -> None:
        self._line = line
        self._owned = owned
        self._began = self._looked = now
        self._crowd: Any = None
        self.due = now + _FIRST_LOOK

    def look(self, now: float) -> None:
        found = None
        if self._crowd is None:
            try:
                from pooltable.pool.crowd import Crowd
            except Exception:
                self.due = inf  # the task has left nothing with which something could be imported
                return
            self._crowd = Crowd(self._owned)
        else:
            found = self._crowd.look(now - self._looked)
        self._looked = now
        self.due = now + max(_FIRST_LOOK, now - self._began)
        if found is not None:
            self.due = inf
            self._line.send(pack(("crowded", *found)))


def _unpicklable(error: Exception, value: Any, orders: Orders) -> tuple[int, Any]:
    """What is answered for a value that does not pickle."""
    if orders.by_value:
        from pooltable.pool import byvalue

        try:
            return RETURNED, byvalue.dumps(value)
        except Exception as second:
            error = second
    if orders.plain_errors:
        return RAISED, describe(error)
    from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]

    try:
        wrapped: Exception = MaybeEncodingError(error, value)
    except Exception as second:  # the value's own __repr__ raised
        wrapped = MaybeEncodingError(
            error, f"a {type(value).__qualname__}, whose __repr__ raised {type(second).__name__}"
        )
    return RAISED, describe(wrapped, cause=error)


def describe(error: BaseException, *, skip: int = 1, cause: BaseException | None = None) -> tuple[Any, ...]:
    """An error as plain values: type name, message, traceback text, the error pickled or None, is it an Exception.

    `skip` frames of ours stand before the user's in its traceback. Nothing that the error's class does gets out of
    here.
    """
    kind = type(error)
    try:
        pickled: bytes | None = pickle.dumps(error, 5)
    except BaseException:
        pickled = _by_value(error)
    return (
        f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__,
        _short(safe_str(error)),
        _short(_traceback(cause or error, skip)),
        pickled,
        isinstance(error, Exception),
    )


def _by_value(error: BaseException) -> bytes | None:
    if "pooltable.pool.byvalue" not in sys.modules:
        return None
    from pooltable.pool import byvalue

    try:
        return byvalue.dumps(error)
    except BaseException:
        return None


def _traceback(error: BaseException, skip: int) -> str:
    try:
        import traceback  # it cannot be read where no file descriptor is left

        frames = error.__traceback__
        while skip and frames is not None and frames.tb_next is not None:
            frames = frames.tb_next
            skip -= 1
        return "".join(traceback.format_exception(type(error), error, frames))
    except BaseException as second:
        return f"{type(error).__qualname__} (its traceback cannot be put in words: {type(second).__name__})\n"


def _short(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def dump_signal() -> int:
    """The signal that makes a worker write its stacks to stderr."""
    if hasattr(signal, "SIGRTMAX"):
        return int(signal.SIGRTMAX) - 3
    return int(signal.SIGUSR2)
