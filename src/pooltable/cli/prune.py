"""`pooltable prune`: forgets what is long over."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from pooltable.cli.options import JSON, TABLE, takes
from pooltable.cli.show import say, say_json
from pooltable.cli.table import open_table
from pooltable.config import Settings
from pooltable.errors import SettingError
from pooltable.text import counted

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@takes(*TABLE)
def prune(
    settings: Settings,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="As in 12h, 2w, 90m or 45s. (default: 30d)")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many they are.")] = False,
    as_json: JSON = False,
) -> int:
    """Remove what is remembered of rows that ended long ago; your own table stays as it is.

    Goes: claims that are over for longer than that, and for an hour at least; the entries of rows that ended longer ago
    than that, and those of rows that are gone from your table; runners that ended that long ago. Stays: whatever
    belongs to a row that runs, waits or is to be tried again. A failed row whose entry is gone has no reason any more
    in `pooltable failures`.

    \b
    Examples:
      pooltable prune
      pooltable prune --older-than 12h --dry-run
    """
    seconds = seconds_of(older_than)
    pruned = open_table(settings).prune(seconds, dry_run=dry_run)
    if as_json:
        say_json({**pruned._asdict(), "dry_run": dry_run})
        return 0
    would = "would remove" if dry_run else "removed"
    old, runners = counted(pruned.old, "entry", "entries"), counted(pruned.runners, "runner")
    claims = counted(pruned.claims, "claim")
    say(f"{would} {claims} and {old} older than {older_than}, {pruned.gone} of rows that are gone, {runners}")
    return 0


def seconds_of(text: str) -> float:
    """A time such as 30d in seconds. Raises SettingError where it is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text)
    if found is None:
        raise SettingError(f"--older-than takes a time such as 30d, 12h, 2w, 90m or 45s, not {text!r}")
    return float(found[1]) * _UNITS[found[2]]
