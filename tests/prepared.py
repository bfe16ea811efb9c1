"""Runs `pooltable`, or a script, in a fork of a process that has its modules already: imports take most of its time.

    test                          prepared process                command's process
    Prepared.run --- socket -->   accept, fork   -------------->  folder, environment, standard files; then what
    pid, exit code  <-----------  waits in a fork of its own      `python -m pooltable` does

`Prepared.start` is for a command that goes on while the test looks at it: what it returns is used like a Popen. In
`Prepared.bin` lies a command `pooltable` for shells (tests/prepared_command.py).

Arguments that begin with a path of a script run that one instead.

The prepared process has no threads, ran nothing and reads only the socket. The command's process ends as every Python
program does. Only what Python itself reads when it starts cannot be set for it: tests of that start a fresh process.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing.process
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

FRESH = ("PYTHON", "LC_", "LANG", "_POOLTABLE_COMPLETE")  # variables that Python, or Typer at its import, reads once


class Prepared:
    """The test's side."""

    def __init__(self, folder: Path) -> None:
        self._address = str(folder / "prepared")
        self.bin = folder / "bin"
        self._put_command()
        command = [sys.executable, "-m", "tests.prepared", self._address]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def run(
        self, arguments: list[str], folder: Path, environment: dict[str, str], stdin: str, seconds: float
    ) -> tuple[int, str, str]:
        """Its exit code as `subprocess` tells it, and both outputs."""
        with (
            tempfile.TemporaryFile() as source,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            source.write(stdin.encode())
            source.seek(0)
            connection.settimeout(seconds)
            files = [file.fileno() for file in (source, out, err)]
            self.ask(connection, files, arguments, folder, environment)
            with connection.makefile("rb") as answers:
                pid = int(answers.readline())
                try:
                    status = answers.readline()
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    connection.settimeout(20)
                    answers = connection.makefile("rb")
                    answers.readline()
                    raise subprocess.TimeoutExpired(arguments, seconds, _text(out), _text(err)) from None
            return os.waitstatus_to_exitcode(int(status)), _text(out), _text(err)

    def ask(
        self, connection: socket.socket, files: list[int], arguments: list[str], folder: Path, *rest: object
    ) -> None:
        """Have a command run with these standard files; its pid and, once it ended, its status are answered."""
        request = json.dumps([arguments, str(folder), *rest]).encode()
        connection.connect(self._address)
        socket.send_fds(connection, [b"%08d" % len(request)], files)
        connection.sendall(request)

    def _put_command(self) -> None:
        variables = {name: value for name, value in os.environ.items() if name.startswith(FRESH)}
        Path(f"{self._address}.json").write_text(json.dumps([FRESH, variables]))
        own, installed = Path(__file__).with_name("prepared_command.py"), Path(sys.executable).with_name("pooltable")
        words = shlex.join([sys.executable, "-IS", str(own), self._address, str(installed)])
        self.bin.mkdir()
        command = self.bin / "pooltable"
        command.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        command.chmod(0o755)

    def start(self, arguments: list[str], folder: Path, environment: dict[str, str], **options: Any) -> Started:
        return Started(self, arguments, cwd=folder, env=environment, **options)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Started(subprocess.Popen[Any]):
    """A process that is no child of the test: who it is, and how it ended, is read from the socket."""

    def __init__(self, prepared: Prepared, arguments: list[str], *, start_new_session: bool = False, **options: Any):
        self._prepared = prepared
        self._in_new_session = start_new_session
        super().__init__(arguments, **options)

    def _execute_child(self, arguments: list[str], *options: Any) -> None:
        _, _, _, _, cwd, env, _, _, _, *files = options[:15]
        self._connection = socket.socket(socket.AF_UNIX)
        ours = [own if file == -1 else file for own, file in enumerate((files[0], files[3], files[5]))]
        self._prepared.ask(self._connection, ours, arguments, cwd, env, self._in_new_session)
        self._answers = self._connection.makefile("rb")
        self.pid = int(self._answers.readline())
        self._child_created = True
        self._close_pipe_fds(*files)

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if self.returncode is None:
            if flags & os.WNOHANG and not select.select([self._connection], [], [], 0)[0]:
                return 0, 0
            status = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
            return self.pid, status
        return self.pid, 0


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode().replace("\r\n", "\n").replace("\r", "\n")
    return text


def import_what_commands_import() -> None:
    """Without running one here: a fork tells what it has imported in the end."""
    from pooltable.cli.app import invoke

    for name in ("sqlalchemy.dialects.sqlite", "pooltable.table.sqlite", "pooltable.runner"):
        importlib.import_module(name)
    with tempfile.TemporaryFile("w+") as names:
        if not os.fork():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                invoke(["config"])
            finally:
                json.dump(list(sys.modules), names)
                names.flush()
                os._exit(0)
        os.wait()
        names.seek(0)
        for name in json.load(names):
            if name not in sys.modules:
                importlib.import_module(name)


def _take_away_the_ended() -> None:
    """Those that waited for a command. Were SIGCHLD ignored, their time would count nowhere."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def serve(address: str) -> None:
    """In the prepared process; it comes back in the process of a command, ready to run it."""
    import_what_commands_import()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        gc.freeze()
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            _take_away_the_ended()
            if not os.fork():
                break
            connection.close()
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    arguments, folder, environment, *in_new_session = json.loads(connection.recv(int(length), socket.MSG_WAITALL))
    command = os.fork()
    if command:
        connection.sendall(b"%d\n" % command)
        _, status = os.waitpid(command, 0)
        connection.sendall(b"%d\n" % status)
        os._exit(0)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    as_it_comes = sys.stdout.isatty() or bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(line_buffering=as_it_comes)  # type: ignore[union-attr]  # as Python starts with it
    if any(in_new_session):
        os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it was looked up with the variables of the prepared process
    first = folder
    if arguments and arguments[0].endswith(".py"):
        arguments[0] = os.path.abspath(arguments[0])  # workers import it, wherever they are
        first = os.path.dirname(arguments[0])
    multiprocessing.process.ORIGINAL_DIR = folder
    sys.argv[1:] = arguments
    sys.path[:1] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]


if __name__ == "__main__":
    serve(sys.argv[1])
    if sys.argv[1:] and sys.argv[1].endswith(".py"):
        del sys.argv[0]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module("pooltable", run_name="__main__", alter_sys=True)
