"""Tells when a file is written to, without looking again and again: inotify, where the kernel has it.

A database in a file has no way to call us; its file, or the log beside it, is written by every commit.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
from collections.abc import Callable, Sequence

from pooltable.signals import leave_to_main_thread

_IN_MODIFY = 0x2
# The log is written first and the commit is seen after the flush, which takes from 0.1 ms to some ten: tell again and
# again for so long, until the change was found.
ECHO_SECONDS = (0.0005, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
# A runner that writes itself causes events without end: between two that nobody waits for, the thread rests.
REST_SECONDS = 0.02


class FileWatch:
    """Calls `changed`, on a thread of its own, when one of `paths` was written to while somebody listens.

    It calls again, with growing pauses, until it is told to `rest` because the change was found.
    """

    def __init__(self, paths: Sequence[str], changed: Callable[[], None]) -> None:
        """Raises OSError where files cannot be watched."""
        self._changed = changed
        self._listening = False
        self._descriptor = _inotify(paths)
        self._end_read, self._end_write = os.pipe()
        self._thread = threading.Thread(target=self._work, name="pooltable-watch", daemon=True)
        self._thread.start()

    def listen(self) -> None:
        """Tell of the next change."""
        self._listening = True

    def rest(self) -> None:
        """The change was found, or changes are our own now: tell of none."""
        self._listening = False

    def close(self) -> None:
        os.close(self._end_write)
        self._thread.join()
        os.close(self._end_read)
        os.close(self._descriptor)

    def _work(self) -> None:
        leave_to_main_thread()
        # poll and not select, which knows no descriptors above 1023
        both = select.poll()
        both.register(self._descriptor, select.POLLIN)
        both.register(self._end_read)
        end = select.poll()
        end.register(self._end_read)
        while True:
            if any(descriptor == self._end_read for descriptor, _ in both.poll()):
                return
            os.read(self._descriptor, 65536)
            for seconds in ECHO_SECONDS if self._listening else (REST_SECONDS,):
                if end.poll(1000 * seconds):
                    return
                if not self._listening:
                    break
                self._changed()


def _inotify(paths: Sequence[str]) -> int:
    """A descriptor that is readable once one of the files was written to; those that do not exist are left out."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    except AttributeError:
        raise OSError("this system has no inotify") from None
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    watched = [path for path in paths if libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_MODIFY) >= 0]
    if not watched:
        os.close(descriptor)
        raise OSError(f"none of {', '.join(paths)} can be watched")
    return int(descriptor)
