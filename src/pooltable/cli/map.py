"""`pooltable map`: a command on arguments, folders or hosts, with a memory of what is done.

COMMAND ::: ARGUMENTS  --map_rows.py-->  rows of a table  --Runner, arguments.py-->  ends  --map_output.py-->  stdout
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pooltable.cli.command import HelpAll
from pooltable.cli.ending import NOBODY_READS, complain
from pooltable.cli.options import option
from pooltable.cli.show import say
from pooltable.errors import Fail, PooltableError, UsageError
from pooltable.text import is_terminal, terminal_lines

if TYPE_CHECKING:
    from pooltable.arguments import Given, OnArguments
    from pooltable.cli.map_output import Halt, JobLog, Results
    from pooltable.cli.map_rows import Rows, Taken
    from pooltable.events import Event, Summary
    from pooltable.progress import Progress
    from pooltable.table.table import TaskTable

DATABASE = "pooltable-map.db"
INPUT, OUTPUT, ENDING = "What it runs on", "What it shows", "How it ends"


def map_(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [::: ARGUMENT]", show_default=False)],
    null: Annotated[
        bool, typer.Option("--null", "-0", help="stdin: a NUL character ends an argument.", rich_help_panel=INPUT)
    ] = False,
    folders: Annotated[
        str | None, typer.Option("--dir", metavar="GLOB", help="In each folder that matches.", rich_help_panel=INPUT)
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            "--hosts",
            metavar="FILE",
            help="On each host of this file, through ssh; : is this one.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    ssh: Annotated[
        str, typer.Option("--ssh", metavar="COMMAND", help="How ssh is called.", rich_help_panel=INPUT, hidden=True)
    ] = "ssh",
    shell: Annotated[
        bool, typer.Option("--shell", help="Have a shell read the command.", rich_help_panel=INPUT)
    ] = False,
    allow_dashes: Annotated[
        bool,
        option("allow_dashes", text="Take arguments that start with - as options.", panel=INPUT, hidden=True),
    ] = False,
    database: Annotated[
        str, typer.Option("--db", metavar="FILE", help="Where it is kept what is done.", rich_help_panel=INPUT)
    ] = DATABASE,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what has failed before.", rich_help_panel=INPUT)
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Run again what is done or has failed before.", rich_help_panel=INPUT)
    ] = False,
    keep_order: Annotated[
        bool, typer.Option("--keep-order", "-k", help="Output in the order of input.", rich_help_panel=OUTPUT)
    ] = False,
    tag: Annotated[
        bool, typer.Option("--tag", help="Arguments and a tab before each line.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each command and its output.", rich_help_panel=OUTPUT)
    ] = False,
    job_log: Annotated[
        str | None,
        typer.Option("--joblog", metavar="FILE", help="A line for each command that ended.", rich_help_panel=OUTPUT),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, and run nothing.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No bar and no last line on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    processes: Annotated[
        int | None, option("processes", "-j", min=1, text="How many run at once. (default: the cores)", panel=ENDING)
    ] = None,
    time_limit: Annotated[
        float | None,
        option("time_limit", "--timeout", text="Seconds that one may run before it is killed.", panel=ENDING),
    ] = None,
    fails: Annotated[
        int, option("fails", "--retries", min=1, text="Attempts that a command has. (default: 1)", panel=ENDING)
    ] = 1,
    halt: Annotated[
        str,
        typer.Option(
            "--halt",
            metavar="WHEN",
            help="When N in a row failed alike, or now,fail=1.",
            rich_help_panel=ENDING,
        ),
    ] = "never",
    help_all: HelpAll = False,
) -> int:
    """Run a command on many arguments: several at once, with a memory of what is done.

    \b
    Examples:
      pooltable map gzip -9 ::: *.log                     one gzip for each file
      pooltable map -k --tag echo {1} {2} ::: a b ::: x y         each with each
      pooltable map --shell 'wc -w < {} > {.}.count' ::: *.txt
      find . -name '*.wav' -print0 | pooltable map -0 ffmpeg -i {} {.}.mp3

    \b
    Options come before COMMAND. Without ::: the lines of stdin are the arguments.
      {}      the argument; added at the end if the command has no such place
      {.}     without its extension        {/}     only the file's name
      {//}    only the folder              {/.}    the name without its extension
      {2} {2/.} ...  of the second list    {#}     its number, from 1 up

    Called again, it runs only what is left; --retry-failed also what failed, and --again everything.
    \f
    \b
    More examples:
      pooltable map --dir 'projects/*' git pull
      pooltable map --hosts hosts.txt uptime
      pooltable map --fails 3 --time-limit 60 --joblog jobs.log curl -fO < urls.txt

    No shell reads the command or an argument, unless --shell is given, and then only the command.

    The same arguments are the same row in --db. Ctrl-C lets what runs come to its end; the rest is left for the next
    time.

    \b
    Exit codes: 0 all is done; 1 some failed; 2 usage; 3 work is left, or runs
    in another call; 6 halted by --halt.
    """
    from pooltable import arguments
    from pooltable.cli import map_input
    from pooltable.cli.map_output import JobLog, read_halt
    from pooltable.cli.map_rows import Rows
    from pooltable.commands import read_by_a_shell

    words, lists = map_input.split(command, shell)
    inputs = [bool(lists), folders is not None]
    if all(inputs) or (folders is not None and hosts is not None):
        raise UsageError(
            "run it on what? Give one of ::: ARGUMENTS, --dir GLOB and lines on stdin; --hosts not with --dir"
        )
    when = read_halt(halt)
    if folders is not None:
        lists = [map_input.folders_of(folders)]
    elif not lists and hosts is None:
        lists = [map_input.read_stdin(null)]
    template = arguments.template(words, len(lists), shell=shell, append=folders is None)
    caller = map_input.ssh_words(ssh) if hosts is not None else ()
    named = map_input.hosts_of(hosts) if hosts is not None else [arguments.NO_HOST]
    given = list(map_input.combined(lists, named))
    if not given:
        if not quiet:
            complain("there are no arguments, so nothing was run")
        return 0
    rows = Rows(database, template.text.split()[0], [template.text, shell, folders is not None])
    task = arguments.OnArguments(
        template, map_input.path_of(template.program, folders, given), "", folders is not None, caller, allow_dashes
    )
    if not shell and (hint := read_by_a_shell(words)):
        complain(hint)
    if dry_run:
        return _show(task, given, set() if again else rows.over(with_failed=not retry_failed))
    log = JobLog(job_log) if job_log is not None else None
    taken = rows.take(template.text, given, again)
    work = _Work(task, rows, taken, log, when, keep_order, tag, as_json, quiet)
    return work.run(processes, time_limit, fails, retry_failed)


# ---- showing what would be run


def _show(task: OnArguments, given: list[Given], over: set[tuple[str, str]]) -> int:
    """`over`: host and arguments of what would not be run."""
    code = 0
    for one in given:
        if (one.host, json.dumps(one.arguments)) in over:
            continue
        try:
            _write_line(_written(task, one))
        except Fail as error:
            complain(str(error))
            code = 1
    return code


def _written(task: OnArguments, one: Given) -> str:
    """The command as one could type it."""
    from pooltable.arguments import HERE, NO_HOST

    filled = task.template.fill(one.value, task.allow_dashes)
    text = task.template.shown(filled) if task.template.shell else shlex.join(map(os.fsdecode, filled))
    if task.in_folders:
        return f"cd {shlex.quote(one.arguments[0])} && {text}"
    return text if one.host in (NO_HOST, HERE) else shlex.join([Path(task.ssh[0]).name, *task.ssh[1:], one.host, text])


def _write_line(text: str) -> None:
    """One of the commands: exactly, for a shell or a file, and harmless for people."""
    if is_terminal(sys.stdout):
        say(text)
    elif sys.stdout is not None:
        sys.stdout.buffer.write(os.fsencode(text) + b"\n")


# ---- running it


class _Work:
    """One run over the rows that were taken, with what it shows."""

    def __init__(
        self,
        task: OnArguments,
        rows: Rows,
        taken: Taken,
        job_log: JobLog | None,
        halt: Halt | int,
        keep_order: bool,
        tag: bool,
        as_json: bool,
        quiet: bool,
    ) -> None:
        self._task = task
        self._rows = rows
        self._taken = taken
        self._job_log = job_log
        self._halt = halt
        self._keep_order = keep_order
        self._tag = tag
        self._as_json = as_json
        self._quiet = quiet

    def run(self, processes: int | None, time_limit: float | None, fails: int, retry_failed: bool) -> int:
        from pooltable import Retry
        from pooltable.progress import Progress
        from pooltable.reporter import own_folder

        table = self._rows.table(self._taken.run)
        if retry_failed and self._taken.failed:
            table.requeue(failed=True)
            self._taken = self._rows.look(self._taken.run)
        if not self._taken.left:
            return self._nothing_left()
        # The bar and the output would tear each other on one terminal.
        bar = is_terminal(sys.stderr) and not is_terminal(sys.stdout) and not self._quiet
        outputs = own_folder()
        try:
            with Progress(bar=bar) as progress:
                options = {"processes": processes, "time_limit": time_limit}
                summary, results = self._run(table, outputs, progress, bar, {**options, "retry": Retry(fails=fails)})
        finally:
            shutil.rmtree(outputs, ignore_errors=True)
            if self._job_log is not None:
                self._job_log.close()
        if isinstance(results.unwritable, BrokenPipeError):
            return NOBODY_READS
        if results.unwritable is not None:
            raise PooltableError(f"stdout takes no more: {results.unwritable.strerror}")
        return self._ended(summary, results.halted, is_terminal(sys.stderr))

    def _run(
        self, table: TaskTable, outputs: str, progress: Progress, bar: bool, options: dict[str, Any]
    ) -> tuple[Summary, Results]:
        from dataclasses import replace

        from pooltable import Pace, Runner
        from pooltable.cli.map_output import Halt, Results

        def stop(now: bool) -> None:
            runner.stop()
            if now:
                runner.stop()

        results = Results(
            outputs,
            lambda given: _as_tried(self._task, given),
            stop,
            lambda text: progress.write(f"pooltable: {text}"),
            total=len(self._taken.left),
            order=self._taken.left if self._keep_order else None,
            tag=self._tag,
            as_json=self._as_json,
            job_log=self._job_log,
            halt=self._halt if isinstance(self._halt, Halt) else None,
        )
        runner = Runner(
            replace(self._task, outputs=outputs),
            table,
            callback=results.done,
            error_callback=results.failed,
            pace=Pace(halt=0 if isinstance(self._halt, Halt) else self._halt),
            listeners=[_Heard(progress), *([progress] if bar else [])],
            **options,
        )
        summary = runner.run()
        results.close()
        return summary, results

    def _nothing_left(self) -> int:
        if not self._quiet:
            done, failed = self._taken.done, self._taken.failed
            told = f"nothing is left to do: {done} {'was' if done == 1 else 'were'} done before"
            told += f", {failed} failed (run them again with --retry-failed)" if failed else ""
            complain(f"{told}; --again runs everything again")
        return 1 if self._taken.failed else 0

    def _ended(self, summary: Summary, halted: bool, terminal: bool) -> int:
        from pooltable.cli.map_output import Halt
        from pooltable.logs import summary_text

        code = summary.exit_code
        if halted and isinstance(self._halt, Halt):
            # What --halt was waiting for is no failure, unless it was failures.
            code = 6 if self._halt.what == "fail" else 1 if summary.failed else 0
        elif code == 0 and self._rows.look(self._taken.run).left:
            code = 3  # another call of the same command runs them
        if code == 0 and self._taken.failed:
            code = 1
        if not self._quiet and (terminal or code):
            complain(("halted: " if halted else "") + summary_text(summary))
            if self._taken.failed:
                complain(f"{self._taken.failed} had failed before; run them again with --retry-failed")
            if summary.failed:
                where = f"--db {shlex.quote(str(self._rows.file))} --table {self._rows.name}"
                complain(f"what they printed: pooltable failures {where}; run them again with --retry-failed")
        if summary.error:
            complain(summary.error)
        return code


def _as_tried(task: OnArguments, given: Given) -> str:
    try:
        return _written(task, given)
    except Fail:
        return f"{task.template.text} ({shlex.join(given.arguments)})"


class _Heard:
    """A listener that shows what commands write to stderr, and what goes wrong with the run itself."""

    def __init__(self, progress: Progress) -> None:
        import logging

        from pooltable.logs import LineHandler, Logs, PlainFormatter

        self._write = progress.write
        self._logs = Logs()
        lines = LineHandler(progress.write)
        lines.setLevel(logging.WARNING)
        lines.setFormatter(PlainFormatter(colours=True))
        lines.addFilter(lambda record: not hasattr(record, "exit_code"))  # the last line says it
        logging.getLogger("pooltable").addHandler(lines)

    def __call__(self, event: Event) -> None:
        from pooltable.events import RowsFinished, Stopping, WorkerEnded, WorkerPrinted

        match event:
            case WorkerPrinted():
                for line in terminal_lines(event.text):
                    self._write(line)
            case RowsFinished() | WorkerEnded(why="killed") | Stopping(reason="stop()"):
                pass  # each failure is told where its output is printed; and these stops are our own
            case _:
                self._logs(event)
