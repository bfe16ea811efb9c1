"""Fork servers that have imported modules before they fork, so that their workers share the memory by copy on write.

    program                                    fork server                        worker
    lend(Wanted)  --- command line --->  prepare(): variables, imports  --fork-->  tells `failure`, if there is one
    give_back(server): the last one ends it

A server is shared by the pools that want the same: the same modules, imported in the same environment. It is the
standard library's own, with something said before it begins.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing import forkserver, process
from typing import Any, NamedTuple

from pooltable.pool.worker import describe


class Wanted(NamedTuple):
    """What a fork server is to be like: `variables` are those that differ from the program's own `environment`."""

    modules: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    path: tuple[str, ...]
    with_devices: bool


def names_of(preload: str | Iterable[str] | None) -> tuple[str, ...]:
    """The modules by name, from a list or from text with commas between. Raises ValueError for what is no name."""
    parts = preload.split(",") if isinstance(preload, str) else list(preload or ())
    names = tuple(part.strip() if isinstance(part, str) else part for part in parts)
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"preload names modules to import, such as numpy, not {name!r}")
        if name == "__main__":
            raise ValueError("preload cannot import the main module: put what is slow to import into one of its own")
    return names


# ---- in the program


class Server(forkserver.ForkServer):
    """A fork server and how many pools use it."""

    _forkserver_pid: int | None

    def __init__(self, wanted: Wanted) -> None:
        super().__init__()
        self.wanted = wanted
        self.users = 0
        self._preload_modules: Any = _Saying(wanted)

    def end(self) -> None:
        """End it now. Its workers are gone; what they left behind must not keep it, and who waits for it, for ever."""
        with suppress(ChildProcessError):
            # Who waits for all children may have taken it away, and its number may be somebody else's by now.
            if self._forkserver_pid is not None and os.waitpid(self._forkserver_pid, os.WNOHANG) == (0, 0):
                os.kill(self._forkserver_pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            self._stop()  # type: ignore[attr-defined]


class _Saying:
    """Stands where the standard library writes the names of modules into a fork server's command: what it says there
    is run first, and gives the names."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    def __bool__(self) -> bool:
        return False  # nothing of the main module is to be told to this server

    def __repr__(self) -> str:
        modules, variables, _, path, with_devices = self._wanted
        module = f"__import__({__name__!r}, fromlist=['prepare'])"
        arguments = f"{modules!r}, {dict(variables)!r}, {with_devices!r}"
        return f"(__import__('sys').path.__setitem__(slice(None), {list(path)!r}), {module}.prepare({arguments}))[1]"


_lock = threading.Lock()
_lent: dict[Wanted, Server] = {}


def lend(wanted: Wanted) -> Server:
    """The fork server that is like this, started now if there is none; to be given back."""
    with _lock:
        server = _lent.get(wanted)
        if server is None:
            server = Server(wanted)
            # Now, because it inherits the program's environment as it is at this moment.
            server.ensure_running()
            _lent[wanted] = server
        server.users += 1
        return server


def give_back(server: Server) -> None:
    """It is used by one pool less; the last one ends it."""
    with _lock:
        server.users -= 1
        if not server.users and _lent.get(server.wanted) is server:
            del _lent[server.wanted]
            server.end()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _lent.clear()  # they are the parent's children, not ours


os.register_at_fork(after_in_child=_after_fork)


# ---- in the fork server

# What went wrong here, as `describe` puts it; who is forked from here tells it in place of running anything.
failure: tuple[Any, ...] | None = None


def prepare(modules: tuple[str, ...], variables: dict[str, str], with_devices: bool) -> list[str]:
    """Import the modules, with these variables set; afterwards there is nothing left for the server to import."""
    global failure
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the program's business, also while this imports
    os.environ.update(variables)
    current: Any = process.current_process()
    current._inheriting = True  # a module that starts a pool when it is imported is told so
    try:
        import pooltable.pool.birth
        import pooltable.pool.pool  # noqa: F401 - what every worker needs

        for name in modules:
            _import(name)
        if with_devices:
            _refuse_started_devices()
        # The collector writes to every object that it visits, and what is written to is shared no more.
        gc.freeze()
    except BaseException as error:
        failure = describe(error)
    finally:
        del current._inheriting
    return []


def _import(name: str) -> None:
    try:
        __import__(name)
    except Exception as error:
        from pooltable.errors import SettingError

        raise SettingError(f"preload cannot import {name}: {type(error).__name__}: {error}") from error


def _refuse_started_devices() -> None:
    """A device that was started before the fork works in no worker, and each is to have its own."""
    asked = getattr(getattr(sys.modules.get("torch"), "cuda", None), "is_initialized", None)
    started = asked is not None and asked()
    if started or any(target.startswith(("/dev/nvidia", "/dev/kfd")) for target in _open_files()):
        from pooltable.errors import SettingError

        raise SettingError(
            "a module of preload has started a CUDA device, which then works in no worker: leave out preload, or "
            "devices, or start the device in the initializer"
        )


def _open_files() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return found
