"""Tells at once when another runner's process on this host ends, instead of at the next look.

It only tells that it is time to look: who is dead is judged there, by pid and start, so a pid that is used again
deceives nobody.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Set

from pooltable.signals import leave_to_main_thread
from pooltable.table import identity

Process = tuple[int, str]  # its pid, and when it started


class Neighbours:
    """Calls `told`, on a thread of its own, when one of the processes ends that it was shown; `ended` is True then."""

    def __init__(self, told: Callable[[], None]) -> None:
        self.ended = False
        self._told = told
        self._shown: Set[Process] = frozenset()
        self._closing = False
        self._poke: int | None = None
        self._thread: threading.Thread | None = None

    def show(self, processes: Set[Process]) -> None:
        """From now on these are watched, and no others; none where the system cannot do it."""
        if processes == self._shown or not hasattr(os, "pidfd_open"):
            return
        self._shown = processes
        if self._poke is None:
            try:
                poked, self._poke = os.pipe()
            except OSError:
                return  # no descriptors left: they are looked at now and then, all the same
            self._thread = threading.Thread(target=self._work, args=(poked,), name="pooltable-neighbours", daemon=True)
            self._thread.start()
        else:
            os.write(self._poke, b".")

    def close(self) -> None:
        if self._poke is not None and self._thread is not None:
            self._closing = True
            # Closing alone would not wake the thread where a process that was forked meanwhile has this end as well.
            os.write(self._poke, b".")
            self._thread.join()
            os.close(self._poke)
            self._poke = None

    def _work(self, poked: int) -> None:
        leave_to_main_thread()
        watched: dict[Process, int | None] = {}  # None: it has ended, and that was told
        poll = select.poll()
        poll.register(poked, select.POLLIN)

        def let_go(process: Process) -> None:
            descriptor = watched[process]
            if descriptor is not None:
                poll.unregister(descriptor)
                os.close(descriptor)
            watched[process] = None

        while not self._closing:
            shown = self._shown
            for process in watched.keys() - shown:
                let_go(process)
                del watched[process]
            gone = False  # one that ended between the look for the dead and now
            for process in shown - watched.keys():
                watched[process] = descriptor = _descriptor(*process)
                if descriptor is not None:
                    poll.register(descriptor, select.POLLIN)
                gone = gone or not identity.lives(*process)
            ready = {descriptor for descriptor, _ in poll.poll(0 if gone else None)}
            if poked in ready:
                os.read(poked, 4096)
            ended = [process for process, descriptor in watched.items() if descriptor in ready]
            for process in ended:
                let_go(process)
            if ended or gone:
                self.ended = True
                self._told()
        for process in watched:
            let_go(process)
        os.close(poked)


def _descriptor(pid: int, since: str) -> int | None:
    """What becomes readable when the process ends; None where it has, or cannot be watched."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    # Looked at after it was opened: then it is this process that the descriptor stands for.
    if identity.lives(pid, since):
        return descriptor
    os.close(descriptor)
    return None
