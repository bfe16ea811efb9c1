"""`pooltable tune`: which numbers of processes, threads and rows at once suit a task best, measured on its own rows."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pooltable.cli.ending import complain
from pooltable.cli.options import JSON, TABLE, option, takes
from pooltable.cli.show import say, say_json, table_lines
from pooltable.cli.table import open_table
from pooltable.config import Settings
from pooltable.errors import UsageError
from pooltable.text import counted, is_terminal

if TYPE_CHECKING:
    from pooltable.tuner import Order, Tuner
    from pooltable.tuning import Choice, Score, Verdict

FEWEST_ROWS = 8
SAMPLE = 200
SHOWN = 12  # choices on the terminal while it runs


@takes(*TABLE, "Workers")
def tune(
    task: Annotated[
        str, typer.Argument(metavar="MODULE:FUNCTION", help="The function to measure, such as app:mission.")
    ],
    settings: Settings,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="How long it may take in all. (default: 60)")
    ] = 60.0,
    processes: Annotated[int | None, option("processes", min=1, text="Measure with so many only.")] = None,
    batch: Annotated[
        int | None, option("batch", min=1, text="Largest number of rows at once. (default: 4 times batch)")
    ] = None,
    initializer: Annotated[str | None, option("initializer")] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", metavar="N", min=1, help="Choose for so many rows. (default: those that wait)"),
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Write the choice into the file of settings.")] = False,
    as_json: JSON = False,
) -> int:
    """Measure which numbers of processes, threads and rows at once suit a function best.

    The function is run again and again on a sample of real rows, those that wait or else those that are done. Nothing
    is written to the table, but what the function itself does elsewhere, it does. The database's part is not measured.
    The start of the workers counts, and what they load: more of them pay only from a number of rows on.
    Ctrl-C ends it with what was measured until then.

    \b
    Examples:
      pooltable tune app:mission
      pooltable tune app:predict --batch 128             lists of up to 128 rows
      pooltable tune app:predict --processes 1           the other two only
      pooltable tune app:mission --seconds 300           when a call takes long
      pooltable tune app:mission --rows 100000 --save    choose for so many
    """
    from pooltable.tuner import Tuner
    from pooltable.tuning import verdict

    order = _order(task, settings, seconds, processes, batch, initializer, rows)
    tuner = Tuner(order)
    interrupted: KeyboardInterrupt | None = None
    try:
        _watch(tuner) if is_terminal(sys.stderr) and not as_json else tuner.run()
    except KeyboardInterrupt as error:
        interrupted = error
    scores = list(tuner.scores.values())
    found = verdict(scores, order.now, order.total)
    flags = task if initializer is None else f"{task} --initializer {initializer}"
    if found is not None and as_json:
        say_json(_plain(order, scores, found, flags, time.monotonic() - tuner.began))
    elif found is not None:
        _say(order, scores, found, flags, interrupted is not None)
    if interrupted is not None:
        raise interrupted
    if found is None:
        raise UsageError(f"no choice could be measured within {seconds:g} s: {_why(scores)}")
    if save:
        told = _save(settings, order, found)
        complain(told) if as_json else say(told)
    return 0


def _save(settings: Settings, order: Order, found: Verdict) -> str:
    """Writes the choice down, and says so."""
    from pooltable.cli.saving import save

    # What a flag says for this once is in no file yet.
    if found.keeps and not (order.processes or order.threads):
        return "nothing is saved: what is set now stays"
    values = {name: value for name, value in _choice(found.best.choice).items() if name != "batch" or value > 1}
    path = save(settings, values)
    told = ", ".join(f"{name} = {value}" for name, value in values.items())
    stronger = [origin for name in values if not (origin := settings.origin(name)).startswith("-")]
    stronger = [origin for origin in stronger if origin not in ("default", str(settings.file))]
    wins = f"; in the environment, {' and '.join(stronger)} wins" if stronger else ""
    return f"wrote {told} to {path}{wins}"


def _order(
    task: str,
    settings: Settings,
    seconds: float,
    processes: int | None,
    batch: int | None,
    initializer: str | None,
    rows_to_run: int | None,
) -> Order:
    from pooltable import tasks
    from pooltable.cores import usable_cores
    from pooltable.crew import Workers
    from pooltable.tuner import Order
    from pooltable.tuning import Choice

    takes_lists = max(batch or 1, settings["batch"]) > 1
    size = settings["batch"] if settings["batch"] > 1 else (batch or 1)
    tasks.set_up(settings["setup"])
    function = tasks.load(task)
    tasks.check(function, size)
    prepare = initializer or settings["initializer"]
    names = ("devices", "preload", "setup", "memory", "maxtasksperchild")
    workers = Workers(**{name: settings[name] for name in names})
    table = open_table(settings)
    largest = max(2, batch or 4 * size) if takes_lists else 1
    rows = table.sample(max(SAMPLE, largest, size))
    if len(rows) < FEWEST_ROWS:
        raise UsageError(
            f"table {table.shown_name!r} has {counted(len(rows), 'row')} to measure with, waiting or done; tune"
            f" needs {FEWEST_ROWS}"
        )
    largest = min(largest, len(rows))
    cores = usable_cores()
    count = processes or settings["processes"] or workers.count() or cores
    threads = settings["threads"]
    return Order(
        task=function,
        fields=table.fields,
        key_size=len(table.key),
        rows=rows,
        now=Choice(count, threads or max(1, cores // count), min(size, len(rows))),
        largest=largest,
        cores=cores,
        seconds=seconds,
        initializer=tasks.load(prepare) if prepare else None,
        workers=workers,
        processes=processes,
        threads=threads if settings.origin("threads") == "--threads" else None,
        total=rows_to_run or (None if settings["forever"] else table.counts().pending or None),
    )


# ---- while it runs


def _watch(tuner: Tuner) -> None:
    """Runs it with a table on the terminal that grows meanwhile."""
    from rich.console import Console
    from rich.live import Live

    with Live(get_renderable=lambda: _picture(tuner), console=Console(stderr=True), transient=True) as live:
        tuner.run(live.refresh)


def _picture(tuner: Tuner) -> Any:
    from rich.table import Table

    from pooltable.tuning import ranked

    passed = time.monotonic() - tuner.began if tuner.began else 0.0
    doing = str(tuner.doing) if tuner.doing else "first calls"
    picture = Table(box=None, pad_edge=False, caption_justify="left", title_justify="left")
    picture.title = f"round {tuner.round}: {doing}" if tuner.round else doing
    picture.caption = f"{passed:.0f} of {tuner.seconds:g} s"
    for head in _HEADS[:-1]:
        picture.add_column(head, justify="right")
    for score in ranked(tuner.scores.values(), tuner.total)[:SHOWN]:
        picture.add_row(*_cells(score)[:-1])
    return picture


# ---- afterwards

_HEADS = ("PROCESSES", "THREADS", "BATCH", "ROWS/S", "SPREAD", "START", "")


def _cells(score: Score) -> tuple[str, ...]:
    from pooltable.logs import seconds_text

    choice = score.choice
    rate = f"{score.rate:,.3g}" if 0 < score.rate < 100 else f"{score.rate:,.0f}" if score.rate else "-"
    spread = "" if score.spread is None else f"±{50 * score.spread:.0f} %"
    start = seconds_text(score.start) if score.starts else ""
    return (str(choice.processes), str(choice.threads), str(choice.batch), rate, spread, start, "")


def _say(order: Order, scores: list[Score], found: Verdict, task: str, interrupted: bool) -> None:
    from pooltable.tuning import pays_from

    def note(score: Score) -> str:
        notes = ["best"] if score is found.best and not found.keeps else []
        notes += ["as it is set now"] if score.choice == order.now else []
        notes += [score.failure or "cut early"] if score.failure or score.cut else []
        return ", ".join(notes or ([] if score.rates else ["not measured"]))

    lines = sorted(scores, key=lambda score: (-score.rate, score.choice))
    for line in table_lines(_HEADS, [(*_cells(one)[:-1], note(one)) for one in lines], frozenset(range(6))):
        say(line)
    say()
    best = found.best
    rows = "" if found.rows is None else f" for {found.rows:,} rows"
    if found.keeps:
        say(f"nothing is clearly faster than what is set now{rows}: {order.now}")
    elif found.gain is None:
        say(f"what is set now ({order.now}) could not be measured; best of the others:")
    else:
        say(f"{found.gain:.2g} times as fast as what is set now ({order.now}){rows}: {_compared(found)}")
    say(f"pooltable run {task} {best.choice.flags}")
    if found.later is not None:
        say(f"from {pays_from(found.later, best):,} rows on {found.later.choice.flags} is faster; see --rows")
    if missing := sum(not (score.rates or score.failure) for score in scores):
        remedy = "" if interrupted else f": give --seconds a larger number than {order.seconds:g}"
        say(f"not everything was measured ({missing} left){remedy}")


def _compared(found: Verdict) -> str:
    """The best choice beside what is set now: what each takes, and for how many rows the best one pays."""
    from pooltable.logs import seconds_text
    from pooltable.tuning import pays_from

    best, now = found.best, found.now
    starts = f"the start is {seconds_text(best.start)} against {seconds_text(now.start)}"
    pays = pays_from(best, now)
    pays_text = "" if pays is None or pays == 1 else f"; it pays from {pays:,} rows on"
    if found.rows is None:
        return f"{best.rate:,.4g} against {now.rate:,.4g} rows/s, {starts}{pays_text}"
    takes = f"{seconds_text(best.seconds_for(found.rows))} against {seconds_text(now.seconds_for(found.rows))}"
    return f"{takes}, {starts}{pays_text}"


def _why(scores: list[Score]) -> str:
    return next((score.failure for score in scores if score.failure), "give --seconds a larger number")


def _plain(order: Order, scores: list[Score], found: Verdict, task: str, seconds: float) -> dict[str, Any]:
    from pooltable.tuning import pays_from

    def one(score: Score) -> dict[str, Any]:
        return {
            **_choice(score.choice),
            "rate": score.rate or None,
            "rates": score.rates,
            "start": score.start,
            "cut": score.cut,
            "failure": score.failure or None,
        }

    return {
        "best": one(found.best),
        "now": one(found.now),
        "gain": found.gain,
        "for_rows": found.rows,
        "pays_from": None if found.keeps else pays_from(found.best, found.now),
        "later": None if found.later is None else one(found.later),
        "command": f"pooltable run {task} {found.best.choice.flags}",
        "rows": len(order.rows),
        "seconds": seconds,
        "measured": [one(score) for score in scores],
    }


def _choice(choice: Choice) -> dict[str, int]:
    return {"processes": choice.processes, "threads": choice.threads, "batch": choice.batch}
