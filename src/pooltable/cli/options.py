"""The settings as options of a command: made from their one declaration, read by it too.

    @takes("Database and table", "Status words")
    def status(settings: Settings, as_json: ...) -> int: ...

The command gets the merged settings in place of the many options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Annotated, Any

import typer

from pooltable.config import BY_NAME, GROUPS, Setting, gather

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
# A command has names of its own, such as `key`, for other things.
PREFIX = "setting_"
TABLE = ("Database and table", "Status words")
# What stands behind a flag in the help, by the kind of its setting.
METAVARS: dict[str, str | None] = {
    "text": "TEXT",
    "count": "N",
    "number": "NUMBER",
    "size": "SIZE",
    "names": "NAMES",
    "word": "WORD",
    "switch": None,
}


def takes(*groups: str, renamed: Mapping[str, str] | None = None) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Gives a command the options of these groups of settings; it is called with `settings` instead of them.

    `renamed` gives a setting another flag, where its own means something else for this command.
    """
    taken = [
        (group, replace(one, flag=(renamed or {}).get(one.name, one.flag))) for group in groups for one in GROUPS[group]
    ]

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        own = inspect.signature(command, eval_str=True)
        options = [_parameter(setting, group) for group, setting in taken] + [_config_parameter()]

        @wraps(command)
        def with_settings(**given: Any) -> int:
            flags = {setting.name: given.pop(PREFIX + setting.name) for _, setting in taken}
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


def _parameter(setting: Setting, group: str) -> inspect.Parameter:
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
    option = typer.Option(*declared, help=text, metavar=metavar, show_default=False, rich_help_panel=group)
    return inspect.Parameter(
        PREFIX + setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


def _config_parameter() -> inspect.Parameter:
    text = "File of settings. (default: pooltable.toml, else pyproject.toml)"
    option = typer.Option("--config", help=text, metavar="FILE", show_default=False)
    annotation = Annotated[str | None, option]
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
