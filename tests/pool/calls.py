"""The functions that the tests of calls, batches and the environment run in workers.

They are in a module of their own: a worker that imports a test module imports pytest, too, most of its time to start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pooltable.pool.worker import ask_to_be_recycled, identity
from tests.pool.helpers import until


def who() -> Any:
    time.sleep(0.05)
    return identity()


def threads_environment() -> tuple[str | None, str | None, str | None]:
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES")


def recycle() -> int:
    ask_to_be_recycled()
    return os.getpid()


def noted(path: str, number: int, how: str) -> int:
    """Leaves a note; in between it asks for its worker to be recycled, or raises what has the same effect."""
    with open(path, "a") as notes:
        notes.write(f"{number}\n")
    if how == "asks":
        ask_to_be_recycled()
    if how == "raises":
        raise MemoryError(number)
    return number


_kept: Any = None


def keep(value: Any) -> None:
    global _kept
    _kept = value


def use_kept(_: int) -> Any:
    with _kept.get_lock():
        _kept.value += 1
        return _kept.value


def grow(size: int) -> int:
    global _kept
    _kept = bytearray(b"x") * size
    return os.getpid()


def nap_and_pid(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def grow_and_wait(size: int) -> None:
    grow(size)
    time.sleep(60)


def odd_fails(value: int) -> int:
    if value % 2:
        raise ValueError(value)
    return value


class Counted:
    alive = 0

    def __init__(self) -> None:
        type(self).alive += 1

    def __del__(self) -> None:
        type(self).alive -= 1

    def __setstate__(self, state: object) -> None:
        type(self).alive += 1

    def __getstate__(self) -> dict[str, int]:
        return {"x": 1}


def same(value: Any) -> Any:
    return value


def number_once(given: tuple[int, str]) -> int:
    """The number, where a file is named only once there is one of that name."""
    number, gate = given
    if gate:
        until(Path(gate).exists, 60)
    return number


def append_or_sleep(path: str, number: int) -> None:
    with open(path, "a") as file:
        file.write(f"{number}\n")
    if number % 500 == 250:
        time.sleep(0.05)


def variable(name: str) -> str | None:
    return os.environ.get(name)


def variable_of_a_child(name: str) -> str:
    script = f"import os; print(os.environ.get({name!r}))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def seen_at_import(module: str) -> Any:
    return __import__(module).SEEN


def where(module: str) -> str:
    return str(__import__(module).__file__)


def of_this_worker() -> tuple[str | None, str | None]:
    me = identity()
    assert me is not None
    return os.environ.get("CUDA_VISIBLE_DEVICES"), me.device
