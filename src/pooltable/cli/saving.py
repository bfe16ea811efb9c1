"""Writes settings into a file of settings: their lines change, everything else stays as somebody wrote it.

pooltable.toml      the whole file
pyproject.toml      its part [tool.pooltable]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pooltable.config import OWN_FILE, PROJECT_FILE, Settings, to_toml
from pooltable.errors import SettingError

_PART = "[tool.pooltable]"


def save(settings: Settings, values: Mapping[str, Any]) -> Path:
    """Write these settings into the file that the others were read from, or into a new pooltable.toml; which one."""
    path = settings.file or Path(OWN_FILE)
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = edited_part(before, values) if path.name == PROJECT_FILE else edited(before, values)
        if after != before:
            path.write_text(after, encoding="utf-8")
    except OSError as error:
        raise SettingError(f"cannot write to {path}: {error.strerror}") from None
    return path


def edited(text: str, values: Mapping[str, Any]) -> str:
    """The text of a file of settings with these values: their lines replaced, missing ones added, all else as it was.

    Raises SettingError where a value spans lines and cannot be replaced like that.
    """
    after = "".join(_edited(text.splitlines(keepends=True), tomllib.loads(text), values))
    return _checked(after, values, lambda found: found)


def edited_part(text: str, values: Mapping[str, Any]) -> str:
    """The same for the text of a pyproject.toml, where the settings are a part of their own."""
    known = tomllib.loads(text).get("tool", {}).get("pooltable", {})
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if line.split("#")[0].strip() == _PART), None)
    if start is None:
        raise SettingError(f"{PROJECT_FILE} has no line {_PART}; add there: {to_toml(values)!r}")
    end = next((number for number in range(start + 1, len(lines)) if lines[number].startswith("[")), len(lines))
    while end > start + 1 and not lines[end - 1].strip():
        end -= 1  # what is added goes before the empty lines
    after = "".join([*lines[: start + 1], *_edited(lines[start + 1 : end], known, values), *lines[end:]])
    return _checked(after, values, lambda found: found.get("tool", {}).get("pooltable", {}))


def _edited(lines: Sequence[str], known: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    lines = list(lines)
    for name, value in values.items():
        if known.get(name, _MISSING) == _plain(value):
            continue
        line = to_toml({name: value})
        place = _line_of(name, lines)
        if place is None:
            if lines and not lines[-1].endswith("\n"):
                lines[-1] += "\n"
            lines.append(line)
        else:
            lines[place] = f"{line.rstrip()}{_comment(lines[place])}\n"
    return lines


def _checked(after: str, values: Mapping[str, Any], part: Any) -> str:
    try:
        found = part(tomllib.loads(after))
    except tomllib.TOMLDecodeError:
        found = {}
    if any(found.get(name) != _plain(value) for name, value in values.items()):
        raise SettingError(
            f"the file of settings has values over several lines; change it by hand to: {to_toml(values)!r}"
        )
    return after


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_MISSING = object()


def _line_of(name: str, lines: Sequence[str]) -> int | None:
    pattern = re.compile(rf"\s*{re.escape(name)}\s*=".replace("_", "[_-]"))
    return next((number for number, line in enumerate(lines) if pattern.match(line)), None)


def _comment(line: str) -> str:
    """The comment behind the value of a line, with the space before it."""
    for found in re.finditer(r"\s*#", line):
        try:
            tomllib.loads(line[: found.start()])
        except tomllib.TOMLDecodeError:
            continue  # within a text
        return line[found.start() :].rstrip()
    return ""
