"""Lets Python's garbage collector look more rarely while a run is under way.

By default it looks after 700 new objects, and a runner makes some ten for each of the thousand rows that it holds:
a fifth of its time went there. What it makes has no cycles. A program that chose a threshold of its own keeps it.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# In objects that were made and are still there: a few megabytes.
THRESHOLD = 20_000
DEFAULTS = (700, 2000)  # of Python before and from 3.13 on

_lock = threading.Lock()
_runs = 0
_before: tuple[int, int, int] | None = None


@contextmanager
def looks_rarely() -> Iterator[None]:
    """Inside of it the collector looks after `THRESHOLD` objects; afterwards as before, once no run is left."""
    global _runs, _before
    with _lock:
        _runs += 1
        found = gc.get_threshold()
        if _runs == 1 and found[0] in DEFAULTS:
            _before = found
            gc.set_threshold(THRESHOLD, *found[1:])
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            # Somebody may have chosen another one meanwhile.
            if not _runs and _before is not None and gc.get_threshold()[0] == THRESHOLD:
                gc.set_threshold(*_before)
            if not _runs:
                _before = None
