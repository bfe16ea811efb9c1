"""What a worker does before its first call: settle down, import the main module, set up, run the initializer.

The order matters: first whatever must hold for user code (session, environment, captured output), then user code.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from pooltable.pool import forked
from pooltable.pool.worker import Orders, describe, dump_signal

_SETSIG = 10  # F_SETSIG, which Python's fcntl module only knows on some systems


def settle(orders: Orders, lifeline: int) -> None:
    """Make this process a worker: a session of its own, dead with its parent, its environment set."""
    try:
        # Away from the terminal: Ctrl-C is the parent's business, and a mere process group would stop at reading
        # /dev/tty.
        os.setsid()
    except OSError:
        pass
    _die_with_parent(lifeline)
    for number, handler in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        signal.signal(number, handler)  # a forked worker would keep the parent's
    signal.set_wakeup_fd(-1)
    _take_over(orders.environment)
    stacks = 2
    if orders.capture is not None:
        from pooltable.pool import capture

        stacks = capture.install(orders.capture, orders.index)
    _watch_crashes(stacks)


def _take_over(environment: dict[str, str]) -> None:
    """Give this process this environment and no other: a fork server is older than what the program has set since."""
    zone = os.environ.get("TZ")
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if os.environ.get("TZ") != zone:
        import time

        time.tzset()


def _die_with_parent(lifeline: int) -> None:
    """See to it that this process is killed when the last writer of the pipe `lifeline` is gone.

    The kernel does it, so it also works while C code holds the interpreter lock; a watching thread would not get to
    run.
    """
    import fcntl
    import select

    if sys.platform == "linux":
        # With its group, because a command that a task has started must not go on for a row that is run again.
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp() if os.getpgrp() == os.getpid() else os.getpid())
        fcntl.fcntl(lifeline, _SETSIG, int(signal.SIGKILL))
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        poll = select.poll()
        poll.register(lifeline, select.POLLIN)
        if poll.poll(0):
            os._exit(1)  # the parent died before there was anybody to be told
        return
    import threading

    def watch() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="pooltable-lifeline", daemon=True).start()


def _watch_crashes(stacks: int) -> None:
    """Write the stacks of a crash, and those that the parent asks for, to the descriptor `stacks`."""
    import faulthandler

    try:
        faulthandler.enable(file=stacks)
        if hasattr(faulthandler, "register"):
            faulthandler.register(dump_signal(), file=stacks, chain=False)
    except (OSError, ValueError):
        pass  # without a stderr there is nowhere to write them


def prepare(orders: Orders, task: Any, own: Any) -> tuple[Any, ...] | None:
    """Run the user's code that comes before the first call; None, or what went wrong: described, unguarded main or
    not. A copy of this process that it forks off ends here."""
    failure = _failure_of_the_server()
    if failure is not None:
        return failure, False
    try:
        if orders.by_value:
            from pooltable.pool import byvalue

            byvalue.remember()
        else:
            _import_main(orders.main)
        setup = task.setup()
        if setup is not None:
            from pooltable.pool.setup import call

            call(setup)
        initializer, initargs = task.load()
        if initializer is not None:
            initializer(*initargs)
        if not own[0]:
            forked.leave(None)
        _tell_libraries(orders.threads)
    except BaseException as error:
        if not own[0]:
            forked.leave(error)
        return describe(error), _is_unguarded(error)
    return None


def _failure_of_the_server() -> tuple[Any, ...] | None:
    """What went wrong in the fork server that this process comes from, before anything was forked."""
    preload = sys.modules.get("pooltable.pool.preload")
    return None if preload is None else preload.failure


def _is_unguarded(error: BaseException | None) -> bool:
    errors = sys.modules.get("pooltable.errors")
    return errors is not None and isinstance(error, errors.UnguardedMain)


def _import_main(data: dict[str, Any]) -> None:
    """Import the program's main module under the name __mp_main__, as the standard library does it."""
    from multiprocessing import process, spawn

    current: Any = process.current_process()
    current._inheriting = True  # a pool or process started from here on is the fork bomb of a main without a guard
    try:
        if "init_main_from_name" in data:
            spawn._fixup_main_from_name(data["init_main_from_name"])  # type: ignore[attr-defined]
        elif "init_main_from_path" in data:
            spawn._fixup_main_from_path(data["init_main_from_path"])  # type: ignore[attr-defined]
    finally:
        del current._inheriting


def _tell_libraries(threads: int) -> None:
    """Tell libraries that are loaded by now, and do not read the environment again, how many threads are theirs."""
    if "OMP_NUM_THREADS" not in os.environ:
        return
    for name, attribute in (("torch", "set_num_threads"), ("cv2", "setNumThreads")):
        tell = getattr(sys.modules.get(name), attribute, None)
        if tell is not None:
            tell(threads)
    controller = getattr(sys.modules.get("threadpoolctl"), "threadpool_limits", None)
    if controller is not None:
        controller(threads)
