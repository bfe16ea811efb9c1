"""What `doctor` tells of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `what` in a word or two, how it is, and the remedy, as SQL or a command.

    An error keeps a run from working, or from working at a usable speed; a warning may slow or endanger it.
    """

    level: Level
    what: str
    detail: str
    remedy: str = ""


def ok(what: str, detail: str) -> Finding:
    return Finding("ok", what, detail)


def warning(what: str, detail: str, remedy: str) -> Finding:
    return Finding("warning", what, detail, remedy)


def error(what: str, detail: str, remedy: str) -> Finding:
    return Finding("error", what, detail, remedy)
