"""Runs `pooltable` in a fork of a process that has its modules already: imports take most of a command's time.

    test                          prepared process                command's process
    Prepared.run --- socket -->   accept, fork   -------------->  folder, environment, standard files; then what
    pid, exit code  <-----------  waits in a fork of its own      `python -m pooltable` does

The prepared process has no threads, ran nothing and reads only the socket. The command's process ends as every Python
program does. Only what Python itself reads when it starts cannot be set for it: tests of that start a fresh process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pooltable.cli.app import invoke

FRESH = ("PYTHON", "LC_", "LANG", "_POOLTABLE_COMPLETE")  # variables that Python, or Typer at its import, reads once


class Prepared:
    """The test's side."""

    def __init__(self, folder: Path) -> None:
        self._address = str(folder / "prepared")
        command = [sys.executable, "-m", "tests.cli.prepared", self._address]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def run(
        self, arguments: list[str], folder: Path, environment: dict[str, str], stdin: str, seconds: float
    ) -> tuple[int, str, str]:
        """Its exit code as `subprocess` tells it, and both outputs."""
        request = json.dumps([arguments, str(folder), environment]).encode()
        with (
            tempfile.TemporaryFile() as source,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            source.write(stdin.encode())
            source.seek(0)
            connection.settimeout(seconds)
            connection.connect(self._address)
            socket.send_fds(connection, [b"%08d" % len(request)], [file.fileno() for file in (source, out, err)])
            connection.sendall(request)
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

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode().replace("\r\n", "\n").replace("\r", "\n")
    return text


def import_what_commands_import() -> None:
    """Without running one here: a fork tells what it has imported in the end."""
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


def serve(address: str) -> None:
    """In the prepared process; it comes back in the process of a command, ready to run it."""
    import_what_commands_import()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        gc.freeze()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for commands
        while True:
            connection, _ = listening.accept()
            if not os.fork():
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    arguments, folder, environment = json.loads(connection.recv(int(length), socket.MSG_WAITALL))
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
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    sys.path[0] = folder


if __name__ == "__main__":
    serve(sys.argv[1])
    runpy.run_module("pooltable", run_name="__main__", alter_sys=True)
