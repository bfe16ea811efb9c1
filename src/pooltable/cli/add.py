"""`pooltable add`: arguments, files, CSV and JSON lines become rows that wait."""

from __future__ import annotations

import csv
import glob
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from pooltable.cli.options import JSON, TABLE, takes
from pooltable.cli.show import say, say_json
from pooltable.cli.table import open_table
from pooltable.config import Settings
from pooltable.errors import UsageError
from pooltable.text import counted, short

if TYPE_CHECKING:
    from pooltable.table.table import TaskTable

Line = tuple[str, dict[str, Any]]  # where it stands, and its columns


@takes(*TABLE)
def add(
    settings: Settings,
    values: Annotated[list[str] | None, typer.Argument(metavar="VALUE", help="One row for each, in --column.")] = None,
    column: Annotated[str | None, typer.Option("--column", "-c", help="The column for values and files.")] = None,
    files: Annotated[
        list[str] | None, typer.Option("--files", metavar="GLOB", help="One row for each file, such as 'in/**/*.mp4'.")
    ] = None,
    csv_file: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="One row for each line; the first names columns. -: stdin."),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--jsonl", metavar="FILE", help="One row for each line, a JSON object. -: stdin.")
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make the table, and the file, if they are not there. SQLite only.")
    ] = False,
    as_json: JSON = False,
) -> int:
    """Add rows that wait to the table.

    \b
    Examples:
      pooltable add --db work.db -t host --create -c name web1 web2 web3
      pooltable add --files 'videos/**/*.mp4' -c path
      pooltable add --csv orders.csv
      zcat events.gz | pooltable add --jsonl -

    \b
    All rows of a call are added or none.
    """
    if (bool(values) or bool(files)) + (csv_file is not None) + (json_file is not None) != 1:
        raise UsageError("add what? Give values, --files GLOB, --csv FILE or --jsonl FILE, one kind at a time")
    with_create = create and _is_missing(settings)
    name = column or ("" if csv_file or json_file else _the_column(settings, with_create))
    lines: list[Line]
    if csv_file is not None:
        lines = list(_csv_lines(csv_file))
    elif json_file is not None:
        lines = list(_json_lines(json_file))
    else:
        lines = [(repr(value), {name: value}) for value in [*(values or ()), *_found(files or ())]]
    if with_create:
        _create(settings, [row for _, row in lines])
    table = open_table(settings)
    count = table.add(_rows(table, lines))
    say_json({"added": count}) if as_json else say(f"added {counted(count, 'row')} to {table.shown_name}")
    return 0


def _the_column(settings: Settings, with_create: bool) -> str:
    if with_create:
        raise UsageError("into which column? Give --column NAME")
    table = open_table(settings)
    columns = [column.name for column in table.mapping.columns]
    if len(columns) != 1:
        raise UsageError(f"into which column? Give --column, one of {', '.join(columns or table.fields)}")
    return columns[0]


# ---- reading what is to be added


def _found(patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        names = sorted(
            name for name in glob.iglob(str(Path(pattern).expanduser()), recursive=True) if Path(name).is_file()
        )
        if not names:
            raise UsageError(f"no file matches {pattern!r}")
        yield from names


@contextmanager
def _opened(name: str) -> Iterator[IO[str]]:
    if name == "-":
        if sys.stdin is None:
            raise UsageError("there is no stdin to read from")
        yield sys.stdin
        return
    try:
        with open(name, encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise UsageError(f"cannot read {name!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name!r} is not UTF-8 text") from None


def _shown(name: str) -> str:
    return "stdin" if name == "-" else name


def _csv_lines(name: str) -> Iterator[Line]:
    with _opened(name) as file:
        reader = csv.reader(file)
        try:
            head = next(reader, None)
            if not head:
                raise UsageError(f"{name!r} is empty; its first line must name the columns")
            for values in reader:
                where = f"{_shown(name)}, line {reader.line_num}"
                if values and len(values) != len(head):
                    held = counted(len(values), "value")
                    raise UsageError(f"{where}: {held} for {counted(len(head), 'column')}")
                if values:
                    yield where, dict(zip(head, values, strict=True))
        except csv.Error as error:
            raise UsageError(f"{_shown(name)}, line {reader.line_num}: {error}") from None


def _json_lines(name: str) -> Iterator[Line]:
    with _opened(name) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{_shown(name)}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{where} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise UsageError(f"{where} is no JSON object: {short(line.strip(), 40)}")
            yield (
                where,
                {key: json.dumps(part) if isinstance(part, (dict, list)) else part for key, part in row.items()},
            )


# ---- text as the columns' types


def _rows(table: TaskTable, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    columns = {column.name: column for column in table.mapping.rows}
    for where, row in lines:
        found = {}
        for name, value in row.items():
            column = columns.get(name)
            if column is None:
                raise UsageError(
                    f"{where}: table {table.shown_name!r} has no column {name!r}; it has {', '.join(columns)}"
                )
            try:
                found[name] = _from_text(value, column.type, column.nullable) if isinstance(value, str) else value
            except (ValueError, ArithmeticError, KeyError):
                raise UsageError(f"{where}: {short(value, 40)!r} does not fit column {name!r}, {column.type}") from None
        yield found


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _from_text(text: str, kind: Any, nullable: bool) -> Any:
    try:
        wanted = kind.python_type
    except NotImplementedError:
        return text
    if wanted is str:
        return text
    if not text and nullable:
        return None
    if wanted is bool:
        return _BOOLEANS[text.lower()]
    if wanted is bytes:
        return text.encode("utf-8")
    if wanted in (date, datetime, time):
        return wanted.fromisoformat(text)
    return wanted(text) if wanted in (int, float, Decimal) else text


# ---- making a table


def _is_missing(settings: Settings) -> bool:
    """Whether --create has anything to do. Only a SQLite file can be made."""
    import sqlite3

    path = _path(settings)
    if not path.exists():
        return True
    try:
        with _connected(path) as connection:
            sql = "SELECT 1 FROM sqlite_master WHERE type IN ('table', 'view') AND name = ?"
            return connection.execute(sql, (settings.table_name,)).fetchone() is None
    except sqlite3.Error as error:
        raise UsageError(f"{path} cannot be used: {error}") from None


def _path(settings: Settings) -> Path:
    from sqlalchemy import make_url

    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise UsageError("--create makes SQLite files only; make the table in your database, then add to it")
    return Path(url.database)


@contextmanager
def _connected(path: Path) -> Iterator[Any]:
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        yield connection
    finally:
        connection.close()


def _create(settings: Settings, rows: list[dict[str, Any]]) -> None:
    import sqlite3

    from pooltable.table.sqlite import create_file

    path, status = _path(settings), settings["status"]
    names = list(dict.fromkeys(name for row in rows for name in row))
    extra = [*settings["write"], *([settings["result"]] if settings["result"] else [])]
    key = [*(settings["key"] or ("id",))]
    if missing := [name for name in key if name not in names and len(key) > 1]:
        raise UsageError(f"the rows have no {missing[0]!r}, which --key names")
    columns = [f"{_quoted(name)} {_kind(row.get(name) for row in rows)} NOT NULL" for name in key if name in names]
    if key[0] not in names:
        columns = [f"{_quoted(key[0])} INTEGER"]
    columns += [
        f"{_quoted(name)} {_kind(row.get(name) for row in rows)}" for name in names if name not in (*key, status)
    ]
    columns += [f"{_quoted(name)} TEXT" for name in extra if name not in names]
    null = "" if None in (settings[word] for word in ("pending", "doing", "done", "failed")) else " NOT NULL"
    columns += [f"{_quoted(status)} TEXT{null} DEFAULT {_literal(settings['pending'])}"]
    columns += [f"PRIMARY KEY ({', '.join(map(_quoted, key))})"]
    try:
        if not path.exists():
            create_file(str(path))
        with _connected(path) as connection:
            connection.execute(f"CREATE TABLE {_quoted(settings.table_name)} ({', '.join(columns)})")
            connection.commit()
    except sqlite3.Error as error:
        raise UsageError(f"the table cannot be made in {str(path)!r}: {error}") from None


def _kind(values: Iterable[Any]) -> str:
    """INTEGER or REAL where every value is written as one; else TEXT, so that 007 stays 007."""
    found = [str(int(value) if isinstance(value, bool) else value) for value in values if value not in (None, "")]
    for pattern, name in ((r"-?(0|[1-9]\d{0,17})", "INTEGER"), (r"-?(0|[1-9]\d{0,17})(\.\d+)?", "REAL")):
        if found and all(re.fullmatch(pattern, text, re.ASCII) for text in found):
            return name
    return "TEXT"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
