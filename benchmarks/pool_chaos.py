"""A bounded time of accidents in process pools, and then the question whether a call was lost, repeated or left over.

    python -m benchmarks.pool_chaos [--minutes 1] [--seed N] [--context forkserver|spawn|fork|all]

Calls of every kind go to a Pool and a PoolExecutor at once, from several threads, some hundred at a time: short and
slow ones, such that raise, end their worker or have it recycled, return or take megabytes, or cannot be pickled, and
such that are cancelled or run over their time limit. Meanwhile workers are killed, stopped and continued at random. In
the end every call must have been answered with its own value or with the error that fits, none may have run twice, and
no process, descriptor or memory may be left. The same seed makes the same choices, not the same timing; the exit code
is 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pooltable import Pool, PoolExecutor, TimeLimitExceeded, WorkerLost
from pooltable.pool.results import AsyncResult
from pooltable.pool.worker import ask_to_be_recycled

CONTEXTS = ("forkserver", "spawn", "fork")
WORKERS = 3
AT_ONCE = 200  # calls under way, in each of the two pools
LIMIT = 0.4  # seconds, for the calls that have one
PATIENCE = 60.0  # for a call's answer after everything has calmed down
PAUSE = (0.05, 0.4)  # seconds between two accidents
MEGABYTE = 2**20
GROWTH = 60 * MEGABYTE  # that the parent's memory may have grown by in the end

notes = -1


# ---- in the worker


def open_notes(path: str) -> None:
    global notes
    notes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class TwoArguments(Exception):
    """What the standard library's pools cannot bring back."""

    def __init__(self, one: int, two: str) -> None:
        super().__init__(f"{one} {two}")


def run(kind: str, number: int, load: bytes = b"") -> Any:
    os.write(notes, struct.pack("=Q", number))
    match kind:
        case "slow":
            time.sleep(number % 7 / 20)
            return number
        case "busy":
            until = time.monotonic() + number % 5 / 50
            while time.monotonic() < until:
                pass
            return number
        case "raises":
            raise TwoArguments(number, "was asked to")
        case "exits":
            os._exit(number % 3)
        case "dies":
            os.kill(os.getpid(), [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT][number % 3])
        case "returns much":
            return bytes([number % 256]) * (number % 9 * MEGABYTE)
        case "takes much":
            return len(load)
        case "returns a lambda":
            return lambda: number
        case "too long":
            time.sleep(600)
        case "leaves":
            sys.exit(number)
    return None


def brief(kind: str, number: int) -> int:
    """Calls that travel many at a time, because all calls of this function are short."""
    os.write(notes, struct.pack("=Q", number))
    if kind == "recycles":
        ask_to_be_recycled()
    elif kind == "needs too much":
        raise MemoryError(number)
    return number


class NotToBePickled:
    def __reduce__(self) -> Any:
        raise ValueError("not to be pickled")


# ---- in the parent

KINDS = {
    "short": 60,
    "recycles": 1,
    "needs too much": 1,
    "slow": 6,
    "busy": 6,
    "raises": 6,
    "exits": 1,
    "dies": 1,
    "returns much": 3,
    "takes much": 3,
    "returns a lambda": 2,
    "not to be pickled": 2,
    "too long": 1,
    "leaves": 2,
    "cancelled": 4,
}


def is_right(kind: str, number: int, value: Any, error: BaseException | None) -> bool:
    """Whether that answer fits the call. A worker may have been killed whatever it ran."""
    if isinstance(error, WorkerLost):
        return kind != "not to be pickled"
    match kind:
        case "needs too much":
            return isinstance(error, MemoryError) and error.args == (number,)
        case "short" | "recycles" | "slow" | "busy":
            return error is None and value == number
        case "raises":
            return error is not None and f"{number} was asked to" in str(error)
        case "returns much":
            return error is None and value == bytes([number % 256]) * (number % 9 * MEGABYTE)
        case "takes much":
            return error is None and value == number % 5 * MEGABYTE
        case "returns a lambda" | "not to be pickled":
            return error is not None and "pickl" in f"{type(error).__name__} {error}".lower()
        case "too long":
            return isinstance(error, TimeLimitExceeded)
        case "leaves":
            return error is not None and str(number) in str(error)
        case "cancelled":
            return isinstance(error, CancelledError) or (error is None and value == number)
    return False  # exits, dies: WorkerLost and nothing else


@dataclass
class Verdict:
    """What was done, and what is wrong with the outcome."""

    context: str
    seed: int
    calls: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    accidents: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"{self.context}, seed {self.seed}: {sum(self.calls.values()):,} calls in {self.seconds:.0f} s",
            *(
                f"  {name}: {', '.join(f'{key} {count:,}' for key, count in sorted(counts.items()))}"
                for name, counts in (("calls", self.calls), ("errors", self.errors), ("accidents", self.accidents))
            ),
            *(
                [f"  WRONG: {one}" for one in self.wrong]
                or ["  every call answered, none run twice, nothing left behind"]
            ),
        ]
        return "\n".join(lines)


class Chaos:
    """One bounded time of calls and accidents, on one start method."""

    def __init__(self, context: str, seed: int, folder: Path) -> None:
        self.verdict = Verdict(context, seed)
        self.notes = folder / f"notes-{context}"
        self.random = random.Random(seed)
        self._lock = threading.Lock()
        self._number = 0
        self._over = threading.Event()

    def run(self, seconds: float) -> Verdict:
        began = time.monotonic()
        options: dict[str, Any] = {"initializer": open_notes, "initargs": (str(self.notes),)}
        with (
            Pool(WORKERS, context=self.verdict.context, time_limit=None, **options) as pool,
            PoolExecutor(WORKERS, mp_context=self.verdict.context, **options) as executor,
        ):
            threads = [
                threading.Thread(target=self._guarded, args=work)
                for work in (
                    (self._call, Through(pool.apply_async)),
                    (self._call, Through(executor.submit, future=True)),
                    (self._maps, pool),
                    (self._accidents, pool, executor),
                )
            ]
            for thread in threads:
                thread.start()
            self._over.wait(seconds)
            self._over.set()
            for thread in threads:
                thread.join(2 * PATIENCE)
                if thread.is_alive():
                    self._wrong(f"a caller still waits: {thread.name}")
            pool.close()
            pool.join()
        self._check_repeats()
        self.verdict.seconds = time.monotonic() - began
        return self.verdict

    def _guarded(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(random.Random(self.random.random()), *args)
        except BaseException as error:
            self._wrong(f"{work.__name__}: {type(error).__name__}: {error}")
            self._over.set()

    def _wrong(self, what: str) -> None:
        if len(self.verdict.wrong) < 20:
            self.verdict.wrong.append(what)

    def _next(self) -> int:
        with self._lock:
            self._number += 1
            return self._number

    # ---- calls

    def _call(self, chance: random.Random, through: Through) -> None:
        """One kind of call after the other, so many at a time, and a look at each answer."""
        under_way: list[tuple[str, int, Any]] = []
        kinds, weights = list(KINDS), list(KINDS.values())
        while not self._over.is_set():
            (kind,) = chance.choices(kinds, weights)
            number = self._next()
            under_way.append((kind, number, through.begin(kind, number)))
            self.verdict.calls[kind] += 1
            if len(under_way) >= AT_ONCE:
                # In no order, as callers do.
                place = chance.randrange(len(under_way))
                under_way[place], under_way[-1] = under_way[-1], under_way[place]
                self._look(under_way.pop(), through)
        for call in under_way:
            self._look(call, through)

    def _look(self, call: tuple[str, int, Any], through: Through) -> None:
        kind, number, handle = call
        value, error = through.end(handle)
        if error is not None:
            self.verdict.errors[type(error).__name__] += 1
        if isinstance(error, TimeoutError) and not isinstance(error, TimeLimitExceeded):
            self._wrong(f"{through}: call {number} ({kind}) was never answered")
        elif not is_right(kind, number, value, error):
            self._wrong(f"{through}: call {number} ({kind}) gave {str(value)[:60]!r}, {error!r}")

    def _maps(self, chance: random.Random, pool: Any) -> None:
        """Whole maps beside the single calls: a worker lost in one costs one call of it."""
        while not self._over.is_set():
            numbers = [self._next() for _ in range(chance.randrange(1, 400))]
            size = chance.choice([1, 1, 7, None])
            try:
                if size == 1:
                    found = set(pool.imap_unordered(_short, numbers))
                else:
                    found = set(pool.map_async(_short, numbers, size).get(PATIENCE))
            except WorkerLost:
                self.verdict.errors["WorkerLost"] += 1
            else:
                if found != set(numbers):
                    self._wrong(f"a map of {len(numbers)} gave {len(found & set(numbers))} of them")
            self.verdict.calls["in maps"] += len(numbers)
            time.sleep(0.02)

    # ---- accidents

    def _accidents(self, chance: random.Random, pool: Any, executor: Any) -> None:
        while not self._over.wait(chance.uniform(*PAUSE)):
            # Not those that are starting: killed there three times in a row, they are given up, and should be.
            states = [state for owner in (pool, executor) for state in owner._engine.workers()]
            workers = [state.pid for state in states if state.pid and state.state != "starting"]
            if not workers:
                continue
            pid = chance.choice(workers)
            with suppress(ProcessLookupError):
                if chance.random() < 0.5:
                    os.kill(pid, chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV]))
                    self.verdict.accidents["killed"] += 1
                else:
                    os.kill(pid, signal.SIGSTOP)
                    self.verdict.accidents["stopped"] += 1
                    time.sleep(chance.uniform(0.05, 0.5))
                    os.kill(pid, signal.SIGCONT)

    def _check_repeats(self) -> None:
        data = self.notes.read_bytes()
        repeated = [
            number for number, count in Counter(struct.unpack(f"={len(data) // 8}Q", data)).items() if count > 1
        ]
        if repeated:
            self._wrong(f"{len(repeated)} calls ran more than once, {repeated[:5]} among them")


class Through:
    """How a call is made and its answer taken, of a Pool or of an executor."""

    def __init__(self, submit: Callable[..., Any], future: bool = False) -> None:
        self._submit = submit
        self._future = future

    def __str__(self) -> str:
        return "PoolExecutor" if self._future else "Pool"

    def begin(self, kind: str, number: int) -> AsyncResult[Any] | Future[Any] | BaseException:
        args: tuple[Any, ...] = ("slow" if kind == "cancelled" else kind, number)
        if kind == "takes much":
            args = (*args, bytes(number % 5 * MEGABYTE))
        elif kind == "not to be pickled":
            args = (*args, NotToBePickled())
        limit = {"time_limit": LIMIT} if kind == "too long" else {}
        if self._future and limit:
            # The executor's limit belongs to all of its calls.
            args, limit = ("dies", number), {}
        function = brief if kind in ("short", "recycles", "needs too much") else run
        try:
            handle = self._submit(function, *args) if self._future else self._submit(function, args, **limit)
        except ValueError as error:
            return error
        if kind == "cancelled":
            handle.cancel() if self._future else handle.cancel(kill=bool(number % 2))
        return handle  # type: ignore[no-any-return]

    def end(self, handle: Any) -> tuple[Any, BaseException | None]:
        if isinstance(handle, BaseException):
            return None, handle
        try:
            return (handle.result(PATIENCE) if self._future else handle.get(PATIENCE)), None
        except BaseException as error:
            return None, error


def _short(number: int) -> int:
    os.write(notes, struct.pack("=Q", number))
    return number


def left_behind(before: tuple[int, int]) -> list[str]:
    """What is there that was not there before."""
    descriptors, memory = before
    me, wrong = psutil.Process(), []
    deadline = time.monotonic() + 10
    while (children := [p for p in me.children(recursive=True) if not _is_server(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    if children:
        wrong.append(f"processes are left: {children}")
    _give_back()
    if me.num_fds() > descriptors:
        wrong.append(f"{me.num_fds() - descriptors} descriptors are left")
    if me.memory_info().rss > memory + GROWTH:
        wrong.append(f"the memory has grown by {(me.memory_info().rss - memory) // MEGABYTE} MB")
    return wrong


def _give_back() -> None:
    """Have the C library give back what it keeps of freed memory, where it can: that is not held by anybody."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _is_server(process: psutil.Process) -> bool:
    """The standard library's fork server and resource tracker stay for the next pool."""
    with suppress(psutil.Error):
        return any("forkserver" in word or "resource_tracker" in word for word in process.cmdline())
    return True


def calm() -> tuple[int, int]:
    """Descriptors and memory of this process after a pool has been used and ended, so that only growth is seen."""
    for context in CONTEXTS:
        with Pool(1, context=context) as pool:
            pool.apply(bytes, (8 * MEGABYTE,))
    _give_back()
    me = psutil.Process()
    return me.num_fds(), me.memory_info().rss


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool_chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for each start method")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--context", choices=(*CONTEXTS, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="five seconds each")
    asked = parser.parse_args()
    seconds = 5.0 if asked.quick else asked.minutes * 60
    code = 0
    for context in CONTEXTS if asked.context == "all" else (asked.context,):
        before = calm()
        with tempfile.TemporaryDirectory() as folder:
            verdict = Chaos(context, asked.seed, Path(folder)).run(seconds)
        verdict.wrong += left_behind(before)
        print(verdict, flush=True)
        code = max(code, int(bool(verdict.wrong)))
    return code


if __name__ == "__main__":
    sys.exit(main())
