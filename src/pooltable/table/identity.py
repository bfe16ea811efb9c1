"""Which process this is, so that another one on the same host can tell whether it still lives.

A pid alone is no identity: it is used again. A boot's id, a pid namespace, a pid and when that process started are one.
"""

from __future__ import annotations

import os
import socket
from functools import cache

import psutil


@cache
def host() -> str:
    return socket.gethostname()


@cache
def boot_id() -> str:
    """The same for all processes since the machine was started."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return f"{host()}-{int(psutil.boot_time())}"


def pid_namespace() -> str:
    """The same for all processes that see the same pids."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def started(pid: int | None = None) -> str | None:
    """When a process of this namespace started, in a form that never changes; "" where that is not shown, None when it
    is gone or only waits to be reaped."""
    pid = os.getpid() if pid is None else pid
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name of the program may hold spaces and brackets; what follows its last bracket does not.
            parts = file.read().rpartition(")")[2].split()
        return None if parts[0] in "ZX" else parts[19]
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return "" if _hidden(pid) else None
    except (OSError, IndexError):
        pass
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return ""


def _hidden(pid: int) -> bool:
    """Whether a process that is not listed is there: one of another user, where /proc is mounted with hidepid."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def lives(pid: int | None, since: str | None) -> bool:
    """Whether the process with this pid and start lives; True where that cannot be told."""
    if pid is None or not since:
        return True
    now = started(pid)
    return now is not None and now in ("", since)


def own_pid() -> int:
    return os.getpid()
