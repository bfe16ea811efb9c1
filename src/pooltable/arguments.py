"""A command on arguments, in folders and on hosts: what `pooltable map` runs on the rows of its own table.

    row: id, host, arguments, seq  --fill-->  argument list  --launch-->  here, in a folder, or on a host through ssh
                                                               stdout: a file that is named after the row

The file is there for whoever prints it, also when this process was killed half-way.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from typing import NamedTuple

from pooltable.commands import Part, Slot, Template, Word, find, launch, of_words, parse_shell, tail, wait_for
from pooltable.errors import CommandFailed, Fail, TaskError
from pooltable.rows import Row
from pooltable.tasks import current

HERE = ":"  # the host that is this one
NO_HOST = ""
UNREACHABLE = 255  # how ssh ends when it is ssh that failed
_FIRST_OPTIONS = ("-T", "-o", "BatchMode=yes")
# The user's own options come before these, and the first one counts.
_OPTIONS = ("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
# What runs on the host ends with its connection, as when this side was killed: sshd tells by closing stdin. The shell
# leads a process group of its own there, and the command gets two seconds to clean up.
_ON_HOST = """exec 3<&0
"$@" </dev/null 3<&- &
run=$!
(trap "" TERM; cat <&3; kill -TERM 0; sleep 2; kill -KILL 0) >/dev/null 2>&1 &
guard=$!
exec 3<&-
wait "$run"
code=$?
kill -KILL "$guard"
exit "$code"
"""

_PLACE = re.compile(r"\{(?P<number>[1-9]\d*)?(?P<form>\.|//|/\.|/)?\}|\{#\}")


def places_in(text: str) -> Iterator[Part]:
    """The text between `{}`, `{2}`, `{/.}`, `{#}` and so on, and these; other braces are text."""
    at = 0
    for found in _PLACE.finditer(text):
        yield text[at : found.start()]
        at = found.end()
        yield Slot("#" if found[0] == "{#}" else (found["number"] or "") + (found["form"] or ""))
    yield text[at:]


def template(words: Sequence[str], lists: int, *, shell: bool, append: bool) -> Template:
    """The template for that many lists of arguments; with `append` they come last where it has no place for them.

    Raises TaskError if it cannot be one.
    """
    if shell:
        text = " ".join(words)
        found = parse_shell(text, places_in)
        if append and not found.slots:
            found = parse_shell(f"{text} {' '.join(f'{{{number}}}' for number in range(1, lists + 1))}", places_in)
    else:
        found = of_words(words, places_in)
        if append and not found.slots:
            protected = "--" in words
            last = tuple(Word((Slot(str(number)),), not protected) for number in range(1, lists + 1))
            found = Template(found.text, (*found.words, *last))
    for name in found.slots:
        number = int(re.match(r"\d*", name)[0] or 0)  # type: ignore[index]
        if name != "#" and not number and lists > 1:
            raise TaskError(f"{{{name}}} of which list? There are {lists}: write {{1{name}}}, {{2{name}}}")
        if name != "#" and max(number, 1) > lists:
            there = "is 1 list" if lists == 1 else f"are {lists} lists"
            raise TaskError(f"{{{name}}} stands for an argument of list {max(number, 1)}, but there {there}")
    return found


class Given(NamedTuple):
    """What one row stands for."""

    seq: int
    host: str
    arguments: tuple[str, ...]

    def value(self, name: str) -> str:
        """What a slot of this name holds."""
        if name == "#":
            return str(self.seq)
        number, form = re.fullmatch(r"(\d*)(.*)", name).groups()  # type: ignore[union-attr]
        return _formed(self.arguments[int(number or 1) - 1], form)


def _formed(text: str, form: str) -> str:
    """The argument as a path: `/` its last part, `//` its folder, `.` it without its extension."""
    if form.startswith("/"):
        folder, name = os.path.split(text)
        text = folder or "." if form == "//" else name
    return re.sub(r"(?<=[^/])\.[^/.]*\Z", "", text) if form in (".", "/.") else text


class Ran(NamedTuple):
    """When the command started, in seconds since 1970, and how long it ran."""

    started: float
    seconds: float


class MappedCommandFailed(CommandFailed):
    """As CommandFailed, with when it `ran`."""

    ran: Ran | None = None


@dataclass(frozen=True)
class OnArguments:
    """Runs the command on a row of arguments; the task of `pooltable map`.

    `path` is where the program is, None where only the folder or the host can tell. `outputs` is the folder for what is
    printed.
    """

    template: Template
    path: str | None
    outputs: str
    in_folders: bool = False
    ssh: tuple[str, ...] = ()
    allow_dashes: bool = False

    def __call__(self, row: Row) -> Ran:
        id, host, arguments, seq = row
        given = Given(seq, host, tuple(json.loads(arguments)))
        filled = self.template.fill(given.value, self.allow_dashes)
        # Past Python's file objects, which would cost a part of what it costs to start a program.
        out = os.open(output_of(self.outputs, id), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            started = time.time()
            told = self._through_ssh(host, filled, out) if host not in (NO_HOST, HERE) else None
            code = told[0] if told else self._here(given, filled, out)
            ran = Ran(started, time.time() - started)
            if code:
                raise _failed(code, host, self.template.shown(filled), ran, out, told[1] if told else "")
        finally:
            os.close(out)
        return ran

    def _here(self, given: Given, filled: list[bytes], out: int) -> int:
        folder = given.arguments[0] if self.in_folders else None
        try:
            if folder is None:
                return wait_for(launch(self.path or find(os.fsdecode(filled[0])), filled, stdout=out))
            with chdir(folder):  # this process runs one row at a time, on one thread
                pid = launch(self.path or find(os.fsdecode(filled[0])), filled, stdout=out)
        except (FileNotFoundError, NotADirectoryError, TaskError) as error:
            raise Fail(str(error)) from None
        return wait_for(pid)

    def _through_ssh(self, host: str, filled: list[bytes], out: int) -> tuple[int, str]:
        """How ssh ended, and the last of what it told."""
        # While this process lives, ssh waits for what it may be given to read.
        reading, writing = os.pipe()
        with tempfile.TemporaryFile() as errors, os.fdopen(reading), os.fdopen(writing, "w"):
            arguments = [os.fsencode(word) for word in ssh_command(self.ssh, host, filled)]
            code = wait_for(launch(self.ssh[0], arguments, stdin=reading, stdout=out, stderr=errors.fileno()))
            told = tail(errors.fileno(), 65536)
        if told:
            os.write(2, told.encode("utf-8", "replace"))  # where it is shown and kept with the row
        return code, told


def ssh_command(ssh: Sequence[str], host: str, filled: Sequence[bytes]) -> list[str]:
    """The argument list that runs the filled command on the host, each argument quoted for the shell there."""
    at = current()
    variables = {
        "POOLTABLE_ROW_KEY": str(at.key[0]),
        "POOLTABLE_ROW_ATTEMPT": str(at.attempt),
        "POOLTABLE_IDEMPOTENCY_KEY": at.idempotency_key,
    }
    words = ["env", *(f"{name}={value}" for name, value in variables.items()), "sh", "-c", _ON_HOST, "sh"]
    line = "exec " + shlex.join([*words, *map(os.fsdecode, filled)])
    return [ssh[0], *_FIRST_OPTIONS, *ssh[1:], *_OPTIONS, "--", host, line]


def _failed(code: int, host: str, command: str, ran: Ran, out: int, told: str) -> MappedCommandFailed:
    printed = tail(out)
    detail = f"It printed:\n{printed}" if printed else ""
    where = f"{host}: " if host else ""
    kind = ""
    if host not in (NO_HOST, HERE) and code == UNREACHABLE:
        why = [line.strip() for line in told.splitlines() if line.strip()]
        kind = "ssh failed"
        where += f"{why[-1]}: " if why else ""
    error = MappedCommandFailed(code, where + command, detail, kind)
    error.ran = ran
    return error


def output_of(folder: str, id: int) -> str:
    """The file with what the row's command printed."""
    return f"{folder}/{id}.out"
