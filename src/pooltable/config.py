"""The settings: each declared once, and merged from default < file < environment < flag.

    pooltable.toml, or [tool.pooltable] of pyproject.toml    key   max_rows = 100
    environment                                              POOLTABLE_MAX_ROWS=100
    command line                                             --max-rows 100

What nobody set stays None until the last merge, so that every value knows where it came from. A key or a variable that
is none of ours but looks like one is refused with the nearest name: a slip in a name must not go unnoticed.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pooltable.errors import SettingError
from pooltable.urls import mistake_in, sqlite_url, with_path, without_passwords

Kind = Literal["text", "count", "number", "sizes", "switch", "names", "word"]

OWN_FILE = "pooltable.toml"
PROJECT_FILE = "pyproject.toml"
INDIRECT = "env:"


@dataclass(frozen=True)
class Setting:
    """One setting. `kind` "word" is a status word: text, a number, or NULL; "names" are column names."""

    name: str
    kind: Kind
    default: Any
    help: str
    flag: str = ""
    short: str = ""
    least: float | None = None  # the smallest value allowed

    @property
    def environment(self) -> str:
        return f"POOLTABLE_{self.name.upper()}"

    @property
    def flags(self) -> tuple[str, ...]:
        flag = self.flag or "--" + self.name.replace("_", "-")
        return (flag, self.short) if self.short else (flag,)

    def read(self, value: Any, origin: str) -> Any:
        """The value, checked and converted; text is what a flag or the environment gives. Raises SettingError."""
        try:
            read = _READERS[self.kind](value)
        except (ValueError, TypeError):
            shown = without_passwords(repr(value))
            raise SettingError(f"{origin}: {self.name} must be {_WANTED[self.kind]}, not {shown}") from None
        if self.least is not None and read is not None and not read >= self.least:
            raise SettingError(f"{origin}: {self.name} must be {self.least:g} or more, not {value!r}")
        return read


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _read_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError
    return int(value)


def _read_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    number = float(value)
    if number != number:
        raise ValueError
    return number


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def _read_size(value: Any) -> int:
    """A number of bytes: 4000000000, 4GB, 1.5GiB."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?I?)B?\s*", "" if isinstance(value, bool) else str(value).upper())
    if not found or found[2] not in _UNITS:
        raise ValueError
    size = int(float(found[1]) * _UNITS[found[2]])
    if size < 1:
        raise ValueError
    return size


def _read_sizes(value: Any) -> int | tuple[int | None, int | None]:
    """One size, or two: "400MB,600MB", or a pair of which one may be None."""
    if isinstance(value, str) and "," in value:
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        return _read_size(value)
    soft, hard = value
    return tuple(None if one is None else _read_size(one) for one in (soft, hard))  # type: ignore[return-value]


def _read_switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if not isinstance(value, str) or value.lower() not in known:
        raise ValueError
    return known[value.lower()]


def _read_names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise TypeError
    names = tuple(name.strip() for part in value for name in part.split(","))
    if not all(names):
        raise ValueError
    return names


def _read_word(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError
    return None if value == "NULL" else value


_READERS = {
    "text": _read_text,
    "count": _read_count,
    "number": _read_number,
    "sizes": _read_sizes,
    "switch": _read_switch,
    "names": _read_names,
    "word": _read_word,
}
_WANTED = {
    "text": "text",
    "count": "a whole number",
    "number": "a number",
    "sizes": "a size such as 4GB, or two such as 4GB,6GB",
    "switch": "true or false",
    "names": "column names, in a list or with commas between",
    "word": "text, a whole number or NULL",
}

# In groups, as the help shows them.
GROUPS: dict[str, tuple[Setting, ...]] = {
    "Database and table": (
        Setting("db", "text", None, "A SQLAlchemy URL, a SQLite file, or env:VARIABLE."),
        Setting("table", "text", None, "The table with the rows to work on, or schema.table.", short="-t"),
        Setting("job", "text", None, "Name of this piece of work. (default: the table's name)"),
        Setting("status", "text", "status", "The status column."),
        Setting("key", "names", None, "Key columns. (default: the primary key)"),
        Setting("columns", "names", None, "Columns that the task gets. (default: all others)"),
        Setting("write", "names", (), "Columns that the task writes by what it returns."),
        Setting("result", "text", None, "Column for all that the task returns, as text or JSON."),
        Setting("order_by", "text", None, "Columns by which rows are taken. (default: the key)"),
        Setting("where", "text", None, "SQL condition that limits the rows to work on."),
    ),
    "Status words": (
        Setting("pending", "word", "PENDING", "Status word of a row that waits; NULL is the null value."),
        Setting("doing", "word", "DOING", "Status word of a row that runs."),
        Setting("done", "word", "DONE", "Status word of a row that is done."),
        Setting("failed", "word", "FAILED", "Status word of a row that failed for good."),
    ),
    "Running": (
        Setting("processes", "count", None, "Worker processes; 0: this one. (default: the cores)", "", "-p", 0),
        Setting("forever", "switch", False, "Go on for ever and take new rows as they come."),
        Setting("poll", "number", 2.0, "Seconds between looks for new rows while there is nothing to do.", least=0.001),
        Setting("max_rows", "count", None, "Take at most so many rows.", least=1),
        Setting("drop_results", "switch", False, "Drop what the task returns, where no column is named for it."),
        Setting("batch", "count", 1, "Rows that the function gets at once.", least=1),
        Setting("time_limit", "number", None, "Seconds that a call may run before it is killed.", least=0.001),
        Setting("initializer", "text", None, "app:function, called once in each worker."),
        Setting("wait", "switch", True, "Wait for rows that are due again later."),
        Setting(
            "db_wait",
            "number",
            None,
            "Patience with a database that is away. (default: no end; at the start none)",
            least=0,
        ),
    ),
    "Command": (
        Setting("command", "text", None, "Run this program; {column} is filled in."),
        Setting("shell", "switch", False, "Have a shell read it; values stay single words."),
        Setting("allow_dashes", "switch", False, "Take values that start with - as options."),
    ),
    "Trying again": (
        Setting("fails", "count", 1, "Attempts that may raise or take too long.", least=1),
        Setting("lost", "count", 3, "Attempts whose worker may die.", least=1),
        Setting("rescued", "count", 10, "Attempts whose runner may die.", least=1),
        Setting("retry_pause", "number", 1.0, "Seconds before the second attempt.", least=0),
        Setting("factor", "number", 2.0, "How much longer each further pause is.", least=1),
        Setting("longest_pause", "number", 600.0, "The longest pause, in seconds.", least=0),
        Setting("jitter", "number", 0.1, "Part of a pause that is left to chance.", least=0),
    ),
    "Stopping and leases": (
        Setting("grace", "number", 8.0, "Seconds that running rows get to end after a stop request.", least=0),
        Setting("lease", "number", 30.0, "Seconds that rows stay ours without a sign of life.", least=1),
        Setting("halt", "count", 20, "Halt when so many rows in a row failed alike; 0: never.", least=0),
    ),
    "Workers": (
        Setting("threads", "count", None, "Threads of each worker. (default: cores / processes)", least=1),
        Setting("devices", "text", None, "Devices to deal out to the workers, such as cuda:0,cuda:1; auto: all."),
        Setting("setup", "text", None, "app:function, for each worker before it imports the task: django.setup."),
        Setting("preload", "text", None, "Modules to import once for all workers, such as numpy,torch."),
        Setting(
            "memory",
            "sizes",
            None,
            "4GB: a larger worker is replaced after its row; 4GB,6GB: one over 6GB is killed at once.",
        ),
        Setting("maxtasksperchild", "count", None, "Replace a worker after so many rows.", least=1),
        Setting("idle_timeout", "number", None, "Let a worker go after so many idle seconds.", least=0),
    ),
    "Showing": (
        Setting("log", "text", None, "Write a log of the run to this file."),
        Setting("log_json", "switch", False, "Log one JSON object a line; without --log to stderr."),
        Setting("quiet", "switch", False, "Show no progress, and not what workers print or log.", short="-q"),
        Setting("verbose", "switch", False, "Show each claim, end and worker, and where ended calls were.", short="-v"),
    ),
}  # fmt: skip
SETTINGS: tuple[Setting, ...] = tuple(setting for group in GROUPS.values() for setting in group)
BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}

# Variables that are ours but no settings; the last three are what a command of ours gets, which may be pooltable again.
_OTHER_VARIABLES = (
    "POOLTABLE_CONFIG",
    "POOLTABLE_ROW_KEY",
    "POOLTABLE_ROW_ATTEMPT",
    "POOLTABLE_IDEMPOTENCY_KEY",
)


class Settings(Mapping[str, Any]):
    """The merged settings: `settings["poll"]` is the value, `settings.origin("poll")` where it came from."""

    def __init__(self, found: Mapping[str, tuple[Any, str]], file: Path | None) -> None:
        self._found = dict(found)
        self.file = file

    def __getitem__(self, name: str) -> Any:
        found = self._found.get(name)
        return BY_NAME[name].default if found is None else found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(BY_NAME)

    def __len__(self) -> int:
        return len(BY_NAME)

    def answered(self, answers: Mapping[str, Any]) -> Settings:
        """These settings with a person's answers on top, which count as given on the command line."""
        flags = {name: BY_NAME[name].flags[0] for name in answers}
        read = {name: (BY_NAME[name].read(answers[name], flag), flag) for name, flag in flags.items()}
        return Settings({**self._found, **read}, self.file)

    def origin(self, name: str) -> str:
        found = self._found.get(name)
        return "default" if found is None else found[1]

    @property
    def database(self) -> str:
        """The database's URL, with `env:NAME` looked up and a file's path made into a URL; a relative path in the file
        of settings starts beside that file. Raises SettingError."""
        value = self["db"]
        if not value:
            raise SettingError(f"no database is named: give --db, or run `pooltable init` to write {OWN_FILE}")
        beside = self.file is not None and self.origin("db") == str(self.file)
        return database_url(value, self.origin("db"), folder=self.file.parent if self.file and beside else None)

    @property
    def table_name(self) -> str:
        if not self["table"]:
            raise SettingError(f"no table is named: give --table, or run `pooltable init` to write {OWN_FILE}")
        return str(self["table"])


def database_url(
    value: str, origin: str = "--db", environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """The SQLAlchemy URL behind what was written: env:NAME is looked up, a path is a SQLite file.

    A relative path is looked for in `folder`, else in the current one. Raises SettingError.
    """
    if value.startswith(INDIRECT):
        name = value.removeprefix(INDIRECT)
        value = (os.environ if environment is None else environment).get(name, "")
        if not value:
            raise SettingError(
                f"{origin}: db is {INDIRECT}{name}, but the environment has no variable {name}: set it to the URL"
            )
        origin, folder = name, None
    mistake = mistake_in(value)
    if mistake:
        raise SettingError(f"{origin}: {mistake}")
    if folder is not None:
        value = with_path(value, lambda path: str(folder / path))
    return value if "://" in value else sqlite_url(value)


def gather(
    flags: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: str | os.PathLike[str] = ".",
    file: str | os.PathLike[str] | None = None,
) -> Settings:
    """Merge default < file < environment < flag. A flag that is None was not given.

    `file` names the file of settings; else it is pooltable.toml in `folder`, else pyproject.toml there if it has a part
    for us. Raises SettingError for what is unknown or does not fit, naming where it stands.
    """
    environment = os.environ if environment is None else environment
    file = file or environment.get("POOLTABLE_CONFIG") or None
    found: dict[str, tuple[Any, str]] = {}
    path, values, lines = _read_file(Path(folder), Path(file) if file else None)
    if path is not None:
        for written, value in values.items():
            origin = _at(path, lines, written)
            found[_known(written, origin).name] = (_known(written, origin).read(value, origin), str(path))
    for setting, text in _from_environment(environment):
        found[setting.name] = (setting.read(text, setting.environment), setting.environment)
    for name, value in (flags or {}).items():
        if value is not None:
            setting = BY_NAME[name]
            found[name] = (setting.read(value, setting.flags[0]), setting.flags[0])
    return Settings(found, path)


def _read_file(folder: Path, file: Path | None) -> tuple[Path | None, dict[str, Any], Sequence[str]]:
    """The file that counts, what it says to us, and its lines from where our part begins."""
    for path in [file] if file else [folder / OWN_FILE, folder / PROJECT_FILE]:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if file:
                raise SettingError(f"there is no file of settings {str(file)!r}") from None
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"{path} cannot be read: {error}") from None
        try:
            values: Any = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingError(f"{path} is not valid TOML: {error}") from None
        lines = text.splitlines()
        if path.name == PROJECT_FILE:
            tool = values.get("tool")
            values = tool.get("pooltable") if isinstance(tool, dict) else None
            if not isinstance(values, dict):
                continue
            start = next((n for n, line in enumerate(lines) if line.strip().startswith("[tool.pooltable]")), 0)
            lines = [""] * start + lines[start:]
        return path, values, lines
    return None, {}, ()


def _at(path: Path, lines: Sequence[str], key: str) -> str:
    pattern = re.compile(rf"""\s*(\[\s*)?["']?{re.escape(key)}["']?\s*(=|\])""")
    line = next((number for number, text in enumerate(lines, 1) if pattern.match(text)), None)
    return f"{path}, line {line}" if line else str(path)


def _known(key: str, origin: str) -> Setting:
    name = key.replace("-", "_")
    if name in BY_NAME:
        return BY_NAME[name]
    near = get_close_matches(name, BY_NAME, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}?" if near else "`pooltable config` shows all settings"
    raise SettingError(f"{origin}: there is no setting {key!r}; {remedy}")


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[Setting, str]]:
    known = {setting.environment: setting for setting in SETTINGS}
    for variable, text in environment.items():
        if variable in known:
            # An empty variable is how a shell or a compose file says "not set".
            if text:
                yield known[variable], text
        elif variable.startswith("POOLTABLE_") and variable not in _OTHER_VARIABLES:
            near = get_close_matches(variable, known, n=1, cutoff=0.85)
            if near:
                raise SettingError(f"the environment variable {variable} is no setting; did you mean {near[0]}?")


def to_toml(values: Mapping[str, Any]) -> str:
    """The settings as a pooltable.toml. Values are text, numbers, truth values and lists of text; None is left out."""
    written = ((name, value) for name, value in values.items() if value is not None)
    return "".join(f"{name} = {_toml(value)}\n" for name, value in written)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    escaped = re.sub(r'[\x00-\x1f\x7f"\\]', lambda found: f"\\u{ord(found[0]):04x}", str(value))
    return f'"{escaped}"'
