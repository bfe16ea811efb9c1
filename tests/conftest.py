"""What holds for every test: nothing is left behind, and what was not tested is said aloud.

`make test` runs several tests at a time, each in one of pytest-xdist's workers. A test marked `alone` measures a time:
it runs after the others, while no other test of this session runs.

A test that leaves a process, a socket pair, a memfd, another such descriptor or a temporary file behind fails, after
some seconds' grace in which they may still go away. What a session fixture keeps, and the two helpers that the standard
library starts once for each program, are no leak.
"""

from __future__ import annotations

import fcntl
import gc
import importlib.util
import multiprocessing
import os
import re
import signal
import socket
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import psutil
import pytest

if TYPE_CHECKING:
    from tests.prepared import Prepared

# A shell's background jobs ignore Ctrl-C, those of nohup a closed terminal, and every program that a test starts would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker of pytest-xdist is started by `python -c`, which a pool would take for an interactive session. It shall
    # look like `python -m pytest`.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("pytest.__main__")

# The rewritten test modules are kept for the next session, whatever PYTHONDONTWRITEBYTECODE says: to rewrite them takes
# each worker of pytest-xdist ten seconds.
sys.dont_write_bytecode = False

MARK = "TESTS_OF_POOLTABLE"  # every process that this session starts inherits it, also when its parent is long gone
GRACE = 10.0

# Servers that fixtures start when the first test wants them, and keep.
SERVERS = {"postgres", "mariadbd", "mysqld", "mariadbd-safe", "chromium", "chrome"}
# Started by multiprocessing with its first use, one of each for a program and for an environment.
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "every start method for every test of the pool, and a Python of its own for every command"
    parser.addoption("--everything", action="store_true", help=help)


# ---- nothing is left behind


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for temporary files of this session's own, so that what others do in /tmp is not taken for ours."""
    folder = tmp_path_factory.mktemp("tmp", numbered=False)
    before, tempfile.tempdir = os.environ.get("TMPDIR"), str(folder)
    os.environ["TMPDIR"] = str(folder)
    os.environ[MARK] = f"{os.getpid()}"
    yield folder
    tempfile.tempdir = None
    del os.environ[MARK]
    if before is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest, temporary_folder: Path) -> Iterator[None]:
    if not Path("/proc/self/fd").exists() or request.node.get_closest_marker("leaves_behind"):
        yield
        return
    pids, descriptors, files = _pids(), _descriptors(), set(os.listdir(temporary_folder))
    yield
    deadline = time.monotonic() + GRACE
    collected = False
    while left := [*_processes_since(pids), *_descriptors_since(descriptors), *_files_since(files, temporary_folder)]:
        if time.monotonic() > deadline:
            pytest.fail("left behind by this test:\n  " + "\n  ".join(left), pytrace=False)
        if not collected:
            # The traceback of a test that failed, and cycles, may hold the last reference to a pool.
            gc.collect()
            collected = True
        time.sleep(0.02)


def _pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def _processes_since(before: set[int]) -> Iterator[str]:
    multiprocessing.active_children()  # waits for those of the standard library's own that have ended
    mark = f"{MARK}={os.environ[MARK]}".encode()
    for pid in _pids() - before:
        try:
            environment = _environment(pid)
            if environment and mark not in environment:
                continue
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                if process.ppid() == os.getpid():
                    yield f"process {pid}: it ended, and nobody waited for it"
            elif environment and not _may_stay(process):
                yield f"process {pid}: {' '.join(process.cmdline())[:200] or process.name()}"
        except (OSError, psutil.Error):
            continue  # it ended meanwhile, or belongs to somebody else


def _environment(pid: int) -> list[bytes]:
    """Nothing for one that has ended and waits to be waited for."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except ProcessLookupError:
        return []


def _may_stay(process: psutil.Process) -> bool:
    line = process.cmdline()
    if process.ppid() == os.getpid() and any(helper in argument for argument in line for helper in HELPERS):
        return True
    return any(one.name() in SERVERS for one in (process, *process.parents()))


def _descriptors() -> Counter[str]:
    return Counter(kind for fd in os.listdir("/proc/self/fd") if (kind := _kind(int(fd))) is not None)


def _descriptors_since(before: Counter[str]) -> Iterator[str]:
    for kind, count in (_descriptors() - before).items():
        yield f"{count} open descriptors of kind {kind}"


def _kind(fd: int) -> str | None:
    """What sort of descriptor that is, where a pool or a runner makes such ones; None for all others."""
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            return "socket pair" if _is_unnamed(fd) else None
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None  # closed meanwhile: the listing itself was one
    if target.startswith("/memfd:"):
        return "memfd"
    if target.startswith("anon_inode:"):
        return target.removeprefix("anon_inode:").strip("[]")
    return None


def _is_unnamed(fd: int) -> bool:
    # Connections to a database have names; their engines may keep them for the next test.
    with socket.socket(fileno=os.dup(fd)) as copy:
        try:
            return copy.family == socket.AF_UNIX and not copy.getsockname() and not copy.getpeername()
        except OSError:
            return False


def _files_since(before: set[str], folder: Path) -> Iterator[str]:
    for name in sorted(set(os.listdir(folder)) - before):
        if "pooltable" in name:
            yield f"file {folder / name}"


# ---- commands in processes that have their modules already


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Prepared | None]:
    """None where each command shall have a Python of its own."""
    if pytestconfig.getoption("everything"):
        yield None
        return
    from tests.prepared import Prepared

    prepared = Prepared(tmp_path_factory.mktemp("prepared"))
    yield prepared
    prepared.end()


# ---- several tests at a time

LOCK = "TESTS_OF_POOLTABLE_LOCK"  # a file: a test holds it shared, one that runs alone holds it exclusively


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core, since tests wait for processes; each worker starts database servers of its own."""
    return min(2 * (os.cpu_count() or 1), 8)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and LOCK not in os.environ:
        descriptor, os.environ[LOCK] = tempfile.mkstemp(prefix="pooltable-tests-", suffix=".lock")
        os.close(descriptor)
        config.add_cleanup(lambda: os.unlink(os.environ.pop(LOCK)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if re.search(r" at 0x[0-9a-f]+", item.nodeid):
            # Each worker of pytest-xdist collects for itself, and all must find the same tests.
            raise pytest.UsageError(
                f"{item.nodeid}: the id holds an address. Give the parameters ids that are the same each time."
            )
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Those that may take longest begin first, so that none of them is the last to end; those that run alone follow."""
    if item.get_closest_marker("alone") is not None:
        return 2
    limit = item.get_closest_marker("timeout")
    return 0 if limit is not None and limit.args[0] > 60 else 1


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no collection of garbage, here or in a fork, has to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Outside of everything, so that the time for which a test waits here is not taken from its time limit."""
    if LOCK not in os.environ:
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    with open(os.environ[LOCK]) as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            # Said explicitly: a process that a test has forked and left may still have the file open.
            fcntl.flock(file, fcntl.LOCK_UN)


# ---- what was not tested is said aloud

# With CI=true everything is tested, and a skipped test is an error. The exceptions: how their reason begins, and why.
MAY_BE_SKIPPED = {
    "CPython's test_": "that one does not apply to this pool or system; tests/pool/test_cpython.py says why",
    "a PID namespace may not be made here": "a container without privileges may not, whatever is installed in it",
}
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _not_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _not_in_ci((yield))


def _not_in_ci(report: Report) -> Report:
    if not report.skipped or hasattr(report, "wasxfail") or os.environ.get("CI") != "true":
        return report
    if not _reason(report).startswith(tuple(MAY_BE_SKIPPED)):
        report.outcome = "failed"
        report.longrepr = f"not in MAY_BE_SKIPPED of tests/conftest.py, and CI=true: {_reason(report)}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", ()))
    if not reasons:
        return
    terminalreporter.section("NOT TESTED", sep="!", red=True, bold=True)
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count:5} tests skipped: {reason}", red=True, bold=True)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, (tuple, list)):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)
