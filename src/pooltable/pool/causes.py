"""Why a worker died, as far as anybody can tell from outside."""

from __future__ import annotations

import os
import resource
import signal
import traceback
from typing import TYPE_CHECKING

from pooltable.errors import UnguardedMain, WorkerStartError
from pooltable.pool.setup import remedy
from pooltable.pool.worker import CLOSED_BY_CALL

if TYPE_CHECKING:
    from pooltable.pool.process import WorkerProcess


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


def used_up_cpu_time(pid: int, seconds: float) -> str | None:
    """The cause in words if a process that has just died had used up its limit of CPU time; to be asked before it is
    waited for. `seconds`: how long it has lived.

    The kernel answers with SIGKILL, as it does when memory is short.
    """
    used: float | None = None
    try:
        limit = resource.prlimit(pid, resource.RLIMIT_CPU)[1]
        if limit != resource.RLIM_INFINITY:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        # A fork server has waited for it already. Its limit was ours unless it had set another one.
        limit = resource.getrlimit(resource.RLIMIT_CPU)[1]
        used = seconds * (os.cpu_count() or 1)
    # The kernel counts whole ticks for the limit, and less than that for what it tells.
    if limit == resource.RLIM_INFINITY or used is None or used < 0.75 * limit:
        return None
    return f"most likely it used up its CPU time, which is limited to {limit} s (RLIMIT_CPU, ulimit -t)"


def likely_cause(exitcode: int | None, out_of_memory: bool) -> str | None:
    """The likely cause of an end that nobody here brought about, in a few words."""
    if exitcode is None:
        return "its exit code was taken by somebody else who waits for all children"
    if exitcode == -signal.SIGKILL:
        if out_of_memory:
            return "out of memory: the kernel killed it"
        return "most likely out of memory, or somebody killed it"
    if exitcode == -signal.SIGXCPU:
        return "it used up its CPU time (RLIMIT_CPU, ulimit -t)"
    if exitcode in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL, -signal.SIGFPE):
        return "a crash in native code; its stack is with what the worker printed"
    if exitcode == CLOSED_BY_CALL:
        return "the call closed the file descriptors of its process"
    if exitcode >= 0:
        return "the call ended its process"
    return "somebody sent it the signal"


def detail_of(worker: WorkerProcess) -> str:
    """What is known of its end beside its exit code."""
    if worker.failure is not None:
        return str(worker.failure[0][2])
    return worker.cause or (str(worker.doom) if worker.doom is not None else "")


def start_error(error: BaseException | None, worker: WorkerProcess | None) -> WorkerStartError | UnguardedMain:
    """That no worker can be started, and why: what the system said, or what became of the last one."""
    if worker is None:
        text = "".join(traceback.format_exception(error))
        return WorkerStartError(f"no worker can be started: {type(error).__name__}: {error}", text)
    if worker.failure is None:
        how = likely_cause(worker.exitcode, False)
        return WorkerStartError(
            f"no worker can be started: worker {worker.pid} ended with exit code {worker.exitcode} before its first"
            " call" + (f" ({how})" if how and (worker.exitcode or 0) < 0 else "")
        )
    described, unguarded = worker.failure
    if unguarded:
        return UnguardedMain(described[1])
    told = f"{described[0]}: {described[1]}{remedy(described[0])}"
    return WorkerStartError(f"no worker can be started: {told}", described[2])
