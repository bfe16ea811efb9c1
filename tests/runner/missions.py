"""The tasks that the runner's tests run; a module of their own, since workers import it by name."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pooltable import Fail, Later, current
from pooltable.rows import Row

loaded: list[str] = []


def note(text: object) -> None:
    """One line in the test's notes; whole, since it is one write to a file opened for appending."""
    descriptor = os.open(os.environ["VIDEOS_NOTE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def caption(row: Row) -> str:
    return f"caption of {row.content}"


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
    return f"{loaded[0]} on {row.id}"


def broken_initializer() -> None:
    raise RuntimeError("the model file is gone")


async def coroutine(row: Row) -> None:
    return None
