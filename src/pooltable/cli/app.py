"""The commands of `pooltable`, in the order in which one meets them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from pooltable import __version__
from pooltable.cli import add, change, demo, doctor, init, look, map as mapped, prune, run, settings, tune
from pooltable.cli.command import Command, Commands
from pooltable.cli.ending import INTERRUPTED

HELP = """\
Runs a Python function over the rows of a database table in many processes.

Set up once, in the folder of your code; then run a function on every row that waits:

\b
    pooltable init --db sqlite:///videos.db --table video --write caption
    pooltable run app:mission
    pooltable status
    pooltable failures
    pooltable retry --failed

Options can also stand in pooltable.toml, in tool.pooltable of pyproject.toml, or in the environment: --max-rows is
max_rows there and POOLTABLE_MAX_ROWS here. A command's --help shows what is needed most, its --help-all everything.
"""

app = typer.Typer(
    name="pooltable",
    help=HELP,
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

GROUPS = {
    "Set up": (demo.demo, init.init, add.add, doctor.doctor, settings.config),
    "Work": (run.run, run.try_, tune.tune, mapped.map_),
    "Look": (look.status, look.failures, look.show, look.logs),
    "Change": (change.retry, change.pause, change.resume, change.release, prune.prune),
}
for group, commands in GROUPS.items():
    for command in commands:
        # What stands behind the COMMAND of map belongs to it, also if it looks like an option of ours.
        own = {"allow_interspersed_args": False} if command is mapped.map_ else {}
        name = command.__name__.rstrip("_")
        app.command(name=name, cls=Command, rich_help_panel=group, context_settings=own)(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Options before any command, whose callbacks do what they say; without any word, the help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def invoke(arguments: list[str] | None = None) -> int:
    """Runs one command line; its exit code. Raises what the command raises."""
    group: Any = typer.main.get_command(app)
    code = group.main(
        args=sys.argv[1:] if arguments is None else arguments, prog_name="pooltable", standalone_mode=False
    )
    if code == INTERRUPTED:
        raise KeyboardInterrupt  # of which Typer has made this exit code, without a word
    return code if isinstance(code, int) else 0
