"""The tasks that the runner's tests run; a module of their own, since workers import it by name."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from pooltable import Fail, Later, TimeLimitExceeded, WorkerLost, WorkerStartError, current
from pooltable.rows import Row

loaded: list[str] = []


def notes() -> Path:
    """Where tasks note what they do: one file for all tests, because the fork server, which starts the workers of all
    tests, keeps the environment of the first."""
    return Path(os.environ["TMPDIR"]) / "notes"


def note(text: object) -> None:
    """One line in the test's notes; whole, since it is one write to a file opened for appending."""
    descriptor = os.open(notes(), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def caption(row: Row) -> str:
    return f"caption of {row.content}"


def captions(rows: list[Row]) -> list[str]:
    return [caption(row) for row in rows]


def nothing(row: Row) -> None:
    return None


def give_content(row: Row) -> Any:
    return row.content


def noting(row: Row) -> str:
    note(f"start {row.id} {current().attempt} {os.getpid()}")
    time.sleep(0.05)
    note(f"end {row.id}")
    return "noted"


def by_content(row: Row) -> Any:
    """Does what the row says."""
    key = current().key
    note(f"{key[0]} {current().attempt} {os.getpid()} {row.content} {current().idempotency_key}")
    match str(row.content).split(":"):
        case ["ok"]:
            return "fine"
        case ["raise"]:
            raise ValueError("as the row says")
        case ["once"] if current().attempt == 1:
            raise ValueError("the first time")
        case ["fail", reason]:
            raise Fail(reason)
        case ["later", seconds] if current().attempt == 1:
            raise Later(float(seconds))
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["killonce"] if current().attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["segv"]:
            ctypes.string_at(0)
        case ["abort"]:
            os.abort()
        case ["_exit"]:
            os._exit(0)
        case ["exit"]:
            sys.exit(3)
        case ["interrupt"]:
            raise KeyboardInterrupt
        case ["memory"]:
            raise MemoryError
        case ["recursion"]:
            raise RecursionError
        case ["generator"]:
            raise GeneratorExit
        case ["gate", path]:
            while not Path(path).exists():
                time.sleep(0.01)
        case ["sleep", seconds]:
            time.sleep(float(seconds))
        case ["stubborn", seconds]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            end = time.monotonic() + float(seconds)
            while time.monotonic() < end:
                pass
        case ["print", text]:
            print(text)
            logging.getLogger("mission").info("logged %s", text)
            raise ValueError("after printing")
    return "fine"


def gated(row: Row) -> str:
    """Waits until the file that the row names is there."""
    note(f"start {row.id} {current().attempt} {os.getpid()}")
    gate = Path(row.content)
    while not gate.exists():
        time.sleep(0.01)
    note(f"end {row.id} {current().attempt} {os.getpid()}")
    return "passed"


POOL_ERRORS = {
    "CancelledError": CancelledError("a future of the task's own"),
    "BrokenProcessPool": BrokenProcessPool("a pool of the task's own"),
    "WorkerStartError": WorkerStartError("a pool of the task's own"),
    "WorkerLost": WorkerLost(1, -9),
    "TimeLimitExceeded": TimeLimitExceeded(1.0),
}


def raise_as_pools_do(row: Row) -> None:
    """What a pool or executor that the task itself uses may raise."""
    raise POOL_ERRORS[row.content]


def own_key(row: Row) -> str:
    """Fails when it is told of another row than its own."""
    for _ in range(20):
        time.sleep(0.001)
        assert current().key == (row.id,)
    return str(current().key[0])


class Odd(Exception):
    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)


def raise_odd(row: Row) -> None:
    raise Odd(1, 2)


def unpicklable(row: Row) -> Any:
    return lambda: row


def load_model(name: str = "model") -> None:
    note(f"load {name} {os.getpid()}")
    loaded.append(name)


def use_model(row: Row) -> str:
    return f"{loaded[-1]} on {row.id}"


def broken_initializer() -> None:
    raise RuntimeError("the model file is gone")


def only_the_first_can_start() -> None:
    note(f"start {current().worker}")
    if current().worker:
        raise RuntimeError("there is one device only")


def hang_in_all_but_the_first() -> None:
    note(f"load {current().worker} {os.getpid()}")
    while current().worker:
        time.sleep(60)


def hang() -> None:
    note(f"load {os.getpid()}")
    while True:
        time.sleep(60)


def sick_at_first(row: Row) -> str:
    """The first worker fails every row from its second on, as after an error that ruined its device."""
    sick = notes().with_name("sick")
    if current().worker == 0 and not sick.exists():
        sick.write_text(str(os.getpid()))
    time.sleep(0.005)
    if sick.exists() and sick.read_text() == str(os.getpid()):
        raise RuntimeError("the device is in a bad state")
    return "fine"


def ruined_device(row: Row) -> str:
    note(f"{row.id} {os.getpid()}")
    if row.content == "ruin":
        loaded.append("ruined")
    if "ruined" in loaded:
        raise RuntimeError("CUDA error: device-side assert triggered")
    return "fine"


async def coroutine(row: Row) -> None:
    return None


def forks(row: Row) -> str:
    """Forks, and the child ends as the row says."""
    note(row.id)
    child = os.fork()
    if not child:
        match row.content:
            case "exit":
                sys.exit(0)
            case "raise":
                raise ValueError("in the child")
        return "from the child"
    if row.content == "wait":
        os.waitpid(child, 0)
    return f"done by {os.getpid()}"


def forks_for_all(rows: list[Row]) -> list[str]:
    if not os.fork():
        raise ValueError("in the child")
    return [str(note(row.id)) for row in rows]


def initializer_that_forks() -> None:
    os.fork()
