"""A worker process as its parent sees it: how it is started, told apart from others, killed and buried.

Birth          everything that is the same for all workers of an engine
start(...)     -> WorkerProcess: the process, its socket, its pidfd, the lifeline, the slab and the tokens
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from math import inf
from typing import Any, NamedTuple

from pooltable.pool import wire, worker
from pooltable.pool.devices import Device
from pooltable.pool.ledger import Seat
from pooltable.pool.slab import Slab, Tokens, new_slab, new_tokens
from pooltable.pool.spawning import Handed, Task, new_process, start_process

_PROCESS_GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP, since Linux 6.9


class Birth(NamedTuple):
    """What all workers of one engine have in common when they are started.

    `environment` is the whole of it, as it was when the engine was made; `server` the fork server they come from, or
    None for the program's own.
    """

    method: str
    server: Any
    setup: Any
    initializer: Any
    initargs: tuple[Any, ...]
    processes: int
    threads: int
    environment: dict[str, str]
    devices: tuple[Device, ...]
    capture: str | None
    main: dict[str, Any]
    by_value: bool
    plain_errors: bool
    memory: int | None


class WorkerProcess:
    """One worker process and everything the parent holds of it."""

    def __init__(self, birth: Birth, seat: Seat) -> None:
        self.index = seat.index
        self.seat = seat  # in the ledger
        self.birth = birth
        self.pid = 0
        self.pidfd = -1
        self.lifeline = -1
        self.process: Any = None
        self.exitcode: int | None = None
        self.born = 0.0
        self.done = 0  # calls, in
        self.busy_seconds = 0.0
        self.sent = 0  # bytes
        self.known = 0  # how many of the engine's functions it was told
        self.deaf = self.reset = False  # its socket is closed; or was reset, which may come before its last words
        self.reading = threading.Lock()  # held by the thread that reads from its socket
        self.attended = False  # that is not the I/O thread, but one that waits for the answer
        self.greeted = False  # it has said that it is ready
        self.watched = False  # an alarm will look whether it is silent
        self.mark: tuple[int, int, int] | None = None
        self.limited = (
            0,
            0.0,
            0.0,
        )  # its last call with a time limit: number, limit, when that is over
        self.limit_rings = inf  # when an alarm will look at that
        self.why: Any = ""  # why it ends, if we ended it
        self.cause: str | None = None
        self.doom: BaseException | None = None  # how the call `doomed` ends, which is being killed
        self.doomed = 0
        self.failure: Any = None  # what it reported when its start failed
        ours, theirs = wire.pair()
        self._theirs: Any = theirs
        self._fds: list[int] = []
        try:
            self.channel = wire.channel(ours)
            slab = new_slab()
            self.slab = Slab(os.dup(slab))
            tokens = new_tokens()
            self.tokens = Tokens(tokens)
            reading, self.lifeline = os.pipe()
            self._fds = [slab, reading]
        except OSError:
            ours.close()
            theirs.close()
            raise

    def start(self) -> None:
        """Start the process; OSError where the system has no room for it. Afterwards `pid` is known."""
        birth = self.birth
        slab, reading = self._fds
        device = birth.devices[self.index % len(birth.devices)] if birth.devices else None
        orders = worker.Orders(
            index=self.index,
            processes=birth.processes,
            threads=birth.threads,
            device=device.name_inside if device else None,
            environment={**birth.environment, **device.environment} if device else birth.environment,
            capture=birth.capture,
            main=birth.main,
            by_value=birth.by_value,
            plain_errors=birth.plain_errors,
            memory=birth.memory,
        )
        task = Task(birth.setup, birth.initializer, birth.initargs, birth.by_value)
        handed = (Handed(fd) for fd in (self._theirs.fileno(), reading, slab, self.tokens.fileno()))
        args = (orders, task, *handed)
        self.process = new_process(birth.method, birth.server, worker.main, args, f"PoolWorker-{self.index}")
        try:
            start_process(self.process, birth.method)
            self.pid = self.process.pid
            self.pidfd = _open_pidfd(self.pid)
        finally:
            self._theirs.close()
            for fd in self._fds:
                os.close(fd)
            self._fds = []

    @property
    def is_unguarded(self) -> bool:
        """Whether it met a pool again while it imported the main module."""
        return self.failure is not None and bool(self.failure[1])

    @property
    def sentinel(self) -> int:
        """The descriptor that becomes readable when the process has ended."""
        return self.pidfd if self.pidfd >= 0 else int(self.process.sentinel)

    def signal(self, number: int) -> None:
        """Send a signal to this very process, never to another one that was given its pid."""
        try:
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, number)
            elif self.process is not None and self.process.exitcode is None:
                os.kill(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def kill_group(self) -> None:
        """Kill the process and what it started, also when it is dead itself already."""
        try:
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL, None, _PROCESS_GROUP)
                return
        except (ProcessLookupError, PermissionError):
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                return
        # An older kernel. The number of a process group is not given out again while the group has members, and process
        # numbers are given out in turn, so within the milliseconds since its leader died this is still the same group.
        try:
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.signal(signal.SIGKILL)

    def reap(self, seconds: float) -> None:
        """Learn the exit code of the process, which has ended."""
        self.process.join(seconds)
        self.exitcode = self.process.exitcode

    def close(self) -> None:
        """Close every descriptor held of it."""
        self.channel.close()
        self._theirs.close()
        for fd in (self.pidfd, self.lifeline, *self._fds):
            if fd >= 0:
                os.close(fd)
        self._fds = []
        self.pidfd = self.lifeline = -1
        self.tokens.close()
        self.slab.close()
        if self.process is not None and self.exitcode is not None:
            # Not process.close(): at the end of the program multiprocessing may be about to join it.
            self.process._popen.close()

    def forget(self) -> None:
        """Close the parent's descriptors in a child that was forked from it: with them it would keep workers alive."""
        self.channel.close()
        for fd in (self.pidfd, self.lifeline):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.lifeline = -1


def _open_pidfd(pid: int) -> int:
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
