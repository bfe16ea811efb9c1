"""The real command in a process of its own, in a folder with code and a SQLite file."""

from __future__ import annotations

import os
import pty
import re
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.prepared import FRESH, Prepared

APP = """
import logging, os, sys, time

log = logging.getLogger("app")

def mission(row):
    return row.name.upper()

def picky(row):
    print("looking at", row.name)
    if row.id % 2 == 0:
        log.warning("an even one")
        raise ValueError(f"row {row.id} is even")
    return row.name

def nothing(row):
    pass

def hopeless(row):
    raise RuntimeError("the model is gone")

def deadly(row):
    print("last words", flush=True)
    os.kill(os.getpid(), 9)

def slow(row):
    time.sleep(60)

def waiting(row):
    while not os.path.exists("go"):
        time.sleep(0.01)

def noisy(row):
    os.write(1, b"from C\\n")
    print("on stderr", file=sys.stderr)
    log.info("a record of row %s", row.id)

def prepare():
    log.info("prepared")

def broken_start():
    raise OSError("no such model file")

def needs_two(row, extra):
    pass

async def later(row):
    pass

answer = 42
"""


STREAMS = {"text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


class Done(subprocess.CompletedProcess[str]):
    """A command that ended; `line` is the only line on stderr."""

    @property
    def line(self) -> str:
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr
        return lines[0]


class Folder:
    """A folder with app.py and work.db, whose table host(id, name, caption, status) has `rows` rows that wait."""

    def __init__(self, path: Path, prepared: Prepared | None = None) -> None:
        self.path = path
        self._prepared = prepared
        self.environment: dict[str, str] = {}
        (path / "app.py").write_text(APP)

    def sql(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path / "work.db")
        try:
            found = connection.execute(statement, values).fetchall()
            connection.commit()
        finally:
            connection.close()
        return found

    def make_hosts(self, rows: int = 4) -> None:
        self.sql(
            "CREATE TABLE host (id INTEGER PRIMARY KEY, name TEXT NOT NULL, caption TEXT,"
            " status TEXT NOT NULL DEFAULT 'PENDING')"
        )
        for number in range(1, rows + 1):
            self.sql("INSERT INTO host (id, name) VALUES (?, ?)", (number, f"web{number}"))
        (self.path / "pooltable.toml").write_text(
            'db = "work.db"\ntable = "host"\nwrite = ["caption"]\nprocesses = 2\n'
        )

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Starts the command as a user's shell does, in a process that has the modules already where that can be."""
        if not self._may_be_prepared:
            return self.start_fresh(*arguments, **options)
        assert self._prepared is not None
        texts = [str(argument) for argument in arguments]
        return self._prepared.start(texts, self.path, self._environment(), **{**STREAMS, **options})

    def start_fresh(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pooltable", *map(str, arguments)],
            cwd=self.path,
            env=self._environment(),
            **{**STREAMS, **options},
        )

    def run(self, *arguments: object, stdin: str = "", seconds: float = 50) -> Done:
        """What became of the command: in a process of its own, which has the modules already where that can be."""
        if not self._may_be_prepared:
            return self.run_fresh(*arguments, stdin=stdin, seconds=seconds)
        assert self._prepared is not None
        texts = [str(argument) for argument in arguments]
        return Done(texts, *self._prepared.run(texts, self.path, self._environment(), stdin, seconds))

    def run_fresh(self, *arguments: object, stdin: str = "", seconds: float = 50) -> Done:
        process = self.start_fresh(*arguments)
        try:
            out, err = process.communicate(stdin, timeout=seconds)
        finally:
            process.kill()
            process.wait()
        return Done(process.args, process.returncode, out, err)

    @property
    def _may_be_prepared(self) -> bool:
        return self._prepared is not None and not any(name.startswith(FRESH) for name in self.environment)

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("POOLTABLE_")}
        return {**ours, **self.environment}


@pytest.fixture
def folder(tmp_path: Path, prepared: Prepared | None) -> Folder:
    return Folder(tmp_path, prepared)


@pytest.fixture
def hosts(folder: Folder) -> Folder:
    folder.make_hosts()
    return folder


class Terminal:
    """A command whose stdin, stdout and stderr are a pseudo-terminal; `seen` is what it wrote so far."""

    def __init__(self, folder: Folder, *arguments: object, columns: int = 100) -> None:
        self._end, inner = pty.openpty()
        folder.environment.update(TERM="xterm-256color", COLUMNS=f"{columns}", LINES="30")
        self.process = folder.start(*arguments, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
        os.close(inner)
        self.seen = ""

    def read(self, seconds: float = 0.1) -> bool:
        """Read what is there; False at the end."""
        if not select.select([self._end], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._end, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def wait_for(self, pattern: str, seconds: float = 25) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.seen, re.DOTALL):
            assert time.monotonic() < end, self.seen[-3000:]
            assert self.read(), self.seen[-3000:]

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def finish(self, seconds: float = 30) -> int:
        end = time.monotonic() + seconds
        while self.read():
            assert time.monotonic() < end, self.seen[-3000:]
        return self.process.wait(timeout=10)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def terminal(folder: Folder) -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(*arguments: object, columns: int = 100) -> Terminal:
        opened.append(Terminal(folder, *arguments, columns=columns))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
