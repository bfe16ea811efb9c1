"""Starts the scripts of the examples as a person would, in a folder of their own, and ends whatever is left of them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.prepared import Prepared

PATIENCE = 30.0


def start_fresh(arguments: list[str], folder: Path, environment: dict[str, str], **options: Any) -> Any:
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, **options)


class Script:
    """A running script; its own output is in `output()`."""

    def __init__(self, arguments: list[str], folder: Path, seconds: float, prepared: Prepared | None) -> None:
        self._log = folder / f"output-{time.monotonic_ns()}.txt"
        start = prepared.start if prepared is not None and arguments[0].endswith(".py") else start_fresh
        with self._log.open("wb") as log:
            self.process = start(
                arguments,
                folder,
                # What a script that is killed leaves in its temporary folder is this test's.
                os.environ | {"SECONDS_PER_VIDEO": str(seconds), "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._family: list[psutil.Process] = []

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until that is so; what the script said is told when it never is."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}:\n{self.output()[-4000:]}"
            time.sleep(0.02)

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """To the whole group, as a terminal does."""
        self._remember()
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """The main process alone, with -9."""
        self._remember()
        self.process.kill()
        self.process.wait()

    def _remember(self) -> None:
        # While they can still be found: children of a dead process belong to somebody else.
        with suppress(psutil.NoSuchProcess):
            self._family += psutil.Process(self.process.pid).children(recursive=True)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        self._remember()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for child in self._family:
            try:
                child.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.until(lambda: not self.children_that_run(), "the end of its processes")

    def children_that_run(self) -> int:
        """Of the children that it had when it got its last signal."""
        return sum(map(_runs, self._family))


def _runs(process: psutil.Process) -> bool:
    # A container without an init keeps the dead as zombies for ever.
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Table:
    """The table `video` of a folder, as anybody may look at it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "videos.db"

    def ask(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self._file, timeout=30)) as connection, connection:
            return connection.execute(sql, values).fetchall()

    def status(self) -> dict[int, str]:
        return {int(str(id)): str(status) for id, status in self.ask("SELECT id, status FROM video ORDER BY id")}


@pytest.fixture
def start(tmp_path: Path, prepared: Prepared | None) -> Iterator[Callable[..., Script]]:
    scripts: list[Script] = []

    def start(*arguments: object, seconds: float = 0.05) -> Script:
        scripts.append(Script([str(argument) for argument in arguments], tmp_path, seconds, prepared))
        return scripts[-1]

    yield start
    for script in scripts:
        script.end()


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)
