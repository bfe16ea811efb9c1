"""The commands that change rows by hand: retry, pause, resume, release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pooltable.cli.ending import complain
from pooltable.cli.options import JSON, TABLE, takes
from pooltable.cli.show import say, say_json
from pooltable.cli.table import open_table, read_key, why_no_kind
from pooltable.config import Settings
from pooltable.errors import UsageError
from pooltable.text import counted

if TYPE_CHECKING:
    from pooltable.table.table import TaskTable

QUIET_IF_NONE = Annotated[
    bool, typer.Option("--quiet-if-none", help="Say nothing and end with 0 if there is no such row.")
]


@takes(*TABLE, renamed={"failed": "--failed-word", "done": "--done-word"})
def retry(
    settings: Settings,
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY", help="Rows to run again, DONE ones too.")] = None,
    failed: Annotated[bool, typer.Option("--failed/--no-failed", show_default=False, help="All that failed.")] = False,
    done: Annotated[bool, typer.Option("--done/--no-done", show_default=False, help="All that are done.")] = False,
    every: Annotated[bool, typer.Option("--all/--no-all", show_default=False, help="Both.")] = False,
    kind: Annotated[str | None, typer.Option("--kind", help="Those that failed with this kind of error.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="Those that failed in this run.")] = None,
    quiet_if_none: QUIET_IF_NONE = False,
    as_json: JSON = False,
) -> int:
    """Make finished rows wait again; their attempts are counted anew.

    \b
    Examples:
      pooltable retry 42 43
      pooltable retry --failed
      pooltable retry --done                     --all: both
      pooltable retry --kind TimeLimitExceeded
      pooltable retry --run 1f0c9a      undoes a run's failures; runs say their id
    """
    failed, done = failed or every, done or every
    some = kind is not None or run is not None
    if not (keys or failed or done or some):
        raise UsageError("retry which rows? Give keys, --failed, --done, --all, --kind KIND or --run ID")
    if keys and (failed or done or some):
        raise UsageError("give either keys, or --failed, --done, --all, --kind, --run")
    if done and some:
        raise UsageError("--kind and --run are for rows that failed: leave out --done and --all")
    table = open_table(settings)
    wanted = [read_key(key, table) for key in keys] if keys else None
    count = table.requeue(wanted, failed=failed, done=done, kind=kind, run=run)
    if as_json:
        say_json({"requeued": count})
    elif count:
        say(f"{_rows(count)} again")
    if count == 0:
        return _none(_why_none(table, keys, done, failed, kind, run), quiet_if_none)
    if wanted is not None and count < len(wanted):
        say(f"{len(wanted) - count} of the keys are no finished rows")
    return 0


def _why_none(
    table: TaskTable, keys: list[str] | None, done: bool, failed: bool, kind: str | None, run: str | None
) -> str:
    if keys:
        return f"{keys[0]} is no finished row" if len(keys) == 1 else f"none of the {len(keys)} keys is a finished row"
    if kind is not None and (why := why_no_kind(table, kind)):
        return why
    if done:
        return "no row is DONE or FAILED" if failed else "no row is DONE"
    return "no row is FAILED" + (f" of run {run!r}" if run else "")


def _none(why: str, quiet: bool) -> int:
    """The exit code of a command that found nothing to do."""
    if quiet:
        return 0
    complain(f"{why} Nothing was changed" if why.endswith("?") else f"{why}; nothing was changed")
    return 1


@takes(*TABLE)
def pause(settings: Settings, as_json: JSON = False) -> int:
    """Stop taking rows, on all machines, until `resume`; rows that run go on.

    \b
    Example:
      pooltable pause
    """
    table = open_table(settings)
    table.pause()
    text = f"job {table.job} is paused; `pooltable resume` lets it go on"
    say_json({"job": table.job, "paused": True}) if as_json else say(text)
    return 0


@takes(*TABLE)
def resume(settings: Settings, as_json: JSON = False) -> int:
    """Take rows again after `pooltable pause`.

    \b
    Example:
      pooltable resume
    """
    table = open_table(settings)
    table.resume()
    say_json({"job": table.job, "paused": False}) if as_json else say(f"job {table.job} goes on")
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
    quiet_if_none: QUIET_IF_NONE = False,
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
    if as_json:
        say_json({"released": count})
    elif count:
        say(_rows(count))
    if count:
        return 0
    counts = table.counts()
    left = counts.doing - sum(counts.open.values())
    why = "no row is held by a runner that died"
    if left > 0 and not foreign:
        why += f"; {counted(left, 'runs', 'run')} without a runner of pooltable: give --foreign if nobody works there"
    return _none(why, quiet_if_none)


def _rows(count: int) -> str:
    return counted(count, "row waits", "rows wait")
