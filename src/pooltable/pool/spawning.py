"""How worker processes are started: by multiprocessing's own machinery, so locks, queues and connections may be handed
to an initializer, under any start method.

What differs: the worker itself imports the main module, after it has set its environment and with the error in its
hands, where the standard library would do so before any code of ours could run.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pooltable.pool.setup import Setup


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


def import_path() -> tuple[str, ...]:
    """Where a fresh process is to look for modules, as this one does."""
    return tuple(map(str, _preparation("")["sys_path"]))


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


class Handed:
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


class Task:
    """The setup, then the initializer and its arguments, each unpickled only when the worker asks: the main module must
    be there for the one, and the other needs what the first has done."""

    def __init__(self, setup: Setup, initializer: Any, initargs: tuple[Any, ...], by_value: bool) -> None:
        self._setup = setup
        self._what = (initializer, initargs)
        self._by_value = by_value

    def __reduce__(self) -> tuple[Any, ...]:
        return _PickledTask, (self._dumps(self._setup), self._dumps(self._what))

    def _dumps(self, value: Any) -> bytes:
        if self._by_value:
            from pooltable.pool import byvalue

            return byvalue.dumps(value)
        return bytes(reduction.ForkingPickler.dumps(value))

    def setup(self) -> Setup:
        return self._setup

    def load(self) -> tuple[Any, tuple[Any, ...]]:
        return self._what


class _PickledTask:
    def __init__(self, setup: bytes, pickled: bytes) -> None:
        self._setup = setup
        self._pickled = pickled

    def setup(self) -> Any:
        return reduction.ForkingPickler.loads(self._setup)

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
    _fds: list[int]

    def _launch(self, process_obj: Any) -> None:
        payload = _payload(self, process_obj)
        with _start_method_left_open():
            self.sentinel, writer = process_obj.server.connect_to_new_process(self._fds)
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
    server: Any = forkserver  # the program's own; or one that has modules preloaded

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "server"}

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _ForkServerPopen(process_obj)


class _SpawnProcess(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _SpawnPopen(process_obj)


_KINDS: dict[str, Any] = {"fork": context.ForkProcess, "spawn": _SpawnProcess, "forkserver": _ForkServerProcess}


def new_process(method: str, server: Any, target: Any, args: tuple[Any, ...], name: str) -> Any:
    """A process that is not started yet; `server` is the fork server it comes from, or None for the program's own."""
    process = _KINDS[method](target=target, args=args, name=name, daemon=False)
    if server is not None:
        process.server = server
    return process


def start_process(process: Any, method: str) -> None:
    """Start it; OSError where the system has no room for it."""
    if method == "forkserver" and process.server is forkserver:
        _spare_main()
    if method == "fork" and sys.version_info >= (3, 12):
        with warnings.catch_warnings():
            # The child touches nothing that another thread may hold: it goes straight into the worker's own loop.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
    else:
        process.start()


def _spare_main() -> None:
    """Let the fork server import the worker's code once, in place of the main module, which it would import too early;
    and the code of `Pool`, which most main modules name."""
    server = forkserver._forkserver
    if getattr(server, "_forkserver_pid", 0) is None and getattr(server, "_preload_modules", None) == ["__main__"]:
        forkserver.set_forkserver_preload(["pooltable.pool.birth", "pooltable.pool.pool"])


def is_being_imported() -> bool:
    """Whether this is a worker that is importing the main module: a pool made now is made in every worker, again and
    again."""
    return bool(getattr(mp_process.current_process(), "_inheriting", False))


def _after_fork() -> None:
    server: Any = forkserver._forkserver
    if getattr(server, "_forkserver_pid", None) is not None:
        # It is the parent's child and not ours: the standard library would wait for it in vain, and raise.
        server._forkserver_pid = None


os.register_at_fork(after_in_child=_after_fork)
