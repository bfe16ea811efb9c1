"""What pools do when something goes wrong in a call: the bad call's answer, and what becomes of the calls beside it.

    python -m benchmarks.faults
    python -m benchmarks.faults --pools pooltable_pool process_pool_executor --patience 3

Each fault is tried on a fresh pool of two workers, in a program of its own: a good call that takes a moment, the bad
call, and then another good one. A pool that has not answered after `--patience` seconds hangs. Peers that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from benchmarks._report import Table, write

# ---- the faults


class TwoArguments(Exception):
    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"{one} and {two}")


class LoadsBadly:
    def __reduce__(self) -> tuple[Any, ...]:
        return fail_to_load, ()


class DiesWhilePickled:
    def __reduce__(self) -> NoReturn:
        os._exit(9)


def fail_to_load() -> NoReturn:
    raise LookupError("cannot be loaded")


def good(seconds: float) -> str:
    time.sleep(seconds)
    return "good"


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(0)


def raise_two_arguments() -> NoReturn:
    raise TwoArguments(1, 2)


def raise_system_exit() -> NoReturn:
    sys.exit(3)


def raise_keyboard_interrupt() -> NoReturn:
    raise KeyboardInterrupt


def give_lambda() -> Any:
    return lambda: None


def give_what_loads_badly() -> Any:
    return LoadsBadly()


def give_what_dies() -> Any:
    return DiesWhilePickled()


def take(value: object) -> None:
    pass


def pool_inside() -> list[int]:
    import pooltable

    with pooltable.Pool(1) as pool:
        return list(pool.map(abs, [-1]))


# name: (function, arguments, what the good answer is: an error, or a value)
FAULTS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "SIGKILL of a busy worker": (kill_itself, (), "error"),
    "os._exit(0) in a call": (leave, (), "error"),
    "an exception that does not unpickle": (raise_two_arguments, (), "error"),
    "sys.exit(3)": (raise_system_exit, (), "error"),
    "KeyboardInterrupt": (raise_keyboard_interrupt, (), "error"),
    "an argument that does not pickle": (take, (threading.Lock(),), "error"),
    "an argument that cannot be loaded": (take, (LoadsBadly(),), "error"),
    "a result that does not pickle": (give_lambda, (), "error"),
    "a result that cannot be loaded": (give_what_loads_badly, (), "error"),
    "a worker that dies while it pickles": (give_what_dies, (), "error"),
    "a pool inside a call": (pool_inside, (), "value"),
}
SPECIAL = (
    "SIGKILL of an idle worker",
    "an initializer that raises",
    "a callback that raises",
    "a callback that sleeps",
)


def fail_to_start() -> NoReturn:
    raise RuntimeError("no such model")


# ---- the pools: submit gives something with a result(timeout)


class Adapter:
    """One pool behind one small interface."""

    def __init__(self, name: str, initializer: Callable[[], object] | None) -> None:
        self.is_future = name not in ("pooltable_pool", "multiprocessing_pool", "billiard", "mpire")
        self.pool = getattr(self, f"_{name}")(initializer)
        self.name = name

    def _pooltable_pool(self, initializer: Any) -> Any:
        import pooltable

        return pooltable.Pool(2, initializer)

    def _pooltable_executor(self, initializer: Any) -> Any:
        import pooltable

        return pooltable.PoolExecutor(2, initializer=initializer)

    def _multiprocessing_pool(self, initializer: Any) -> Any:
        return multiprocessing.get_context("forkserver").Pool(2, initializer)

    def _process_pool_executor(self, initializer: Any) -> Any:
        context = multiprocessing.get_context("forkserver")
        return concurrent.futures.ProcessPoolExecutor(2, context, initializer=initializer)

    def _loky(self, initializer: Any) -> Any:
        from loky import ProcessPoolExecutor

        return ProcessPoolExecutor(2, initializer=initializer)

    def _pebble(self, initializer: Any) -> Any:
        from pebble import ProcessPool

        return ProcessPool(2, initializer=initializer)

    def _billiard(self, initializer: Any) -> Any:
        import billiard

        return billiard.Pool(2, initializer)

    def _mpire(self, initializer: Any) -> Any:
        from mpire import WorkerPool

        return WorkerPool(2, keep_alive=True)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], callback: Any = None) -> Any:
        if self.name == "pebble":
            result = self.pool.schedule(function, args=args)
        elif self.is_future:
            result = self.pool.submit(function, *args)
        else:
            result = self.pool.apply_async(function, args, callback=callback)
        if callback is not None and self.is_future:
            result.add_done_callback(callback)
        return result

    def get(self, result: Any, patience: float) -> str:
        """ "value", "error" or "hangs"."""
        try:
            if self.is_future:
                result.result(patience)
            else:
                result.get(patience)
        except (TimeoutError, concurrent.futures.TimeoutError, multiprocessing.TimeoutError):
            return "hangs"
        except BaseException as error:
            return "hangs" if type(error).__name__ == "TimeoutError" else "error"
        return "value"


POOLS = (
    "pooltable_pool",
    "pooltable_executor",
    "multiprocessing_pool",
    "process_pool_executor",
    "loky",
    "pebble",
    "mpire",
    "billiard",
)


def try_fault(name: str, fault: str, patience: float) -> dict[str, str]:
    """What became of the bad call, the good one beside it and the one after it."""
    adapter = Adapter(name, fail_to_start if fault == "an initializer that raises" else None)
    if fault == "an initializer that raises":
        return {"bad": attempt(adapter, good, (0.0,), patience), "wanted": "error"}
    attempt(adapter, good, (0.0,), patience)
    beside = adapter.submit(good, (0.5,))
    found = {"wanted": "value"}
    if fault in FAULTS:
        function, args, found["wanted"] = FAULTS[fault]
        found["bad"] = attempt(adapter, function, args, patience)
    elif fault == "SIGKILL of an idle worker":
        adapter.get(beside, patience)
        for pid in {attempt_pid(adapter, patience) for _ in range(4)} - {0}:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
            break
    else:
        callback = explode if fault == "a callback that raises" else doze
        found["bad"] = attempt(adapter, good, (0.0,), patience, callback) if callback is explode else "value"
        if callback is doze:
            adapter.submit(good, (0.0,), doze)
            time.sleep(0.1)
    found["beside"] = adapter.get(beside, patience)
    begin = time.monotonic()
    found["after"] = attempt(adapter, good, (0.0,), patience)
    if fault == "a callback that sleeps" and time.monotonic() - begin > 1.0:
        found["after"] = "late"
    return found


def explode(_: object) -> NoReturn:
    raise RuntimeError("callback")


def doze(_: object) -> None:
    time.sleep(2.0)


def attempt_pid(adapter: Adapter, patience: float) -> int:
    result = adapter.submit(os.getpid, ())
    return int(result.result(patience) if adapter.is_future else result.get(patience))


def attempt(
    adapter: Adapter, function: Callable[..., Any], args: tuple[Any, ...], patience: float, callback: Any = None
) -> str:
    try:
        return adapter.get(adapter.submit(function, args, callback), patience)
    except Exception:
        return "error"


# ---- one program per pool and fault


def in_words(found: dict[str, str]) -> str:
    """`good`, or what went wrong."""
    wrong = []
    if found.get("bad", found["wanted"]) != found["wanted"]:
        wrong.append("the call hangs" if found["bad"] == "hangs" else f"the call gives {found['bad']}")
    if found.get("beside", "value") != "value":
        wrong.append("good call lost")
    if found.get("after", "value") != "value":
        wrong.append(
            {"hangs": "later calls hang", "error": "pool broken", "late": "later calls held up"}[found["after"]]
        )
    return ", ".join(wrong) or "good"


def run_one(name: str, fault: str, patience: float) -> str:
    command = [sys.executable, "-m", "benchmarks.faults", "--one", name, fault, "--patience", str(patience)]
    with tempfile.TemporaryFile("w+") as output:
        # Into a file: a worker that outlives its program would keep a pipe open.
        program = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            program.wait(5 * patience + 10)
        except subprocess.TimeoutExpired:
            return "the program hangs"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        output.seek(0)
        found = [line for line in output if line.startswith("{")]
    return in_words(json.loads(found[-1])) if found else "the program failed"


def installed(name: str) -> bool:
    try:
        __import__({"loky": "loky", "pebble": "pebble", "mpire": "mpire", "billiard": "billiard"}.get(name, "json"))
    except ImportError as error:
        print(f"{name}: not tried, {error}", file=sys.stderr)
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=POOLS, help="pools to try (default: all)")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds for an answer (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="our own pool only, to see that everything works")
    parser.add_argument("--one", nargs=2, metavar=("POOL", "FAULT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(try_fault(*options.one, options.patience)), flush=True)
        os._exit(0)  # a pool that hangs may hang at the end as well
    names = ["pooltable_pool"] if options.quick else [name for name in options.pools if installed(name)]
    rows = []
    for fault in (*FAULTS, *SPECIAL):
        rows.append((fault, *(run_one(name, fault, options.patience) for name in names)))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    right = ("right answers", *(sum(row[column] == "good" for row in rows) for column in range(1, len(names) + 1)))
    table = Table("What pools do when something goes wrong in a call", ("the call does", *names), [*rows, right])
    write("faults", [table], {"patience": options.patience})


if __name__ == "__main__":
    main()
