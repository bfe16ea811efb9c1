"""Why a worker died, as far as anybody can tell from outside."""

from __future__ import annotations

import signal

from pooltable.pool.worker import CLOSED_BY_CALL


class OutOfMemoryCounter:
    """How many processes of this cgroup the kernel has killed for want of memory, as far as it is told."""

    def __init__(self) -> None:
        self._path, self._word = _counter_file()
        self._seen = self._read()

    def rose(self) -> bool:
        """Whether there was another one since the last question."""
        now = self._read()
        rose = now > self._seen
        self._seen = now
        return rose

    def _read(self) -> int:
        if self._path is None:
            return 0
        try:
            with open(self._path, encoding="ascii") as file:
                for row in file:
                    word, _, count = row.partition(" ")
                    if word == self._word:
                        return int(count)
        except (OSError, ValueError):
            pass
        return 0


def _counter_file() -> tuple[str | None, str]:
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            rows = [row.rstrip("\n").split(":", 2) for row in file]
    except OSError:
        return None, ""
    for _, controllers, path in rows:
        if "memory" in controllers.split(","):
            return f"/sys/fs/cgroup/memory{path.rstrip('/')}/memory.oom_control", "oom_kill"
    for number, _, path in rows:
        if number == "0":
            return f"/sys/fs/cgroup{path.rstrip('/')}/memory.events", "oom_kill"
    return None, ""


def likely_cause(exitcode: int | None, out_of_memory: bool) -> str | None:
    """The likely cause of an end that nobody here brought about, in a few words."""
    if exitcode is None:
        return "its exit code was taken by somebody else who waits for all children"
    if exitcode == -signal.SIGKILL:
        if out_of_memory:
            return "out of memory: the kernel killed it"
        return "most likely out of memory, or somebody killed it"
    if exitcode in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL, -signal.SIGFPE):
        return "a crash in native code; its stack is on the worker's stderr"
    if exitcode == CLOSED_BY_CALL:
        return "the call closed the file descriptors of its process"
    if exitcode >= 0:
        return "the call ended its process"
    return "somebody sent it the signal"
