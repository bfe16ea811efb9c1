"""From settings to the table and the runner's values, and keys as people write them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pooltable.config import Settings
from pooltable.errors import UsageError
from pooltable.text import one_line

if TYPE_CHECKING:
    from pooltable.table.table import TaskTable


def open_table(settings: Settings) -> TaskTable:
    """The table of tasks that the settings name; not touched yet."""
    database, table = settings.database, settings.table_name
    from pooltable.table.states import Words
    from pooltable.table.table import TaskTable

    return TaskTable(
        database,
        table,
        job=settings["job"],
        columns=settings["columns"],
        key=settings["key"],
        status=settings["status"],
        words=Words(settings["pending"], settings["doing"], settings["done"], settings["failed"]),
        write=settings["write"],
        result=settings["result"],
        order_by=settings["order_by"],
        where=settings["where"],
    )


def can_ask() -> bool:
    """Whether somebody is there who can answer."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()


def ask(question: str, refused: Callable[[str], str], **shown: Any) -> str:
    """A person's answer. `refused` says what is wrong with one, which is then asked for again."""
    import typer

    while True:
        answer = str(typer.prompt(question, err=True, **shown))
        why = refused(answer)
        if not why:
            return answer
        typer.echo(one_line(why), err=True)


def ask_columns(table: TaskTable, empty: str) -> dict[str, Any]:
    """The columns for what the task returns, as settings; none where the answer is empty, which means `empty`."""
    names = [column.name for column in table.mapping.columns]
    known = {name.lower() for name in names}

    def read(answer: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in answer.split(",") if name.strip())

    def refused(answer: str) -> str:
        wrong = next((name for name in read(answer) if name.lower() not in known), None)
        return "" if wrong is None else f"{wrong!r} is none of them"

    question = f"Columns for what the task returns, with commas, of {', '.join(names)} (empty: {empty})"
    found = read(ask(question, refused, default="", show_default=False))
    if not found:
        return {}
    # A mapping goes into a column for JSON as it is; into those to write, part by part.
    types = {column.name: str(column.type) for column in table.mapping.rows}
    if len(found) == 1 and types.get(found[0], "").startswith("JSON"):
        return {"result": found[0]}
    return {"write": found}


def read_key(text: str, table: TaskTable) -> tuple[Any, ...]:
    """A key as it is written on the command line: 42, or a,b, or ["a", "b"]; the table knows the columns' types."""
    columns = table.key
    if text.startswith("["):
        try:
            parts = json.loads(text)
        except ValueError:
            parts = None
        if isinstance(parts, list) and len(parts) == len(columns):
            return tuple(parts)
    # A comma in the text of a single column is part of it.
    parts = [text] if len(columns) == 1 else [part.strip() for part in text.split(",")]
    if len(parts) != len(columns):
        names = ",".join(columns)
        raise UsageError(
            f"the key of table {table.shown_name!r} is {names}; write {text!r} as {len(columns)} values with commas"
        )
    return tuple(parts)


def why_no_kind(table: TaskTable, kind: str) -> str:
    """That no row failed with this kind of error, and which kind was perhaps meant; "" where some did."""
    from pooltable.table.kinds import meant

    kinds = table.kinds()
    if meant(kind, kinds):
        return ""
    if not kinds:
        return f"no row failed with {kind!r}: no failure is remembered"
    names = {one.casefold(): one for one in kinds} | {one.rpartition(".")[2].casefold(): one for one in kinds}
    near = get_close_matches(kind.rpartition(".")[2].casefold(), names, n=1)
    listed = ", ".join(f"{one} ({count})" for one, count in list(kinds.items())[:5])
    return f"no row failed with {kind!r}; " + (
        f"did you mean {names[near[0]]}?" if near else f"they failed with {listed}"
    )
