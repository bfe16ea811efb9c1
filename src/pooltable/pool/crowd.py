"""Whether this process runs more threads than it owns, and whose they are.

A thread runs when it has used the processor since the last look; threads that only exist harm nobody.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import Counter
from importlib.util import find_spec

# A thread runs when it has used at least this part of a core: many on few cores get little each.
_PART = 0.03
_LEAST_TICKS = 2
# Libraries that start threads of their own, by the names of their files.
_LIBRARIES = {
    "onnxruntime": "onnxruntime",
    "libtorch_cpu": "torch",
    "cv2": "opencv",
    "openblas": "openblas",
    "libmkl_": "mkl",
    "libtbb": "tbb",
    "libiomp5": "iomp",
    "libgomp": "gomp",
}


class Crowd:
    """Compares from one look to the next what each thread of this process has used."""

    def __init__(self, owned: int) -> None:
        self._owned = owned
        self._ticks = _ticks_by_thread()

    def look(self, seconds: float) -> tuple[int, list[tuple[str, int]]] | None:
        """How many threads have run in the `seconds` since the last look, and whose they are; None if no more than this
        process owns."""
        before, self._ticks = self._ticks, _ticks_by_thread()
        least = max(_LEAST_TICKS, _PART * seconds * os.sysconf("SC_CLK_TCK"))
        running = [thread for thread, ticks in self._ticks.items() if ticks - before.get(thread, 0) >= least]
        if len(running) <= self._owned:
            return None
        main = os.getpid()
        return len(running), _pools(self._owned) or _names([thread for thread in running if thread != main])


def _ticks_by_thread() -> dict[int, int]:
    found: dict[int, int] = {}
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/self/task/{thread}/stat", "rb") as file:
                words = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it has ended
        found[int(thread)] = int(words[11]) + int(words[12])
    return found


def _pools(owned: int) -> list[tuple[str, int]]:
    """The thread pools of libraries that are larger than they should be, as threadpoolctl knows them."""
    if "threadpoolctl" not in sys.modules and find_spec("threadpoolctl") is None:
        return []
    from threadpoolctl import threadpool_info

    return [(pool["internal_api"], pool["num_threads"]) for pool in threadpool_info() if pool["num_threads"] > owned]


def _names(threads: list[int]) -> list[tuple[str, int]]:
    """Threads by name: Python's own by theirs, native ones by theirs, nameless ones by the libraries that are there."""
    python = {thread.native_id: thread.name for thread in threading.enumerate()}
    nameless = _name(os.getpid())
    names = Counter[str]()
    for thread in threads:
        name = python.get(thread) or _name(thread)
        names[_libraries() if name == nameless else re.sub(r"[-_:\d]+$", "", name)] += 1
    return names.most_common()


def _name(thread: int) -> str:
    try:
        with open(f"/proc/self/task/{thread}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _libraries() -> str:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            files = {os.path.basename(row.rsplit(" ", 1)[-1].strip()) for row in file if "/" in row}
    except OSError:
        return ""
    found = {name for part, name in _LIBRARIES.items() if any(part in file for file in files)}
    return " or ".join(sorted(found)) or "threads without a name"
