"""A program as the task: it is started once for each row, with the row's columns in its arguments.

    'ffmpeg -i {content} {id}.mp3'  --parse, once-->  Template  --fill(row)-->  an argument list  --launch-->  exit code

The template is split into arguments by the rules of a shell, and then the columns are filled in, so that no shell ever
reads what a row holds. Where a shell is asked for, it gets the values as its positional parameters and never as text.

What the program prints goes where the worker's own output goes: it is shown as that of the row, and kept if the row
fails.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

from pooltable.errors import CommandFailed, Fail, TaskError
from pooltable.pool.worker import dump_signal, identity
from pooltable.rows import Row
from pooltable.tasks import current

SHELL = "/bin/sh"
_OF_SHELL = 4  # arguments that come before the values
# These are ignored here, the first two by Python, and a program inherits that.
_BACK_TO_DEFAULT = [*(getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)), dump_signal()]
_MOST_STORED = 64 * 2**20  # bytes of output in one column; more is a mistake, and would have to fit into memory
_TAIL = 4096
_LONGEST_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a template that a value is filled into."""

    name: str


Part = str | Slot


@dataclass(frozen=True, slots=True)
class Word:
    """One argument; `exposed`: it begins with a value, which could make an option of it."""

    parts: tuple[Part, ...]
    exposed: bool = False


@dataclass(frozen=True)
class Template:
    """A command whose arguments have slots; `text` is how it was written."""

    text: str
    words: tuple[Word, ...]
    shell: bool = False

    @property
    def program(self) -> str:
        return str(self.words[0].parts[0])

    @property
    def slots(self) -> tuple[str, ...]:
        """The names that it asks for, each once."""
        return tuple(dict.fromkeys(part.name for word in self.words for part in word.parts if isinstance(part, Slot)))

    def fill(self, value: Callable[[str], Any], allow_dashes: bool = False) -> list[bytes]:
        """The argument list. Raises Fail for a value that no argument can hold, or that would be an option."""
        filled = []
        for word in self.words:
            if len(word.parts) == 1 and isinstance(word.parts[0], str):
                filled.append(os.fsencode(word.parts[0]))
                continue
            argument = b"".join(
                os.fsencode(part) if isinstance(part, str) else _bytes_of(part.name, value(part.name))
                for part in word.parts
            )
            if word.exposed and argument.startswith(b"-") and not allow_dashes:
                written = "".join(part if isinstance(part, str) else f"{{{part.name}}}" for part in word.parts)
                raise Fail(
                    f"{_shown(argument)} in the place of {written} would be taken for an option; write -- before it in"
                    " the command, or give --allow-dashes if that is meant"
                )
            filled.append(argument)
        return filled

    def shown(self, arguments: Sequence[bytes]) -> str:
        """What was run, in one line, for people."""
        text = shlex.join(map(os.fsdecode, arguments[_OF_SHELL:] if self.shell else arguments))
        text = " ".join((f"{self.text} ({text})" if self.shell else text).split())
        return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _bytes_of(name: str, value: Any) -> bytes:
    if value is None:
        raise Fail(f"{{{name}}} is NULL, and an argument cannot be")
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    try:
        found = value if isinstance(value, bytes) else os.fsencode(str(value))
    except UnicodeEncodeError as error:
        raise Fail(f"{{{name}}} holds a character that no argument can hold: {error}") from None
    if b"\0" in found:
        raise Fail(f"{{{name}}} holds a NUL character, and no argument can")
    return found


def _shown(argument: bytes) -> str:
    text = os.fsdecode(argument)
    return repr(text if len(text) <= 40 else text[:39] + "…")


# ---- reading a template

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def columns_in(text: str) -> Iterator[Part]:
    """The text between `{column}`s, and these; `{{` and `}}` are braces. Raises TaskError where one is not closed."""
    at = 0
    for found in _BRACES.finditer(text):
        yield text[at : found.start()]
        at = found.end()
        if found[1] is not None:
            yield Slot(found[1])
        elif len(found[0]) == 2:
            yield found[0][0]
        else:
            raise TaskError(
                f"the command has a single {found[0]!r} in {text!r}: a column is written {{name}}, within one argument;"
                f" a brace itself is {found[0] * 2!r}"
            )
    yield text[at:]


def parse(text: str, slots: Callable[[str], Iterable[Part]] = columns_in) -> Template:
    """The template of a command that is run without a shell. Raises TaskError if it cannot be one."""
    try:
        words = shlex.split(text.replace("\\\n", ""))  # which shlex would take for an argument
    except ValueError as error:
        raise TaskError(f"the command cannot be split into arguments: {error}: {text}") from None
    return of_words(words, slots)


def of_words(words: Iterable[str], slots: Callable[[str], Iterable[Part]] = columns_in) -> Template:
    """The template of a command that is split into arguments already."""
    words = list(words)
    parsed: list[Word] = []
    protected = False  # behind a `--` nothing is an option
    for word in words:
        parts = tuple(part for part in slots(word) if part != "") or ("",)
        parsed.append(Word(parts, not protected and isinstance(parts[0], Slot)))
        protected = protected or word == "--"
    if not parsed or parsed[0].parts == ("",):
        raise TaskError("the command is empty")
    if len(parsed[0].parts) > 1 or isinstance(parsed[0].parts[0], Slot):
        raise TaskError(f"the program must be named by the command itself, not by a value: {words[0]}")
    return Template(shlex.join(words), tuple(parsed))


def parse_shell(text: str, slots: Callable[[str], Iterable[Part]] = columns_in) -> Template:
    """The template of a command line for a shell; its values are the shell's positional parameters.

    Raises TaskError for a slot where the shell would read the value as something else than one word.
    """
    reading = _Shell()
    line = ""
    values: list[Word] = []
    for part in slots(text):
        if isinstance(part, str):
            reading.feed(part)
            line += part
        else:
            reading.check(part)
            values.append(Word((part,), reading.exposed))
            line += f'"${{{len(values)}}}"'
    if not line.strip():
        raise TaskError("the command is empty")
    if line.lstrip().startswith('"${'):
        raise TaskError(f"the program must be named by the command itself, not by a value: {text}")
    return Template(text, (Word((SHELL,)), Word(("-c",)), Word((line,)), Word(("sh",)), *values), shell=True)


_OPERATOR = re.compile(r"\|\|?|&&?|;|[012&]?>>?\S*|<\S*")


def read_by_a_shell(words: Iterable[str]) -> str:
    """What to say of a command without a shell that has a pipe or a redirection among its words; "" if it has none."""
    found = next((word for word in words if _OPERATOR.fullmatch(word)), None)
    if found is None:
        return ""
    return (
        f"no shell reads the command, so the program gets {found!r} as an argument; give --shell to have it mean more"
    )


# Some shells, such as bash where it is /bin/sh, calculate also within [[ ]], $[ ], a[ ] and ${a:1}.
_ARITHMETIC = re.compile(r"(?<!\S)\[\[\s((?!\]\]).)*\Z|[\w$]\[[^\]]*\Z|\$\{\w+:(?![-=?+])[^}]*\Z", re.DOTALL)
_HERE_DOCUMENT = re.compile(r"(?<!<)<<(?!<)")


class _Shell:
    """How a shell reads a command line, as far as it matters for a value in it."""

    def __init__(self) -> None:
        self._quote = ""  # the quotation mark or `#` that what comes next stands behind
        self._escaped = False
        self._nested = False  # a command within double quotes has quotes of its own, which are not followed
        self._last = ""
        self._read = ""  # with a dot for each letter that is quoted

    def feed(self, text: str) -> None:
        for letter in text:
            escaped, self._escaped = self._escaped, False
            if escaped:
                pass
            elif self._quote == "#":
                self._quote = "" if letter == "\n" else "#"
            elif letter == "\\" and self._quote != "'":
                self._escaped = True
            elif self._quote:
                self._nested = self._nested or (self._quote == '"' and self._last + letter == "$(")
                self._quote = "" if letter == self._quote else self._quote
            elif letter in "'\"`" or (letter == "#" and (not self._read or self._read[-1] in " \t\n;&|()")):
                self._quote = letter
            if not self._escaped and not (escaped and letter == "\n"):  # two lines that are one
                self._read += "." if self._quote or escaped else letter
            self._last = "" if escaped else letter

    @property
    def exposed(self) -> bool:
        """Whether a value here begins an argument and could be taken for an option."""
        command = re.split(r"[;|&\n()]", self._read)[-1]
        protected = " -- " in f" {command}".replace("\t", " ")
        return not protected and (not self._read or self._read[-1] in " \t\n;|&()<>")

    def check(self, slot: Slot) -> None:
        written = "{" + slot.name + "}"
        if self._quote or self._escaped or self._nested:
            raise TaskError(f"write {written} without quotes around it: the value reaches the shell as one word")
        if self._read.endswith("$"):
            raise TaskError(
                f"${written} is neither a value nor a variable: for a variable of the shell write ${{{written}}}"
            )
        if self._read.count("((") > self._read.count("))") or _ARITHMETIC.search(self._read):
            raise TaskError(
                f"{written} stands in arithmetic, where a shell runs what a value says; use a program for it"
            )
        if _HERE_DOCUMENT.search(self._read):
            raise TaskError(f"{written} stands behind <<, where quotes are text: write printf %s {written} | before it")


# ---- starting programs


def find(program: str) -> str:
    """The path of a program. Raises TaskError if there is none."""
    found = shutil.which(program)
    if found is None:
        where = "there is no such file that can be executed" if "/" in program else "it is not on the PATH"
        raise TaskError(f"the command {program!r} cannot be run: {where}")
    return found


@cache
def _inherited() -> dict[bytes, bytes]:
    # Once, because to copy it for every row costs a part of what it costs to start a program.
    return dict(os.environb)


@cache
def _prepare_worker() -> None:
    if identity() is None:
        return
    # At a time limit a worker writes its stacks, which tell nothing of the program that it waits for.
    signal.signal(dump_signal(), signal.SIG_IGN)
    # What ties this worker to its parent came through a fork server, which leaves it open to programs: one that stays
    # in the background would seem to be this worker, living on.
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            with suppress(OSError):  # the one that lists them
                os.set_inheritable(int(name), False)


def launch(
    path: str, arguments: list[bytes], *, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
) -> int:
    """Start a program for the current row; its pid. It reads nothing unless `stdin` is given.

    Raises Fail where the arguments are too long for the system.
    """
    _prepare_worker()
    at = current()
    key = str(at.key[0]) if len(at.key) == 1 else json.dumps(at.key, default=str)
    environment = _inherited() | {
        b"POOLTABLE_ROW_KEY": os.fsencode(key.encode("utf-8", "replace")).replace(b"\0", b"?"),
        b"POOLTABLE_ROW_ATTEMPT": b"%d" % at.attempt,
        b"POOLTABLE_IDEMPOTENCY_KEY": at.idempotency_key.encode(),
    }
    actions: list[Any] = [(os.POSIX_SPAWN_DUP2, stdin, 0) if stdin is not None else _NOTHING_TO_READ]
    actions += [(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in ((1, stdout), (2, stderr)) if fd is not None]
    try:
        return os.posix_spawn(path, arguments, environment, file_actions=actions, setsigdef=_BACK_TO_DEFAULT)
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        longest = max(map(len, arguments))
        raise Fail(f"the arguments are too long for the system; the longest has {longest:,} bytes") from None


_NOTHING_TO_READ = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)


def wait_for(pid: int) -> int:
    """How the program ended: its exit status, or a signal's number below zero."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except KeyboardInterrupt:
        # Where it runs in the runner's own process: its row is given back, and it must not run on beside the next one.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def tail(fd: int, most: int = _TAIL) -> str:
    """The last of what a file holds."""
    return os.pread(fd, most, max(0, os.fstat(fd).st_size - most)).decode("utf-8", "replace")


# ---- the task


@dataclass(frozen=True)
class Command:
    """Runs a command on a row; the task of `pooltable run --command`.

    `path` is where the program is. With `stores` what it prints is the row's result, without the last newline; else
    there is none.
    """

    template: Template
    path: str
    stores: bool = False
    allow_dashes: bool = False

    def __call__(self, row: Row) -> str | bytes | None:
        arguments = self.template.fill(row.__getitem__, self.allow_dashes)
        if not self.stores:
            code = wait_for(launch(self.path, arguments))
            if code:
                raise CommandFailed(code, self.template.shown(arguments))
            return None
        with tempfile.TemporaryFile() as out:
            code = wait_for(launch(self.path, arguments, stdout=out.fileno()))
            if code:
                printed = tail(out.fileno())
                raise CommandFailed(code, self.template.shown(arguments), f"It printed:\n{printed}" if printed else "")
            return _result(out)


def _result(out: IO[bytes]) -> str | bytes:
    size = out.seek(0, os.SEEK_END)
    if size > _MOST_STORED:
        raise Fail(f"the command printed {size:,} bytes, and no more than {_MOST_STORED:,} are stored")
    out.seek(0)
    printed = out.read().removesuffix(b"\n")
    try:
        return printed.decode()
    except UnicodeDecodeError:
        return printed  # a column for bytes can hold it


def command(text: str, fields: Iterable[str], *, shell: bool, stores: bool, allow_dashes: bool) -> Command:
    """The command as a task on rows with these fields. Raises TaskError if it can never run on one."""
    template = (parse_shell if shell else parse)(text)
    fields = list(fields)
    if unknown := [name for name in template.slots if name not in fields]:
        raise TaskError(
            f"the command names {{{unknown[0]}}}, but a row has no such column; it has {', '.join(fields)}"
            " (a brace itself is written twice)"
        )
    return Command(template, find(template.program), stores, allow_dashes)
