"""Being process 1, as the command of a container is, without an init before it.

    process 1   passes signals on, waits for every process that was left to it
      └── the command itself, as anywhere else

The kernel leaves to process 1 every process whose parent has ended, and signals that it does not handle never arrive.
"""

from __future__ import annotations

import os
import signal
import sys

_PASSED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# In `si_code`: the terminal sent it, and to the command as well.
_BY_KERNEL = 0x80


def step_down() -> None:
    """Goes on in a child, where this is process 1, which itself never returns and ends with the child's exit code."""
    if os.getpid() != 1 or not sys.platform.startswith("linux"):
        return
    # Blocked before there is a child, so that none of its signals is lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_PASSED})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_lead(child))


def _lead(child: int) -> int:
    while True:
        came = signal.sigwaitinfo({signal.SIGCHLD, *_PASSED})
        if came.si_signo != signal.SIGCHLD:
            if came.si_code != _BY_KERNEL:
                os.kill(child, came.si_signo)
            continue
        # One signal may stand for many that ended.
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if ended == 0:
                break
