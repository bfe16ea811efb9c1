"""Text for people: made harmless, cut to a line, and asked of values whose own methods may raise.

    rows, keys, errors, log records, what workers print
        -- harmless, for_people, one_line, short -->  a terminal, a pipe, a file that somebody reads
        -- as it is, or escaped -->                   JSON, which programs read

Whatever a row holds may reach a terminal, now or when somebody looks into a file: escape sequences would move its
cursor, change its title or write to its clipboard, and characters that change the direction of writing would make a
line read as another one. What cannot be written in UTF-8 is written out.
"""

from __future__ import annotations

import os
import re
from typing import Any

_COLOUR = r"\x1b\[[0-9;:]*m"
_RESET = "\x1b[0m"
# A sequence of an escape, and what belongs to it; text for the terminal itself ends with its line at the latest.
_SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]+[0-~]?|[^\x1b\n])?"
# C0 but tab and line feed, DEL, C1; marks, embeddings, overrides and isolates of bidirectional text.
_CONTROLS = r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
_SURROGATES = r"(?P<surrogate>[\ud800-\udfff])"

_UNSAFE = re.compile(f"{_SEQUENCE}|{_CONTROLS}|{_SURROGATES}")
_UNSAFE_BESIDE_COLOURS = re.compile(f"(?!{_COLOUR}){_SEQUENCE}|{_CONTROLS}|{_SURROGATES}")
_UNSAFE_IN_JSON = re.compile(_CONTROLS)


def harmless(text: str, colours: bool = False) -> str:
    """The text without what a terminal would obey, line breaks and tabs apart; with `colours` these stay, too, and end
    with the text."""
    if text.isprintable():
        return text
    if not colours:
        return _UNSAFE.sub(_replaced, text)
    shown = _UNSAFE_BESIDE_COLOURS.sub(_replaced, text)
    return shown + _RESET if "\x1b" in shown else shown


def _replaced(found: re.Match[str]) -> str:
    surrogate = found["surrogate"]
    return f"\\u{ord(surrogate):04x}" if surrogate else ""


def for_people(text: str, stream: Any) -> str:
    """The text as it may be written to this stream: colours stay where it is a terminal."""
    return harmless(text, colours=is_terminal(stream))


def is_terminal(stream: Any) -> bool:
    """Whether it is a terminal that can move its cursor."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:
        return False


def terminal_lines(text: str) -> list[str]:
    """What somebody wrote for a terminal, in lines that are safe to show on one: colours stay."""
    lines = []
    for line in text.split("\n"):
        # A progress bar redraws its line after each carriage return: its last state is what is to be seen.
        states = [state for state in line.split("\r") if state.strip()]
        if states:
            lines.append(harmless(states[-1].rstrip(), colours=True))
    return lines


def one_line(text: str) -> str:
    """The text, harmless, without line breaks."""
    return text if text.isprintable() else " ".join(harmless(text).split())


def short(value: object, most: int = 60) -> str:
    """The value, harmless, in one line of at most so many characters; what is cut leaves an ellipsis."""
    text = " ".join(harmless(value if isinstance(value, str) else safe_repr(value)).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`: a number with its words, which are `one` with an s where there are more and `many` is not
    given."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def escaped(text: str) -> str:
    """JSON that means the same, and that a terminal may be shown."""
    return text if text.isprintable() else _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def safe_str(value: object) -> str:
    """`str(value)`, or that it raised; of no class that was made from str, whose methods would be asked later."""
    try:
        return str.__str__(str(value))
    except BaseException as error:
        return f"(its __str__ raised {type(error).__name__})"


def safe_repr(value: object) -> str:
    """`repr(value)`, or that it raised."""
    try:
        return str.__str__(repr(value))
    except Exception:
        return f"<{type(value).__name__} whose repr raises>"
