"""`pooltable run` and `pooltable try`: the task at work."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pooltable.cli.ending import complain
from pooltable.cli.options import JSON, TABLE, option, takes
from pooltable.cli.show import plain, say, say_json
from pooltable.cli.table import ask_columns, can_ask, open_table, read_key
from pooltable.config import BY_NAME, Settings, to_toml
from pooltable.errors import (
    CannotStore,
    CommandFailed,
    Fail,
    Later,
    ResultDropped,
    SettingError,
    TaskError,
    UsageError,
    describe,
)
from pooltable.outcomes import Outcome, Raised, Returned
from pooltable.text import for_people, is_terminal, short

if TYPE_CHECKING:
    from pooltable.batches import Batch
    from pooltable.events import Event, Summary
    from pooltable.progress import Progress
    from pooltable.runner import Runner
    from pooltable.table.table import TaskTable
    from pooltable.tasks import Spec

TASK = Annotated[
    str | None,
    typer.Argument(
        metavar="MODULE:FUNCTION", help="The function to run on each row, such as app:mission.", hidden=True
    ),
]


@takes(
    *(*TABLE, "Running", "Command", "Trying again", "Stopping and leases", "Workers", "Showing"),
    shows=("write", "result", "where"),
)
def run(settings: Settings, task: TASK = None, as_json: JSON = False) -> int:
    """Run a function, or a command, on every row that waits.

    \b
    Examples:
      pooltable run app:mission                       until nothing is left to do
      pooltable run app:mission --forever             a service; Ctrl-C drains it
      pooltable run app:mission --fails 3 --time-limit 60
      pooltable run app:predict -p 4 --batch 32       lists of 32 rows, for a model
      pooltable run --command 'ffmpeg -i {content} {id}.mp3'

    \b
    Exit codes: 0 all rows DONE, or a service stopped; 1 some FAILED; 2 usage;
    3 stopped with work left; 4 the database; 5 no worker can start; 6 halted.
    \f
    The function gets a row, or with --batch a list of them, and returns what is to be stored; it runs in worker
    processes, one call at a time in each.
    A command gets the row's columns as arguments; what it prints is stored if a column is named with --write or
    --result, and a row whose command ends with another exit status than 0 is FAILED.
    A run halts when so many rows as --halt says failed alike, one after the other.

    \b
    More examples:
      pooltable run app:mission --initializer app:load_model --memory 4GB
      pooltable run app:mission --max-rows 100 --retry-pause 10
      pooltable run --command 'wc -w < {content} | tr -d " "' --shell --write words
    """
    try:
        return _run(settings, task, as_json)
    except ResultDropped as error:
        if not can_ask():
            raise
        typer.echo(f"the task returned a value for row {error.key}, and no column takes it", err=True)
        answer = ask_columns(open_table(settings), "drop it, and that of every row") or {"drop_results": True}
        _keep(answer, settings)
        return _run(settings.answered(answer), task, as_json)


def _keep(answer: dict[str, Any], settings: Settings) -> None:
    """Offers to write the answer into the file of settings; where there is none, says what to give the next time."""
    from pooltable.cli.saving import save

    if settings.file is None:
        given = [f"{BY_NAME[name].flags[0]} {_as_flag(value)}".rstrip() for name, value in answer.items()]
        typer.echo(f"to be asked no more, give {' '.join(given)}", err=True)
    elif typer.confirm(f"Keep this answer in {settings.file}", default=True, err=True):
        typer.echo(f"wrote {to_toml(answer).rstrip()} to {save(settings, answer)}", err=True)


def _as_flag(value: Any) -> str:
    """The value of a setting as it stands behind its flag; "" for a switch."""
    if value is True:
        return ""
    return shlex.quote(value if isinstance(value, str) else ",".join(value))


def _run(settings: Settings, task: str | None, as_json: bool) -> int:
    from pooltable.progress import Progress

    table = open_table(settings)
    silent = settings["quiet"] or _json_on_stderr(settings)
    # Rows that run in this process print past the bar, and a debugger needs the terminal for itself.
    bar = is_terminal(sys.stderr) and not silent and settings["processes"] != 0
    with Progress(forever=settings["forever"], bar=bar) as progress:
        runner = _runner(task, table, settings, progress, [] if silent else [progress])
        try:
            summary = runner.run()
        except Exception as error:
            stopped: Summary | None = getattr(error, "summary", None)
            if stopped is not None and (stopped.done or stopped.failed):
                _say_summary(stopped, as_json)
            raise
    _say_summary(summary, as_json)
    if summary.error:
        complain(summary.error)
    return summary.exit_code


def _say_summary(summary: Summary, as_json: bool) -> None:
    from pooltable.logs import summary_text

    try:
        say_json(summary) if as_json else say(f"run {summary.run}: {summary_text(summary)}")
    except BrokenPipeError:
        return  # the run is over, and its exit code says how


def _json_on_stderr(settings: Settings) -> bool:
    return bool(settings["log_json"] and not settings["log"])


def _task(
    task: str | None, table: TaskTable, settings: Settings, batch: int, prepare: Callable[[], object]
) -> Callable[[Any], Any]:
    """The function, or the command. One that stands on the command line wins over one that does not.

    `prepare` gets the table ready, whose columns a command names.
    """
    from pooltable import tasks

    asked = settings["command"]
    if task is not None and (asked is None or settings.origin("command") != "--command"):
        return tasks.load(task)
    if task is not None:
        raise UsageError("run a function or a command? Give MODULE:FUNCTION or --command, not both")
    if asked is None:
        raise UsageError(
            "run what? Give a function, such as app:mission, or --command 'program {column}'; see pooltable run --help"
        )
    if batch > 1:
        raise UsageError("a command takes one row at a time: leave out --batch")
    from pooltable import commands

    prepare()
    columns = [*table.write, *([table.result] if table.result else [])]
    if len(columns) > 1:
        raise UsageError(f"what a command prints goes to one column, not to {', '.join(columns)}: name one of them")
    if not settings["shell"] and (hint := commands.read_by_a_shell(asked.split())):
        complain(hint)
    return commands.command(
        asked, table.fields, shell=settings["shell"], stores=bool(columns), allow_dashes=settings["allow_dashes"]
    )


def _runner(
    task: str | None,
    table: TaskTable,
    settings: Settings,
    progress: Progress,
    listeners: list[Callable[[Event], object]],
) -> Runner:
    from pooltable import Pace, Runner, Workers, tasks
    from pooltable.events import Listeners
    from pooltable.logs import Logs
    from pooltable.patience import at_the_start
    from pooltable.table.states import Retry

    tasks.set_up(settings["setup"])
    if _log(settings, progress):
        listeners = [*listeners, Logs()]

    def prepare() -> None:
        at_the_start(lambda: table.prepare(create=False), settings["db_wait"], Listeners(listeners).tell, time.sleep)

    function = _task(task, table, settings, settings["batch"], prepare)
    initializer = tasks.load(settings["initializer"]) if settings["initializer"] else None
    names = ("threads", "devices", "preload", "setup", "memory", "maxtasksperchild", "idle_timeout")
    retry = ("fails", "lost", "rescued", "factor", "longest_pause", "jitter")
    return Runner(
        function,
        table,
        processes=settings["processes"],
        initializer=initializer,
        batch=settings["batch"],
        time_limit=settings["time_limit"],
        retry=Retry(pause=settings["retry_pause"], **{name: settings[name] for name in retry}),
        forever=settings["forever"],
        poll=settings["poll"],
        max_rows=settings["max_rows"],
        drop_results=settings["drop_results"],
        workers=Workers(**{name: settings[name] for name in names}),
        pace=Pace(**{name: settings[name] for name in ("lease", "grace", "halt", "wait", "db_wait")}),
        listeners=listeners,
    )


def _log(settings: Settings, progress: Progress) -> bool:
    """Sets logging up for this process, whose only job is the run; False when nothing is logged anywhere."""
    from pooltable.logs import JsonFormatter, LineHandler, PlainFormatter

    root, ours = logging.getLogger(), logging.getLogger("pooltable")
    root.setLevel(logging.INFO)
    handlers: list[logging.Handler] = []
    if settings["log"]:
        try:
            # What a hostile row makes a worker log must not be able to end the log.
            file = logging.FileHandler(settings["log"], encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise SettingError(f"--log: cannot write to {settings['log']!r}: {error.strerror}") from None
        file.setFormatter(JsonFormatter() if settings["log_json"] else PlainFormatter())
        handlers.append(file)
        ours.setLevel(logging.DEBUG)
    if not settings["quiet"]:
        lines = LineHandler(progress.write)
        lines.setLevel(logging.DEBUG if settings["verbose"] else logging.INFO)
        lines.setFormatter(JsonFormatter() if _json_on_stderr(settings) else PlainFormatter(colours=True))
        if not _json_on_stderr(settings):
            # The same words go to stdout, as the result of the command.
            lines.addFilter(lambda record: not hasattr(record, "exit_code"))
        handlers.append(lines)
        if settings["verbose"]:
            ours.setLevel(logging.DEBUG)
    root.handlers[:] = handlers  # in place of those of an earlier run, whose question was answered
    return bool(handlers)


@takes(*TABLE, "Command")
def try_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE:FUNCTION KEY",
            help="The function, such as app:mission, unless there is a command; the rows' keys, as in 42 or a,b.",
        ),
    ],
    settings: Settings,
    initializer: Annotated[str | None, option("initializer", text="app:function, called first.")] = None,
    setup: Annotated[str | None, option("setup")] = None,
    batch: Annotated[int | None, option("batch", min=1)] = None,
    pdb: Annotated[bool, typer.Option("--pdb", help="Start the debugger where the function raises.")] = False,
    as_json: JSON = False,
) -> int:
    """Run a function, or a command, on one row, here and now; or on a few. Nothing is written to the table.

    The function runs in this process, so print, breakpoint() and the debugger work as always. The rows may be in any
    state and stay in it.

    \b
    Examples:
      pooltable try app:mission 42
      pooltable try app:mission 42 --pdb
      pooltable try app:predict 1 2 3 --batch 3       one call with three rows
      pooltable try --command 'ffmpeg -i {content} {id}.mp3' 42
    """
    from pooltable import tasks

    task, keys = _task_and_keys(words, settings)
    if not keys:
        raise UsageError("try which rows? Give their keys, such as 42")
    size = batch or settings["batch"]
    table = open_table(settings)
    tasks.set_up(setup or settings["setup"])
    function = _task(task, table, settings, size, lambda: table.prepare(create=False))
    tasks.check(function, size)
    prepare = initializer or settings["initializer"]
    first = tasks.load(prepare) if prepare else None
    rows = []
    for key in keys:
        row = table.row(read_key(key, table))
        if row is None:
            raise UsageError(f"table {table.shown_name!r} has no row with key {key!r}")
        rows.append((tuple(row), 1, f"try {key}"))
    spec = tasks.Spec(function, table.fields, len(table.key), first, batch=size)
    code = 0
    tried: list[dict[str, Any]] = []
    with _printing_to_stderr() if as_json else nullcontext():
        try:
            tasks.initialize(spec)
            for at in range(0, len(rows), size):
                some = keys[at : at + size]
                returned, seconds = _try(spec, tuple(rows[at : at + size]))
                outcomes = [_storable(outcome, table) for outcome in returned]
                code |= any(isinstance(one, Raised) and not isinstance(one.error, Later) for one in outcomes)
                tried += [_tried(key, outcome, seconds) for key, outcome in zip(some, outcomes, strict=True)]
                if not as_json:
                    _say_tried(some, outcomes, seconds, table, named=len(keys) > 1)
        except Exception as error:
            code = _raised(error, pdb)
            tried += [_tried(key, Raised(error), None) for key in keys[len(tried) : len(tried) + size]]
    if as_json:
        say_json(tried)
    return code


def _task_and_keys(words: list[str], settings: Settings) -> tuple[str | None, list[str]]:
    """What stands before the keys, if anything does: a command is an option, and a function has a colon."""
    if settings["command"] is None or (settings.origin("command") != "--command" and ":" in words[0]):
        return words[0], words[1:]
    return None, words


def _try(spec: Spec, rows: Batch) -> tuple[Sequence[Outcome], float]:
    """One call of the function: an outcome for each row, and the seconds it took."""
    from pooltable import batches, tasks

    started = time.perf_counter()
    outcomes: Sequence[Outcome]
    try:
        outcomes = [Returned(tasks.call_here(spec, *rows[0]))] if spec.batch == 1 else batches.call(spec, rows)
    except (Later, Fail, CommandFailed, TaskError) as told:
        # These say all there is to say; where they were raised would not help.
        outcomes = [Raised(told)] * len(rows)
    return outcomes, time.perf_counter() - started


def _tried(key: str, outcome: Outcome, seconds: float | None) -> dict[str, Any]:
    told: dict[str, Any] = {"key": key, "ended": "returned", "value": None, "reason": None, "seconds": seconds}
    match outcome:
        case Returned(value):
            return {**told, "value": plain(value)}
        case Raised(Later() as later):
            return {**told, "ended": "later", "reason": later.reason or None}
        case Raised(error):
            return {**told, "ended": "failed", "reason": _reason(error)}


def _reason(error: BaseException) -> str:
    return error.reason if isinstance(error, Fail) else describe(error).reason


@contextmanager
def _printing_to_stderr() -> Iterator[None]:
    """What the function prints goes to stderr meanwhile, also from C, so that stdout is the result alone."""
    if sys.stdout is None or sys.stderr is None:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _say_tried(keys: list[str], outcomes: Sequence[Outcome], seconds: float, table: TaskTable, named: bool) -> None:
    for key, outcome in zip(keys, outcomes, strict=True):
        name = f"row {key}" if named else "the row"
        match outcome:
            case Returned(value):
                before = f"row {key} " if named else ""
                say(f"{before}returned after {seconds:.3g} s: {short(value, 2000)}")
                _say_where(value, table)
            case Raised(Later() as later):
                say(f"{name} would be {later}; nothing was written")
            case Raised(error):
                say(f"{name} would be FAILED: {_reason(error)}; nothing was written")


def _say_where(value: Any, table: TaskTable) -> None:
    """Whether the value could be stored, as a run would store it."""
    if value is None:
        say("a run would write the status only; nothing was written")
    elif not (table.write or table.result):
        say("no column takes this value: name one with --write or --result; nothing was written")
    else:
        columns = ", ".join([*table.write, *([table.result] if table.result else [])])
        say(f"a run would write it to {columns}; nothing was written")


def _storable(outcome: Outcome, table: TaskTable) -> Outcome:
    """The outcome, or why no column can hold the value, which a run would find as well."""
    if table.store is not None and isinstance(outcome, Returned) and outcome.value is not None:
        try:
            table.store(outcome.value)
        except CannotStore as error:
            return Raised(error)
    return outcome


_OURS = ("pooltable.tasks", "pooltable.batches")


def _raised(error: Exception, pdb: bool) -> int:
    import traceback

    # From the user's own first frame on: ours above it explain nothing.
    trace = error.__traceback__
    ours = [__file__, *(module.__file__ for name, module in sys.modules.items() if name in _OURS)]
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    if sys.stderr is not None:
        told = "".join(traceback.format_exception(type(error), error, trace))
        sys.stderr.write(for_people(told, sys.stderr))
    if pdb:
        import pdb as debugger

        debugger.post_mortem(trace)
    complain("the function raised; a run would count this as a failure. Nothing was written")
    return 1
