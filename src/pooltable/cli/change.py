"""The commands that change rows by hand: retry, pause, resume, release."""

from __future__ import annotations

from typing import Annotated

import typer

from pooltable.cli.options import JSON, TABLE, takes
from pooltable.cli.show import say, say_json
from pooltable.cli.table import open_table, read_key
from pooltable.config import Settings
from pooltable.errors import UsageError


@takes(*TABLE, renamed={"failed": "--failed-word"})
def retry(
    settings: Settings,
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY", help="Rows to run again, DONE ones too.")] = None,
    failed: Annotated[bool, typer.Option("--failed/--no-failed", show_default=False, help="All that failed.")] = False,
    kind: Annotated[str | None, typer.Option("--kind", help="Those that failed with this kind of error.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="Those that failed in this run.")] = None,
    as_json: JSON = False,
) -> int:
    """Make finished rows wait again; their attempts are counted anew.

    \b
    Examples:
      pooltable retry 42 43
      pooltable retry --failed
      pooltable retry --kind TimeLimitExceeded
      pooltable retry --run 1f0c9a      undoes a run's failures; runs say their id
    """
    if bool(keys) + failed + (kind is not None) + (run is not None) == 0:
        raise UsageError("retry which rows? Give keys, --failed, --kind KIND or --run ID")
    if keys and (failed or kind is not None or run is not None):
        raise UsageError("give either keys, or --failed, --kind, --run")
    table = open_table(settings)
    wanted = [read_key(key, table) for key in keys] if keys else None
    count = table.requeue(wanted, failed=failed, kind=kind, run=run)
    if as_json:
        say_json({"requeued": count})
        return 0
    say(f"{_rows(count)} again")
    if wanted is not None and count < len(wanted):
        say(f"{len(wanted) - count} of the keys are no finished rows")
    return 0


@takes(*TABLE)
def pause(settings: Settings) -> int:
    """Stop taking rows, on all machines, until `resume`; rows that run go on.

    \b
    Example:
      pooltable pause
    """
    table = open_table(settings)
    table.pause()
    say(f"job {table.job} is paused; `pooltable resume` lets it go on")
    return 0


@takes(*TABLE)
def resume(settings: Settings) -> int:
    """Take rows again after `pooltable pause`.

    \b
    Example:
      pooltable resume
    """
    table = open_table(settings)
    table.resume()
    say(f"job {table.job} goes on")
    return 0


@takes(*TABLE)
def release(
    settings: Settings,
    foreign: Annotated[
        bool,
        typer.Option(
            "--foreign/--no-foreign", show_default=False, help="Also those that no runner of pooltable holds."
        ),
    ] = False,
    as_json: JSON = False,
) -> int:
    """Give back the rows of runners that died, at no cost.

    A run does this by itself for its own kind. With --foreign it also makes those rows wait that are marked as running
    although no runner of pooltable holds them: something else started them, or left them so. Be sure that nobody works
    on them.

    \b
    Examples:
      pooltable release
      pooltable release --foreign
    """
    table = open_table(settings)
    count = table.release(foreign=foreign)
    say_json({"released": count}) if as_json else say(_rows(count))
    return 0


def _rows(count: int) -> str:
    return "1 row waits" if count == 1 else f"{count} rows wait"
