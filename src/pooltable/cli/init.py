"""`pooltable init`: looks at the table, makes the side tables, and writes the settings down."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pooltable.cli.ending import complain
from pooltable.cli.options import JSON, TABLE, takes
from pooltable.cli.saving import edited
from pooltable.cli.show import say, say_json
from pooltable.cli.table import ask, ask_columns, can_ask, open_table
from pooltable.config import BY_NAME, INDIRECT, OWN_FILE, Settings, to_toml
from pooltable.errors import MappingError, PooltableError, SettingError
from pooltable.table.states import word_text
from pooltable.text import counted, one_line
from pooltable.urls import hide_password, password_of, with_path, without_passwords

if TYPE_CHECKING:
    from pooltable.table.looking import Look
    from pooltable.table.table import TaskTable

VARIABLE = "DATABASE_URL"
SAY_AFTER, SAY_AGAIN = 2.0, 10.0  # seconds
WAITS = {
    "sqlite": "others can read meanwhile, and write when it is there",
    "postgresql": "others can write meanwhile; it waits for transactions that are open, whose oldest doctor names",
    "mysql": "others can write meanwhile",
}
STATES = ("pending", "doing", "done", "failed")
_NOTIFY = {  # by what was asked for, and whether it changed anything
    (True, True): "made the triggers that tell runners of new rows; those that are running now go on asking",
    (True, False): "made the triggers that tell runners of new rows anew",
    (False, True): "removed the triggers that told runners of new rows; they ask again",
    (False, False): "there are no triggers that tell runners of new rows",
}
OF_THE_TABLE = ("table", "job", "status", "key", "write", "result", *STATES)


@takes(*TABLE, shows=("job", "status", "key", "write", "result", "pending", "doing", "done", "failed"))
def init(
    settings: Settings,
    print_sql: Annotated[bool, typer.Option("--print", help="Only print the SQL that it would run.")] = False,
    index: Annotated[
        bool, typer.Option("--index/--no-index", show_default=False, help="Also make the index that large tables need.")
    ] = False,
    notify: Annotated[
        bool | None,
        typer.Option("--notify/--no-notify", show_default=False, help="PostgreSQL: triggers that tell of new rows."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Give a job that has run before another table, key, column or words.")
    ] = False,
    as_json: JSON = False,
) -> int:
    """Set a table up: check it, make pooltable's own tables beside it, write pooltable.toml.

    Your table stays as it is, but for --notify. What is not given is asked for, if this is a terminal. A password is
    never written down: the file names a variable of the environment instead. Where rows wait under none of the words
    nothing is made.

    \b
    Examples:
      pooltable init --db sqlite:///videos.db --table video --write caption
      pooltable init --db env:DATABASE_URL --table video --pending NEW
      pooltable init --print     shows the SQL, for somebody who may run it
      pooltable init --index     beside writers, on all but SQLite
      pooltable init --notify    new rows begin in milliseconds, on PostgreSQL
      pooltable init --again --pending NULL     after a run with another word
    """
    if not settings["db"]:
        settings = settings.answered({"db": _ask_database(settings)})
    if not settings["table"]:
        settings = settings.answered({"table": _choose_table(settings)})
    if not print_sql:
        settings = settings.answered(_ask_words(settings))
        settings = settings.answered(_ask_columns(settings))
    table = open_table(settings)
    notify_sql = "" if notify is None else table.notify_sql(notify)
    if print_sql:
        sql = (table.init_sql() + notify_sql).rstrip()
        say_json({"sql": sql}) if as_json else say(sql)
        return 0
    look = table.look()
    if look.no_pending and not look.known:
        raise MappingError(look.no_pending)
    changes = table.prepare(again=again)
    if not as_json:
        _say_look(table, look, changes)
    made = _make_index(table) if index else None
    if notify is None and changes and table.notifies:
        notify = True  # the triggers name the status column and its words
    if notify is not None:
        notify_told = _NOTIFY[notify, table.set_notify(notify)]
    told = _write(settings)
    if as_json:
        say_json({**_plain(table, look, changes, made, told), "notify": table.notifies})
        return 0
    if index:
        say(f"made the index: {made}" if made else "the index for claims is there already")
    if notify is not None:
        say(notify_told)
    for line in told:
        say(line)
    return 0


def _ask_database(settings: Settings) -> str:
    if not can_ask():
        raise SettingError("no database is named: give --db")

    def refused(answer: str) -> str:
        try:
            _tables(settings.answered({"db": answer}))
        except PooltableError as error:
            return without_passwords(str(error))
        return ""

    return ask("Database (a URL such as postgresql://user@host/name, or a SQLite file)", refused)


def _tables(settings: Settings) -> tuple[str, list[str]]:
    """The name of the database, and its tables that are not ours."""
    import sqlalchemy as sa

    from pooltable.table.database import Database

    database = Database(settings.database)
    names = database.reflecting(lambda connection: sa.inspect(connection).get_table_names())
    return database.name, [name for name in names if not name.startswith("pooltable_")]


def _choose_table(settings: Settings) -> str:
    database, names = _tables(settings)
    if len(names) == 1:
        return names[0]
    if not names:
        raise SettingError(f"{database} has no tables; make one, for example with `pooltable add --create`")
    shown = ", ".join(names[:20]) + (" and more" if len(names) > 20 else "")
    if not can_ask():
        raise SettingError(f"which table? {database} has {shown}: give --table")
    return ask(f"Table with the rows to work on ({shown})", lambda answer: "")


def _ask_words(settings: Settings) -> dict[str, Any]:
    """The status words, where no row waits under ours and somebody is there to ask."""
    asked: dict[str, Any] = {}
    if not can_ask():
        return asked
    try:
        table = open_table(settings)
        table.prepare(create=False)
    except MappingError as error:
        if settings.origin("status") != "default" or "for status" not in str(error):
            raise
        typer.echo(_without_remedy(error), err=True)
        asked["status"] = ask("Status column", lambda answer: _no_status(settings, answer))
        table = open_table(settings.answered(asked))
    look = table.look()
    if look.known or not look.no_pending:
        return asked
    say_found = ", ".join(_counted(word, count) for word, count in look.words.items())
    typer.echo(one_line(f"{table.shown_name}.{table.status} holds {say_found}"), err=True)
    open_states = [state for state in STATES if settings.origin(state) == "default"]
    taken = {word_text(getattr(table.words, state)): state for state in STATES if state not in open_states}
    there = {word_text(word) for word in look.words}
    counted = all(count is not None for count in look.words.values())

    def refused(state: str, answer: str) -> str:
        if state == "pending" and counted and answer not in there:
            return f"no row has {answer!r}: they have {' and '.join(sorted(there))}"
        return f"{answer!r} is the word for {taken[answer].upper()} already" if answer in taken else ""

    for state in open_states:
        # Rows that all have the same word can only be waiting.
        default = word_text(getattr(table.words, state))
        if state == "pending" and len(there) == 1 and min(there).isprintable():
            default = min(there)
        asked[state] = ask(f"The word for {state.upper()}", partial(refused, state), default=default)
        taken[asked[state]] = state
    return asked


def _no_status(settings: Settings, answer: str) -> str:
    try:
        open_table(settings.answered({"status": answer})).prepare(create=False)
    except MappingError as error:
        if "for status" not in str(error):
            raise
        return _without_remedy(error)
    return ""


def _without_remedy(error: MappingError) -> str:
    """What is wrong with a name, for somebody who is asked for another one."""
    return str(error).partition("; name yours with")[0]


def _ask_columns(settings: Settings) -> dict[str, Any]:
    """Where a result goes, where nobody has said it and somebody is there to ask."""
    if not can_ask() or settings["write"] or settings["result"] is not None:
        return {}
    table = open_table(settings)
    table.prepare(create=False)
    return ask_columns(table, "it returns nothing") if table.mapping.columns else {}


def _counted(word: object, count: int | None) -> str:
    return word_text(word) if count is None else f"{word_text(word)} ({count})"


def _say_look(table: TaskTable, look: Look, changes: Sequence[str]) -> None:
    say(f"table {table.shown_name} in {table.database}: key {', '.join(table.key)}, status {table.status}")
    say(f"the task gets {', '.join(table.fields)}")
    found = ", ".join(_counted(word, count) for word, count in look.words.items())
    say(
        counted(look.pending, "row waits", "rows wait")
        + (f"; {table.status} holds {found}" if found else "; the table is empty")
    )
    if look.strange:
        left = ", ".join(_counted(word, look.words[word]) for word in look.strange)
        say(f"no word of this job, so such rows are left alone: {left}")
    if look.hidden:
        say(look.hidden)
    if look.foreign_doing:
        foreign = counted(look.foreign_doing, "row runs", "rows run")
        say(f"{foreign} without a runner of pooltable: see pooltable release --foreign")
    if look.index_sql:
        say(f"claims of a table of this size need an index: pooltable init --index, which runs {look.index_sql}")
    if look.unsafe_file_system:
        say(f"the file lies on {look.unsafe_file_system}, whose locks are not reliable: put it on a local disk")
    for change in changes:
        say(f"the job {table.job} changes: {change}")
    say(f"pooltable's own tables are ready for job {table.job}")


def _plain(
    table: TaskTable, look: Look, changes: Sequence[str], made: str | None, told: Sequence[str]
) -> dict[str, Any]:
    """What is said for people, for a program."""
    return {
        "job": table.job,
        "table": table.shown_name,
        "database": table.database,
        "key": table.key,
        "status": table.status,
        "fields": table.fields,
        "pending": look.pending,
        "words": [
            {"word": word, "rows": count, "left_alone": word in look.strange} for word, count in look.words.items()
        ],
        "hidden": look.hidden,
        "foreign_doing": look.foreign_doing,
        "index_made": made,
        "index_missing": None if made else look.index_sql,
        "changes": changes,
        "settings": told,
    }


def _make_index(table: TaskTable) -> str | None:
    """Makes the index that claims need, and gives its SQL; says so on stderr while that takes long."""
    done = threading.Event()

    def patience() -> None:
        began, wait = time.monotonic(), SAY_AFTER
        while not done.wait(wait):
            wait = SAY_AGAIN
            complain(f"still making the index ({time.monotonic() - began:.0f} s); {WAITS[table.kind]}")

    telling = threading.Thread(target=patience, name="pooltable-init", daemon=True)
    telling.start()
    try:
        return table.create_index()
    finally:
        done.set()
        telling.join()


# ---- writing the settings down


def _write(settings: Settings) -> list[str]:
    """Writes down what was given; what to say of that."""
    values, remark = _to_write(settings)
    if settings.file is not None and settings.file.name != OWN_FILE:
        file = str(settings.file)
        missing = {name: value for name, value in values.items() if settings.origin(name) != file}
        return [f"the settings are in {file}; add there:\n{to_toml(missing).rstrip()}"] if missing else []
    path = settings.file or Path(OWN_FILE)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = edited(before, values)
    told = [remark] if remark else []
    if after == before:
        return [f"{path} says all this already", *told]
    path.write_text(after, encoding="utf-8")
    return [f"wrote {path}; now: pooltable run module:function", *told]


def _from_environment(settings: Settings, name: str) -> bool:
    return name in OF_THE_TABLE and settings.origin(name) == BY_NAME[name].environment


def _to_write(settings: Settings) -> tuple[dict[str, Any], str]:
    """What belongs into the file, and what must be said of the password that does not."""
    # What the environment says of the table holds for its job from now on, and so for every shell.
    names = [name for name in settings if settings.origin(name).startswith("--") or _from_environment(settings, name)]
    values = {name: "NULL" if settings[name] is None else settings[name] for name in names}
    url = values.get("db")
    if not url or url.startswith(INDIRECT):
        return values, ""
    if password_of(url) is None:
        # What is typed starts in the current folder, what is written in the file's.
        folder = settings.file.parent if settings.file is not None else Path()
        values["db"] = with_path(url, lambda path: os.path.relpath(path, folder))
        return values, ""
    values["db"] = INDIRECT + VARIABLE
    return (
        values,
        f"the password is not written down: set {VARIABLE}={hide_password(url)} (with the password) where you run it",
    )
