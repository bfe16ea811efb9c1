"""The batch functions that the runner's tests run; a module of their own, since workers import it by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pooltable import Fail, Later, current
from pooltable.rows import Row
from tests.runner.missions import note

Rows = list[Row]


def note_rows(rows: Rows) -> None:
    """One line for each call: its keys and its process."""
    note(f"{','.join(str(row.id) for row in rows)} {os.getpid()}")


def captions(rows: Rows) -> list[str]:
    note_rows(rows)
    return [f"caption of {row.content}" for row in rows]


def patient_captions(rows: Rows) -> list[str]:
    """Waits until there is more to be had than one batch."""
    while not Path(rows[0].content).exists():
        time.sleep(0.01)
    return captions(rows)


def by_content(rows: Rows) -> Any:
    """Does with each row, or with all of them, what it says."""
    note_rows(rows)
    return [_one(row) for row in rows]


def _one(row: Row) -> Any:
    print(f"looking at {row.id}", flush=True)
    again = {attempt.key: attempt.attempt for attempt in current().rows}[(row.id,)] > 1
    match str(row.content).split(":"):
        case ["error"]:
            return ValueError(f"row {row.id} as an object")
        case ["raise"]:
            raise ValueError(f"row {row.id} raised")
        case ["fail"]:
            return Fail("as the row says")
        case ["later"] if not again:
            return Later(0.01)
        case ["lambda"]:
            return lambda: row
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["exit"]:
            sys.exit(3)
        case ["sleep"]:
            time.sleep(60)
        case ["ruin"]:
            raise RuntimeError("CUDA error: device-side assert triggered")
    return f"fine {row.id}"


def too_few(rows: Rows) -> list[str]:
    note_rows(rows)
    return ["only one"]


def no_list(rows: Rows) -> Any:
    return {row.id: "by key" for row in rows}


def nothing(rows: Rows) -> None:
    note_rows(rows)


def three_fit(rows: Rows) -> list[str]:
    note_rows(rows)
    if len(rows) > 3:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return ["fits"] * len(rows)


def one_is_too_much(rows: Rows) -> list[str]:
    note_rows(rows)
    if any(row.content == "huge" for row in rows):
        raise MemoryError
    return ["fits"] * len(rows)


def own_keys(rows: Rows) -> list[str]:
    """What `current()` says, beside the row that it says it of."""
    here = current()
    return [
        f"{row.id} {attempt.key[0]} {attempt.attempt} {len(here.key)}"
        for row, attempt in zip(rows, here.rows, strict=True)
    ]
