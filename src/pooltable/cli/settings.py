"""`pooltable config`: the settings in force and where each came from."""

from __future__ import annotations

from pooltable.cli.options import JSON, TABLE, takes
from pooltable.cli.show import say, say_json, table_lines
from pooltable.config import GROUPS, Settings
from pooltable.urls import hide_password


@takes(*TABLE, "Running", "Command", "Trying again", "Stopping and leases", "Workers", "Showing")
def config(settings: Settings, as_json: JSON = False) -> int:
    """Show the settings in force and where each came from.

    A flag wins over the environment, the environment over the file, the file over the default.

    \b
    Examples:
      pooltable config
      POOLTABLE_PROCESSES=2 pooltable config --json
    """
    if as_json:
        say_json({name: {"value": _shown(settings, name), "from": settings.origin(name)} for name in settings})
        return 0
    rows = []
    for group in GROUPS.values():
        rows += [(one.name, _text(_shown(settings, one.name), one.kind), settings.origin(one.name)) for one in group]
    for line in table_lines(("SETTING", "VALUE", "FROM"), rows):
        say(line)
    return 0


def _shown(settings: Settings, name: str) -> object:
    value = settings[name]
    return hide_password(value) if name == "db" and value else value


def _text(value: object, kind: str) -> str:
    if kind == "word" and value is None:
        return "NULL"
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
