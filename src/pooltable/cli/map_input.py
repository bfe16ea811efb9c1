"""What `pooltable map` runs on: lists of arguments from its command line or stdin, folders, hosts."""

from __future__ import annotations

import glob
import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from pooltable.arguments import HERE, NO_HOST, Given
from pooltable.commands import find
from pooltable.errors import UsageError

SEPARATOR = ":::"
_FOREIGN_SEPARATORS = ("::::", ":::+", "::::+")


def split(command: list[str], shell: bool) -> tuple[list[str], list[list[str]]]:
    """The command's words, and the lists of arguments behind it. Raises UsageError if there is no command."""
    parts: list[list[str]] = [[]]
    for word in command:
        if word == SEPARATOR:
            parts.append([])
        elif word in _FOREIGN_SEPARATORS:
            raise UsageError(
                f"{word} is GNU parallel's, and not known here: arguments come after {SEPARATOR}, or from a file as the"
                " lines of stdin, < FILE"
            )
        else:
            parts[-1].append(word)
    words, lists = parts[0], parts[1:]
    if not words:
        raise UsageError("run what? Give a command before :::; see pooltable map --help")
    if len(words) == 1 and not shell and shutil.which(words[0]) is None:
        try:
            words = shlex.split(words[0]) or words  # quoted as for a shell, as GNU parallel takes it
        except ValueError:
            pass  # only a shell can tell what it means
    return words, lists


def read_stdin(null: bool) -> list[str]:
    """The lines of stdin, or with `null` what ends at a NUL character. Raises UsageError at a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("run it on what? Give ::: ARGUMENTS, --dir, --hosts, or lines on stdin")
    found = sys.stdin.buffer.read().split(b"\0" if null else b"\n")
    return [os.fsdecode(line) for line in found if line]


def folders_of(pattern: str) -> list[str]:
    """The folders that match. Raises UsageError if none does."""
    found = sorted(name for name in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isdir(name))
    if not found:
        raise UsageError(f"--dir: no folder matches {pattern!r}")
    return found


def hosts_of(file: str) -> list[str]:
    """The hosts of a file, each once. Raises UsageError for a line that is none, so that none is an option of ssh."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--hosts: cannot read {file!r}: {error}") from None
    found: list[str] = []
    for number, line in enumerate(lines, 1):
        host = line.partition("#")[0].strip()
        if host.startswith("-") or len(host.split()) > 1 or not host.isprintable():
            raise UsageError(f"--hosts: {file}, line {number}: {line.strip()!r} is no host")
        found += [host] if host else []
    if not found:
        raise UsageError(f"--hosts: {file!r} names no host")
    return list(dict.fromkeys(found))


def ssh_words(text: str) -> tuple[str, ...]:
    """The command that calls ssh, with the path of its program."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--ssh: {error}: {text}") from None
    if not words:
        raise UsageError("--ssh needs a command, such as 'ssh -p 2222'")
    return (find(words[0]), *words[1:])


def combined(lists: list[list[str]], hosts: list[str]) -> Iterator[Given]:
    """Each combination once, the last list the quickest; the hosts take turns before any argument changes."""
    once = dict.fromkeys(itertools.product(*lists))
    for seq, (combination, host) in enumerate(itertools.product(once, hosts), 1):
        yield Given(seq, host, combination)


def path_of(program: str, pattern: str | None, combinations: list[Given]) -> str | None:
    """Where the program is; None where that is known only in the folder or on the host."""
    if (pattern is not None and "/" in program) or not any(one.host in (NO_HOST, HERE) for one in combinations):
        return None
    return find(program)
