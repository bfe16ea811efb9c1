"""The settings as options of a command: made from their one declaration, read by it too.

    @takes("Database and table", "Status words")
    def status(settings: Settings, as_json: ...) -> int: ...

The command gets the merged settings in place of the many options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import wraps
from typing import Annotated, Any

import typer

from pooltable.cli.command import GENERAL, HelpAll
from pooltable.config import BY_NAME, GROUPS, Setting, gather

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=GENERAL)]
# A command has names of its own, such as `key`, for other things.
PREFIX = "setting_"
TABLE = ("Database and table", "Status words")
# What stands behind a flag in the help, by the kind of its setting.
METAVARS: dict[str, str | None] = {
    "text": "TEXT",
    "count": "N",
    "number": "NUMBER",
    "sizes": "SIZE",
    "names": "NAMES",
    "word": "WORD",
    "switch": None,
}


# What only --help-all shows, unless a command says that it is needed there.
SELDOM = frozenset(
    [
        "job",
        "status",
        "key",
        "columns",
        "write",
        "result",
        "order_by",
        "where",
        "pending",
        "doing",
        "done",
        "failed",
        "poll",
        "max_rows",
        "drop_results",
        "wait",
        "db_wait",
        "allow_dashes",
        "lost",
        "rescued",
        "factor",
        "longest_pause",
        "jitter",
        "grace",
        "lease",
        "halt",
        "devices",
        "preload",
        "setup",
        "maxtasksperchild",
        "idle_timeout",
        "log_json",
    ]
)


def takes(
    *groups: str, renamed: Mapping[str, str] | None = None, shows: Collection[str] = ()
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Gives a command the options of these groups of settings; it is called with `settings` instead of them.

    `renamed` gives a setting another flag, where its own means something else for this command. `shows` names settings
    that are seldom needed, but here they are.
    """
    taken = [
        (group, replace(one, flag=(renamed or {}).get(one.name, one.flag))) for group in groups for one in GROUPS[group]
    ]

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        own = inspect.signature(command, eval_str=True)
        options = [
            _parameter(setting, group, hidden=setting.name in SELDOM and setting.name not in shows)
            for group, setting in taken
        ]
        options += [_CONFIG, _HELP_ALL]

        @wraps(command)
        def with_settings(**given: Any) -> int:
            flags = {setting.name: given.pop(PREFIX + setting.name) for _, setting in taken}
            del given["help_all"]  # it has done its work
            return command(settings=gather(flags, file=given.pop("config")), **given)

        parameters = [one for one in own.parameters.values() if one.name != "settings"] + options
        with_settings.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        )
        with_settings.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": int}
        return with_settings

    return decorate


def option(name: str, *more: str, text: str | None = None, panel: str | None = None, **rules: Any) -> Any:
    """The flags of a setting as an option of a command that does not take the setting itself; `more` are aliases.

    So that the same thing has the same words wherever it is said.
    """
    one = BY_NAME[name]
    metavar = METAVARS[one.kind]
    return typer.Option(*one.flags, *more, help=text or one.help, metavar=metavar, rich_help_panel=panel, **rules)


def _parameter(setting: Setting, group: str, hidden: bool) -> inspect.Parameter:
    flag = setting.flags[0]
    declared = [*setting.flags]
    kind: Any = str | None
    metavar = METAVARS[setting.kind]
    if setting.kind == "switch":
        declared[0] = f"{flag}/--no-{flag.removeprefix('--')}"
        kind = bool | None
    elif setting.kind == "names":
        kind = list[str] | None
    text = setting.help
    if setting.default is not None and setting.default != () and setting.kind != "switch":
        text += f" (default: {setting.default})"
    option = typer.Option(
        *declared, help=text, metavar=metavar, show_default=False, rich_help_panel=group, hidden=hidden
    )
    return inspect.Parameter(
        PREFIX + setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="File of settings. (default: pooltable.toml)",
            show_default=False,
            rich_help_panel=GENERAL,
        ),
    ],
)
_HELP_ALL = inspect.Parameter("help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=HelpAll)
