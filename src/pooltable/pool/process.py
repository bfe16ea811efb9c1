"""A worker process as its parent sees it: how it is started, told apart from others, killed and buried.

    Birth          everything that is the same for all workers of an engine
    start(...)     -> WorkerProcess: the process, its socket, its pidfd, the lifeline, the slab and the tokens

Processes are started with multiprocessing's own machinery, so locks, queues and connections may be handed to an
initializer, under any start method. What differs: the worker itself imports the main module, after it has set its
environment and with the error in its hands, where the standard library would do so before any code of ours could run.
"""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import (
    context,
    forkserver,
    popen_forkserver,
    popen_spawn_posix,
    process as mp_process,
    reduction,
    resource_tracker,
    spawn,
    util,
)
from typing import Any, NamedTuple

from pooltable.pool import wire, worker
from pooltable.pool.ledger import Seat
from pooltable.pool.slab import Slab, Tokens, new_slab, new_tokens

_PROCESS_GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP, since Linux 6.9


class Birth(NamedTuple):
    """What all workers of one engine have in common when they are started."""

    method: str
    initializer: Any
    initargs: tuple[Any, ...]
    processes: int
    threads: int
    environment: dict[str, str]
    devices: tuple[str, ...]
    capture: str | None
    main: dict[str, Any]
    by_value: bool
    plain_errors: bool
    memory: int | None


def start_method(wanted: Any) -> str:
    """The start method: that of `context=`, else the one the program has set, else forkserver where there is one."""
    if wanted is not None:
        method = wanted if isinstance(wanted, str) else wanted.get_start_method()
        if method not in multiprocessing.get_all_start_methods():
            raise ValueError(f"cannot find context for {method!r}")
        return str(method)
    chosen = multiprocessing.get_start_method(allow_none=True)
    if chosen is not None:
        return chosen
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


_MAIN = ("init_main_from_name", "init_main_from_path")


def main_module() -> dict[str, Any]:
    """How a worker is to import the main module. Asked when the engine is made: at the end of its script, Python takes
    the file name away from the main module."""
    preparation = _preparation("")
    return {key: preparation[key] for key in _MAIN if key in preparation}


@contextmanager
def _start_method_left_open() -> Iterator[bool]:
    """Whether the program has chosen no start method; and then it still has not, afterwards.

    The standard library asks for it in passing, which settles it: every later pool would fork.
    """
    is_open = multiprocessing.get_start_method(allow_none=True) is None
    try:
        yield is_open
    finally:
        if is_open:
            multiprocessing.set_start_method(None, force=True)


def _preparation(name: str) -> dict[str, Any]:
    """What the standard library has every fresh process know."""
    with _start_method_left_open() as is_open:
        preparation = spawn.get_preparation_data(name)
    if is_open:
        preparation.pop("start_method", None)
    return preparation


class _Handed:
    """A descriptor on its way to the worker; `take` gives its number there."""

    def __init__(self, fd: int) -> None:
        self._fd: Any = fd

    def __getstate__(self) -> dict[str, Any]:
        return {"_fd": reduction.DupFd(self._fd) if self._fd >= 0 else None}

    def take(self) -> int:
        if self._fd is None or self._fd == -1:
            return -1
        # A forked worker gets a descriptor of its own: the parent's object for this one may be collected there and
        # close it.
        return os.dup(self._fd) if isinstance(self._fd, int) else int(self._fd.detach())


class _Task:
    """The initializer and its arguments, unpickled only when the worker asks: by then its main module is there."""

    def __init__(self, initializer: Any, initargs: tuple[Any, ...], by_value: bool) -> None:
        self._what = (initializer, initargs)
        self._by_value = by_value

    def __reduce__(self) -> tuple[Any, ...]:
        if self._by_value:
            from pooltable.pool import byvalue

            return _PickledTask, (byvalue.dumps(self._what),)
        return _PickledTask, (bytes(reduction.ForkingPickler.dumps(self._what)),)

    def load(self) -> tuple[Any, tuple[Any, ...]]:
        return self._what


class _PickledTask:
    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def load(self) -> Any:
        return reduction.ForkingPickler.loads(self._pickled)


def _payload(popen: Any, process: Any) -> bytes:
    """What the standard library sends to a fresh process, less the main module: the worker imports that itself."""
    preparation = _preparation(process._name)
    for key in _MAIN:
        preparation.pop(key, None)
    file = io.BytesIO()
    context.set_spawning_popen(popen)
    try:
        reduction.dump(preparation, file)
        reduction.dump(process, file)
    finally:
        context.set_spawning_popen(None)
    return file.getvalue()


class _ForkServerPopen(popen_forkserver.Popen):
    def _launch(self, process_obj: Any) -> None:
        payload = _payload(self, process_obj)
        with _start_method_left_open():
            self.sentinel, writer = forkserver.connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        self.finalizer = util.Finalize(self, util.close_fds, (os.dup(writer), self.sentinel))  # type: ignore[attr-defined]
        with open(writer, "wb") as file:
            file.write(payload)
        self.pid = forkserver.read_signed(self.sentinel)


class _SpawnPopen(popen_spawn_posix.Popen):
    def _launch(self, process_obj: Any) -> None:
        tracker = resource_tracker.getfd()
        self._fds: list[int] = [*self._fds, tracker or 0]
        payload = _payload(self, process_obj)
        sentinel, child_writes = os.pipe()
        child_reads, writer = os.pipe()
        self.finalizer = util.Finalize(self, util.close_fds, (sentinel, writer))  # type: ignore[attr-defined]
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=child_reads)
            self._fds.extend([child_reads, child_writes])
            self.pid = util.spawnv_passfds(spawn.get_executable(), command, self._fds)  # type: ignore[arg-type]
        finally:
            os.close(child_reads)
            os.close(child_writes)
        self.sentinel = sentinel
        with open(writer, "wb", closefd=False) as file:
            file.write(payload)


class _ForkServerProcess(context.ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _ForkServerPopen(process_obj)


class _SpawnProcess(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _SpawnPopen(process_obj)


_KINDS: dict[str, Any] = {"fork": context.ForkProcess, "spawn": _SpawnProcess, "forkserver": _ForkServerProcess}


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
        self.known = 0  # how many of the engine's functions it was told
        self.deaf = self.reset = False  # its socket is closed; or was reset, which may come before its last words
        self.reading = threading.Lock()  # held by the thread that reads from its socket
        self.attended = False  # that is not the I/O thread, but one that waits for the answer
        self.watched = False  # an alarm will look whether it is silent
        self.mark: tuple[int, int, int] | None = None
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
            device=_name_inside(device),
            environment={**birth.environment, **_environment_of(device)},
            capture=birth.capture,
            main=birth.main,
            by_value=birth.by_value,
            plain_errors=birth.plain_errors,
            memory=birth.memory,
        )
        task = _Task(birth.initializer, birth.initargs, birth.by_value)
        handed = (_Handed(fd) for fd in (self._theirs.fileno(), reading, slab, self.tokens.fileno()))
        self.process = _KINDS[birth.method](
            target=worker.main, args=(orders, task, *handed), name=f"PoolWorker-{self.index}", daemon=False
        )
        try:
            _start(self.process, birth.method)
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


def _start(process: Any, method: str) -> None:
    if method == "forkserver":
        _preload()
    if method == "fork" and sys.version_info >= (3, 12):
        with warnings.catch_warnings():
            # The child touches nothing that another thread may hold: it goes straight into the worker's own loop.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
    else:
        process.start()


def _preload() -> None:
    """Let the fork server import the worker's code once, in place of the main module, which it would import too
    early."""
    server = forkserver._forkserver
    if getattr(server, "_forkserver_pid", 0) is None and getattr(server, "_preload_modules", None) == ["__main__"]:
        forkserver.set_forkserver_preload(["pooltable.pool.birth"])


def _open_pidfd(pid: int) -> int:
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def _environment_of(device: str | None) -> dict[str, str]:
    if device is None:
        return {}
    kind, _, number = device.partition(":")
    if kind == "cuda":
        return {"CUDA_VISIBLE_DEVICES": number or "0"}
    return {"CUDA_VISIBLE_DEVICES": ""} if kind == "cpu" else {}


def _name_inside(device: str | None) -> str | None:
    # A worker that sees one CUDA device finds it under the number 0.
    return "cuda:0" if device is not None and device.startswith("cuda") else device


def is_being_imported() -> bool:
    """Whether this is a worker that is importing the main module: a pool made now is made in every worker, again and
    again."""
    return bool(getattr(mp_process.current_process(), "_inheriting", False))
