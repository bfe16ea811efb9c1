"""How a command ends: a result on stdout, or one line on stderr that names the thing and the remedy; an exit code.

0 all well    1 some rows FAILED    2 usage    3 stopped with work left    4 the database    5 no worker    6 halted
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from pooltable.errors import PooltableError, UsageError
from pooltable.text import one_line
from pooltable.urls import without_passwords

# What a shell sees of a program that SIGPIPE or SIGINT ended.
NOBODY_READS = 128 + signal.SIGPIPE
INTERRUPTED = 128 + signal.SIGINT


def end(command: Callable[[], int]) -> NoReturn:
    """Runs the command and ends the process with its exit code, also when nobody reads stdout or stderr any more."""
    code = _outcome(command)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = code or NOBODY_READS
    _forget_broken_pipes()
    sys.exit(code)


def _outcome(command: Callable[[], int]) -> int:
    import typer

    # The class itself is not part of Typer's public names.
    usage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        return command()
    except UsageError as error:
        # What was given in the wrong place may be the database's URL.
        complain(without_passwords(first_line(str(error))))
        return error.exit_code
    except PooltableError as error:
        complain(first_line(str(error)))
        return error.exit_code
    except usage as error:
        complain(_usage(error))
        return 2
    except typer.Abort:
        complain("nothing was done")
        return INTERRUPTED
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return NOBODY_READS


def complain(text: str) -> None:
    """One line on stderr, made harmless."""
    # Without a stderr, print() would write to stdout.
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"pooltable: {one_line(text)}", file=sys.stderr, flush=True)


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "failed")


def _usage(error: Any) -> str:
    """A mistake on the command line, in one line with the nearest name and where to read on."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pooltable"
    near = getattr(error, "possibilities", None) or []
    text = without_passwords(first_line(error.format_message()).rstrip("."))
    option = getattr(error, "option_name", None)
    # The classes themselves are not part of Typer's public names.
    if type(error).__name__ == "NoSuchOption":
        near = [_OTHER_NAMES[option]] if option in _OTHER_NAMES else near
        return f"there is no option {option}; " + (f"did you mean {near[0]}?" if near else f"see {path} --help")
    if option and "requires an argument" in text:
        return f"{option} needs {_needed(option, context)}; see {path} --help"
    wanted = _NUMBERS.get(getattr(getattr(error, "param", None), "metavar", None) or "")
    if type(error).__name__ == "BadParameter" and wanted is not None:
        return _no_such_number(error.param, wanted)
    if "No such command" in text:
        return _command(text, context, path)
    return f"{text[:1].lower()}{text[1:]}; see {path} --help"


# What an option takes, by what stands behind it in the help.
_NUMBERS = {"N": "a whole number, 1 or more", "NUMBER": "a number above 0"}


def _no_such_number(option: Any, wanted: str) -> str:
    """What an option takes and what it is for, where another number was given, or none."""
    name, *others = sorted(option.opts, key=lambda flag: not flag.startswith("--"))
    also = f" ({', '.join(others)})" if others else ""
    what = (option.help or "").replace(". (", " (").rstrip(".")
    return f"{name}{also} takes {wanted}: {what[:1].lower()}{what[1:]}"


def _needed(option: str, context: Any) -> str:
    params = context.command.params if context is not None else []
    metavar = next((one.metavar for one in params if option in one.opts), None)
    return {"N": "a number", "NUMBER": "a number", "FILE": "a file", "SIZE": "a size"}.get(metavar or "", "a value")


# How other programs call what is meant; the spelling alone does not tell.
_OTHER_NAMES = {
    "-j": "-p",
    "--jobs": "--processes",
    "--workers": "--processes",
    "--retries": "--fails",
    "--timeout": "--time-limit",
    "--pause": "--retry-pause",
}


def _command(text: str, context: Any, path: str) -> str:
    from difflib import get_close_matches

    name = text.split("'")[1] if text.count("'") >= 2 else ""
    near = get_close_matches(name, getattr(context.command, "commands", {}) if context else {}, n=1, cutoff=0.4)
    return f"there is no command {name!r}; " + (f"did you mean {near[0]}?" if near else f"see {path} --help")


def _forget_broken_pipes() -> None:
    """Keeps the interpreter's own last flush from complaining about a pipe that nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
