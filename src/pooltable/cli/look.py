"""The commands that look and change nothing: status, failures, show, logs."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pooltable.cli.ending import complain
from pooltable.cli.options import JSON, TABLE, takes
from pooltable.cli.show import (
    at_plain,
    at_text,
    counted_lines,
    fit,
    plain,
    say,
    say_json,
    table_lines,
    terminal_columns,
)
from pooltable.cli.table import open_table, read_key, why_no_kind
from pooltable.config import Settings
from pooltable.errors import UsageError
from pooltable.table.states import word_text
from pooltable.text import counted, short

if TYPE_CHECKING:
    from pooltable.table.reading import Counts, Entry, WholeRow
    from pooltable.table.rescue import Holder
    from pooltable.table.table import TaskTable

KEY = Annotated[str, typer.Argument(metavar="KEY", help="The row: its key as in 42, or a,b for two columns.")]
STATES = ("pending", "doing", "done", "failed")


@takes(*TABLE)
def status(settings: Settings, as_json: JSON = False) -> int:
    """Show how many rows wait, run, are done and failed.

    \b
    Examples:
      pooltable status
      pooltable status --json | jq .pending
      watch pooltable status
    """
    table = open_table(settings)
    counts, holders = table.counts(), table.holders()
    if as_json:
        about = {"job": table.job, "table": table.shown_name, "database": table.database}
        runners = [one._asdict() for one in holders]
        say_json({**about, **plain(counts), "total": counts.total, "runners": runners})
        return 0
    columns = terminal_columns()
    job = f", job {table.job}" if table.job != table.name else ""
    # The database is what one knows best.
    room = columns - len(f"{table.shown_name} in {job}")
    say(fit(f"{table.shown_name} in {fit(table.database, room) if room >= 8 else table.database}{job}", columns))
    rows = [(_word(table, state), f"{getattr(counts, state)}") for state in STATES]
    rows += [("other words", f"{counts.other}")] if counts.other else []
    for line in counted_lines(rows, columns):
        say(line)
    for remark in _remarks(counts, holders):
        for line in textwrap.wrap(remark, columns, subsequent_indent="  "):
            say(line)
    return 0


def _word(table: TaskTable, state: str) -> str:
    word = getattr(table.words, state)
    own = "NULL" if word is None else str(word)
    return own if own.upper() == state.upper() else f"{state.upper()} ({own})"


def _remarks(counts: Counts, holders: list[Holder]) -> list[str]:
    from pooltable.logs import seconds_text

    lines = ["paused: no rows are taken until `pooltable resume`"] if counts.paused else []
    if counts.waiting:
        due = f", the first in {seconds_text(counts.next_due)}" if counts.next_due is not None else ""
        lines.append(f"{counted(counts.waiting, 'waiting row is', 'waiting rows are')} tried again later{due}")
    lines += map(_holder, holders)
    foreign = counts.doing - sum(counts.open.values())
    if foreign > 0:
        lines.append(
            f"{counted(foreign, 'row runs', 'rows run')} without a runner of pooltable: see pooltable release --foreign"
        )
    if counts.failed:
        lines.append("see pooltable failures")
    return lines


def _holder(one: Holder) -> str:
    from pooltable.logs import seconds_text

    holds = f"runner {one.runner} holds {counted(one.rows, 'row')}"
    if one.gone or one.left is None:
        why = "is dead"
    elif one.left > 0:
        return f"{holds}; its lease has {seconds_text(one.left)} left"
    else:
        why = f"has been silent since its lease ran out {seconds_text(-one.left)} ago"
    them = "it" if one.rows == 1 else "them"
    return f"{holds} and {why}: the next run takes {them} back, and so does `pooltable release`"


@takes(*TABLE)
def failures(
    settings: Settings,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind of error, such as ValueError.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="Only those of this run.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many. (default: 20)")
    ] = 20,
    as_json: JSON = False,
) -> int:
    """List the rows that failed and why, the newest first.

    \b
    Examples:
      pooltable failures
      pooltable failures --kind ValueError -n 100
      pooltable show 42         one of them, with its traceback
      pooltable retry --failed  all of them again
    """
    table = open_table(settings)
    entries = table.failures(limit, kind, run)
    if as_json:
        say_json([_entry(entry) for entry in entries])
        return 0
    if not entries:
        say((kind and why_no_kind(table, kind)) or "no row failed" + (" like that" if kind or run else ""))
        return 0
    rows = [_failure(entry) for entry in entries]
    for line in table_lines(("KEY", "ATTEMPT", "WHEN", "SECONDS", "REASON"), rows, frozenset({1, 3})):
        say(fit(line, terminal_columns()))
    if len(entries) == limit:
        complain(f"these are the newest {limit}; see more with -n")
    return 0


def _failure(entry: Entry) -> tuple[str, ...]:
    from pooltable.rows import key_text

    seconds = "" if entry.seconds is None else f"{entry.seconds:.2f}"
    reason = short(entry.reason or entry.kind, 200)
    return short(key_text(entry.key), 40), str(entry.attempt), at_text(entry.finished_at), seconds, reason


def _entry(entry: Entry) -> dict[str, Any]:
    times = {name: at_plain(getattr(entry, name)) for name in ("not_before", "claimed_at", "finished_at")}
    return {**plain(entry), **times, "reason": plain(entry.reason)}


@takes(*TABLE)
def show(key: KEY, settings: Settings, as_json: JSON = False) -> int:
    """Show one row: its columns with its status, its attempts, and the traceback if it failed.

    \b
    Examples:
      pooltable show 42
      pooltable show eu,42      a key of two columns
    """
    table = open_table(settings)
    wanted = read_key(key, table)
    whole, entry = table.whole_row(wanted), table.entry(wanted)
    if whole is None and entry is None:
        raise UsageError(f"table {table.shown_name!r} has no row with key {key!r}")
    if as_json:
        found = None if whole is None else dict(zip(whole.row.fields, map(plain, whole.row), strict=True))
        state = "missing" if whole is None else whole.state
        say_json({"row": found, "status": state, "entry": None if entry is None else _entry(entry)})
        return 0
    if whole is None:
        say("the row is gone; this is what is remembered of it")
    told = [] if whole is None else _columns(whole, table.status)
    told += [] if entry is None else _facts(entry)
    for name, text in told:
        say(fit(f"{f'{name}:':<15} {text}", terminal_columns()))
    if entry is None:
        say("it was never claimed")
        return 0
    if entry.error:
        say()
        say(_error(entry))
    if entry.log:
        complain(f"what it printed and logged: pooltable logs {key}")
    return 0


def _columns(whole: WholeRow, status: str) -> list[tuple[str, str]]:
    """The row's columns and their values; the status with what its word stands for."""
    texts = {name: word_text(value) for name, value in zip(whole.row.fields, whole.row, strict=True)}
    if whole.state == "other":
        texts[status] += " (no word of this job)"
    elif texts[status].upper() != whole.state.upper():
        texts[status] += f" ({whole.state.upper()})"
    return [(name, short(text, 200)) for name, text in texts.items()]


def _facts(entry: Entry) -> list[tuple[str, str]]:
    from pooltable.logs import seconds_text

    spent = [f"{count} {word}" for count, word in ((entry.fails, "failed"), (entry.lost, "lost with their worker"),
                                                    (entry.rescued, "with a runner that died")) if count]  # fmt: skip
    due = entry.not_before - time.time() if entry.not_before and not entry.finished_at else None
    facts = [
        ("attempts", f"{entry.attempt}" + (f": {', '.join(spent)}" if spent else "")),
        ("last ended", entry.ended or "not yet: it runs"),
        ("due", f"in {seconds_text(due)}" if due and due > 0 else ""),
        ("claimed at", at_text(entry.claimed_at)),
        ("finished at", at_text(entry.finished_at)),
        ("ran for", "" if entry.seconds is None else seconds_text(entry.seconds)),
        ("worker", "" if entry.worker is None else f"{entry.worker}"),
        ("run", entry.runner),
    ]
    return [(name, text) for name, text in facts if text]


@takes(*TABLE)
def logs(key: KEY, settings: Settings, as_json: JSON = False) -> int:
    """Print the output of a row's last failed attempt: what it printed and logged, and its traceback.

    \b
    Example:
      pooltable logs 42
    """
    table = open_table(settings)
    wanted = read_key(key, table)
    entry = table.entry(wanted)
    if entry is None and table.row(wanted) is None:
        raise UsageError(f"table {table.shown_name!r} has no row with key {key!r}")
    if as_json:
        say_json({"log": entry.log if entry else "", "error": entry.error if entry else ""})
        return 0
    if entry is None or not (entry.log or entry.error):
        complain(f"nothing is kept for row {key}: logs are kept for attempts that failed")
        return 0
    for text in (str(plain(entry.log)).rstrip(), _error(entry)):
        if text:
            say(text)
    return 0


def _error(entry: Entry) -> str:
    """The reason and what is told of it; a traceback ends with its reason, which is then not said twice."""
    text = str(plain(entry.error)).rstrip()
    reason, _, rest = text.partition("\n")
    return rest if rest and rest.endswith(reason) else text
