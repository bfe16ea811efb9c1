"""What the tests of the pool run in workers, and how they wait."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for a condition; its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {condition}"
        time.sleep(0.005)
    return value


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def double(value: Any) -> Any:
    return value * 2


def pid_of() -> int:
    return os.getpid()


def start_method() -> str:
    import multiprocessing

    return multiprocessing.get_start_method()


def nap(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def nap_or_fail(number: int) -> int:
    """Every tenth raises, and one is slow, so that those behind it are taken from the slab and go elsewhere."""
    if number == 150:
        time.sleep(0.2)
    if number % 10 == 0:
        raise ValueError(number)
    return number


def touch_and_sleep(path: str, seconds: float = 60.0) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)


def touch_and_wait(path: str, gate: str) -> None:
    """Half a second at least, and until there is a file of that name."""
    touch_and_sleep(path, 0.5)
    until(Path(gate).exists, 60)


def started(path: Path) -> int:
    """The pid that `touch_and_sleep` wrote there, once it has."""
    return int(until(lambda: path.exists() and path.read_text()))


def die(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    time.sleep(60)
    raise AssertionError


def segfault() -> None:
    ctypes.string_at(0)


def exit_with(code: int) -> None:
    os._exit(code)


def raise_(error: type[BaseException], *args: Any) -> NoReturn:
    raise error(*args)


class TwoArguments(Exception):
    """The exception that hangs multiprocessing.Pool and breaks ProcessPoolExecutor: it pickles and does not
    unpickle."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"{one} and {two}")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Unreducible(Exception):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not to be pickled")


def raise_huge() -> NoReturn:
    raise ValueError("x" * 30_000_000)


def raise_chain(length: int) -> None:
    error: Exception = ValueError(0)
    for number in range(1, length):
        try:
            raise ValueError(number) from error
        except ValueError as next_one:
            error = next_one
    raise error


def recurse() -> None:
    recurse()


class LoadsBadly:
    """Pickles here; raises where it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_, (LookupError, "cannot be loaded")


def give_what_loads_badly() -> LoadsBadly:
    return LoadsBadly()


class DiesWhilePickled:
    def __reduce__(self) -> NoReturn:
        os._exit(9)


def give_what_dies_while_pickled() -> DiesWhilePickled:
    return DiesWhilePickled()


def give_a_lambda() -> Any:
    return lambda: None


def ignore_sigterm_in_c(path: str) -> None:
    """Ignores SIGTERM and sleeps in C code that holds the interpreter lock."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(path).write_text(str(os.getpid()))
    while True:  # a signal whose handler does something ends the sleep
        ctypes.PyDLL(None).sleep(60)


def hold_the_lock(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(60)


def start_children(path: str, then: str) -> None:
    """Starts a process that outlives the call and a fork that keeps every descriptor, then ends as told."""
    import subprocess

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    fork = os.fork()
    if not fork:
        time.sleep(60)
        os._exit(0)
    Path(path).write_text(f"{child.pid} {fork}")
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "sleep":
        time.sleep(60)


def fail_to_start() -> NoReturn:
    raise RuntimeError("no such model")


def fail_unless(path: str) -> None:
    if not Path(path).exists():
        raise RuntimeError("not yet")


def die_at_start() -> None:
    os._exit(5)


def close_all_descriptors(path: str) -> None:
    os.closerange(0, 1000)
    for _ in range(200):
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)


def close_standard_descriptors(path: str) -> str:
    os.closerange(0, 3)
    for _ in range(3):
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    return "done"


def disturb(folder: str) -> str:
    import socket

    os.chdir(folder)
    os.umask(0o077)
    os.environ.clear()
    socket.setdefaulttimeout(0.001)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGALRM})
    return "disturbed"


def read_terminal() -> str:
    try:
        with open("/dev/tty") as terminal:
            return terminal.read(1)
    except OSError:
        return "no terminal"


def pool_inside(value: int) -> list[int]:
    from pooltable import Pool

    with Pool(2) as pool:
        result: list[int] = pool.map(double, range(value))
    pool.join()
    return result


def append(place: tuple[str, int]) -> None:
    with open(place[0], "a") as file:
        file.write("x")


def die_soon() -> None:
    """Lets its worker become ready and die a moment later, while it is idle."""
    threading.Timer(0.05, os._exit, (7,)).start()


def die_soon_unless_first() -> None:
    from pooltable.pool.worker import identity

    me = identity()
    assert me is not None
    if me.index:
        die_soon()


_terminals: list[int] = []


def fork(how: str) -> int:
    if how == "os":
        return os.fork()
    if how == "pty":
        import pty

        pid, terminal = pty.fork()
        _terminals.append(terminal)  # who closes it hangs up
        return pid
    return int(ctypes.PyDLL(None).fork())  # Python is told nothing of this one


def end(then: str) -> str:
    """Returns or raises as told."""
    if then == "exit":
        sys.exit(3)
    if then == "exit with words":
        sys.exit("words")
    if then != "return":
        raise {"raise": ValueError, "generator": GeneratorExit, "interrupt": KeyboardInterrupt}[then]("in the child")
    return "from the child"


def fork_and(how: str, then: str, number: int = 0) -> Any:
    """Forks; the child ends as told, and the parent gives its exit code."""
    child = fork(how)
    if not child:
        return end(then)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    while _terminals:
        os.close(_terminals.pop())
    return code


def fork_and_leave_behind(number: int) -> int:
    """The child of every second one comes back while the parent goes on."""
    if number % 2 and not os.fork():
        sys.exit(0)
    return number


def fork_in_a_pickle(how: str) -> Any:
    return _Forks(how)


class _Forks:
    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(fork_and(self.how, "return")),)


def note_and_fork(path: str, how: str, number: int) -> int:
    """Writes down that it ran, and forks at every third number; the child returns."""
    with open(path, "a") as file:
        file.write(f"{number}\n")
    if number % 3 == 0:
        child = fork(how)
        if child:
            os.waitpid(child, 0)
    return number


def fork_at_start(how: str) -> None:
    fork(how)


def start_a_process() -> int | None:
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=end, args=("exit",))
    child.start()
    child.join(10)
    return child.exitcode


def print_and_fork() -> int:
    import atexit

    atexit.register(print, "an exit handler runs")
    sys.stdout.write("before the fork, ")
    child = os.fork()
    if not child:
        sys.stdout.write("in the child, ")
        raise ValueError("of the child")
    os.waitpid(child, 0)
    print("after the fork")
    return os.getpid()


def say(message: Any, pause: float = 0.0) -> None:
    """Sends something to the parent that no worker sends: bytes as they are, anything else as a message."""
    from pooltable.pool.wire import pack

    frame = sys._getframe()
    while frame.f_code.co_name != "_serve":
        assert frame.f_back is not None
        frame = frame.f_back
    line = frame.f_locals["line"]
    if isinstance(message, bytes):
        line.socket.send(message)
    else:
        number = frame.f_locals["number"]
        message = message(number) if callable(message) else message
        answers = [(number + offset, 0, 0.0, b"N.") for offset in message] if isinstance(message, list) else message
        line.send(pack((answers, 0.0, True, 0, False) if isinstance(message, list) else answers))
    time.sleep(pause)


def no_seconds(number: int) -> Any:
    return [(number, 0, 0.0, b"N.")], "long", True, 0, False


def no_kind(number: int) -> Any:
    return [(number, 17, 0.0, b"N.")], 0.0, True, 0, False


def no_payload(number: int) -> Any:
    return [(number, 1, 0.0, b"N.")], 0.0, True, 0, False


def leave_a_thread(name: str = "uploader", recycle: bool = False) -> int:
    """Starts a thread that outlives the call by a minute."""
    from pooltable.pool.worker import ask_to_be_recycled

    threading.Thread(target=time.sleep, args=(60,), name=name).start()
    if recycle:
        ask_to_be_recycled()
    return os.getpid()


def leave_a_thread_sometimes(leave: bool) -> int:
    return leave_a_thread(recycle=True) if leave else os.getpid()


def leave_an_executor() -> int:
    """Leaves a thread that ends as soon as Python asks it to."""
    from concurrent.futures import ThreadPoolExecutor

    global _executor
    _executor = ThreadPoolExecutor(1)
    _executor.submit(int).result()
    return os.getpid()


_executor: Any = None
