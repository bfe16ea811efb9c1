"""The commands of `pooltable` as Typer makes them, with help that fits two screens.

    --help        what is needed most; of the text what comes before a form feed
    --help-all    every option, and the whole text

Options are in the groups of their panels. Those that only --help-all shows are declared with `hidden=True`.
"""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

GENERAL = "General"  # the group of what every command has
NAMES = 32  # columns for the names of an option at most; a longer one has a line of its own


class Command(TyperCommand):
    """One command. Its usage errors know which command they are of."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seldom = {one.name for one in self.params if getattr(one, "hidden", False)}
        for one in self.params:
            one.hidden = False  # type: ignore[attr-defined]  # a shell completes all of them

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # An option without its value is told by the parser, which does not say for which command.
            if getattr(error, "ctx", self) is None:
                error.ctx = ctx  # type: ignore[attr-defined]
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(argument_text(one) for one in self.params if one.param_type_name == "argument")]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.write_help(ctx, formatter, everything=False)

    def write_help(self, ctx: Any, formatter: Any, everything: bool) -> None:
        _write_top(self, ctx, formatter, everything)
        # The command's own options come first, what every command has comes last.
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        last: list[tuple[str, str]] = []
        one: Any
        for one in self.get_params(ctx):
            told = one.param_type_name == "option" or one.help
            if told and (everything or one.name not in self.seldom):
                group = "Arguments" if one.param_type_name == "argument" else _panel(one) or "Options"
                rows = last if one.name == "help" or group == GENERAL else groups.setdefault(group, [])
                rows.append(_record(one, everything))
        _write_groups(formatter, {**groups, GENERAL: last})


class Commands(TyperGroup):
    """All commands, in groups."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_top(self, ctx, formatter, everything=True)
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            groups.setdefault(_panel(command) or "Commands", []).append((name, _first_sentence(command)))
        _write_groups(formatter, groups)
        _write_groups(formatter, {"Options": [_record(one, True) for one in self.get_params(ctx)]})


def _all(context: typer.Context, wanted: bool) -> None:
    command: Any = context.command
    if wanted and not context.resilient_parsing:
        formatter: Any = context.make_formatter()
        command.write_help(context, formatter, everything=True)
        typer.echo(formatter.getvalue().rstrip("\n"))
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all", help="Show all options and leave.", is_eager=True, callback=_all, rich_help_panel=GENERAL
    ),
]


def _panel(thing: Any) -> str:
    found = getattr(thing, "rich_help_panel", None)
    return found if isinstance(found, str) else ""


def _write_top(command: Any, ctx: Any, formatter: Any, everything: bool) -> None:
    command.format_usage(ctx, formatter)
    before, _, after = inspect.cleandoc(command.help or "").partition("\f")
    formatter.write_paragraph()
    formatter.write_text(before.rstrip() + ("\n\n" + after.strip() if everything and after else ""))
    formatter.write_paragraph()


def _write_groups(formatter: Any, groups: dict[str, list[tuple[str, str]]]) -> None:
    widest = max((len(names) for rows in groups.values() for names, _ in rows if len(names) <= NAMES), default=0)
    for title, rows in groups.items():
        if not rows:
            continue
        formatter.write(typer.style(title, bold=True) + ":\n")
        with formatter.indentation():
            # Padded, so that the texts of all groups begin in the same column.
            formatter.write_dl([(names.ljust(widest), text) for names, text in rows], col_max=widest)


def _record(one: Any, everything: bool) -> tuple[str, str]:
    """The names of a parameter and what is said of it."""
    if one.param_type_name == "argument":
        return argument_text(one), one.help or ""
    names = sorted(one.opts, key=lambda name: name.startswith("--"))
    off = one.secondary_opts
    if off and one.default is True and not everything:
        names = off
    elif off and everything:
        names = [*names[:-1], f"{names[-1]}/{off[0]}"]
    text = ", ".join(names)
    return text if one.is_flag else f"{text} {one.metavar or one.name.upper()}", one.help or ""


def argument_text(argument: Any) -> str:
    """An argument as it stands in a usage line."""
    name = (argument.metavar or argument.name.upper()) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _first_sentence(command: Any) -> str:
    text = " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())
    return re.split(r"[.;:](?:\s|$)", text)[0] + "."
