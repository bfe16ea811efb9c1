"""Whatever rows, errors, records and outputs hold: nothing of it is obeyed by the terminal of whoever reads it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

# The screen is cleared, the clipboard written to, the line turned round, by 7 bits and by 8.
WILD = "a\x1b[2J\x1b]52;c;eA==\x07\x9b2J\u202etxt\u2066\x08z"
TAME = "a2Jtxtz"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

TASK = f"""
import logging, sys

WILD = {WILD!r}

def mission(row):
    print("printed", WILD)
    sys.stderr.write("unfinished " + WILD)
    logging.getLogger("app").warning("logged %s", WILD)
    logging.getLogger("app").warning("\\x1b[31mred\\x1b[0m")
    raise ValueError("raised " + WILD)
"""


@pytest.fixture
def wild(folder: Any) -> Any:
    """One row, whose key and name are wild, and a task that prints, logs and raises such text."""
    folder.sql("CREATE TABLE host (id TEXT PRIMARY KEY, name TEXT, caption TEXT, status TEXT DEFAULT 'PENDING')")
    folder.sql("INSERT INTO host (id, name) VALUES (?, ?)", (WILD, WILD))
    (folder.path / "pooltable.toml").write_text('db = "work.db"\ntable = "host"\nwrite = ["caption"]\nprocesses = 1\n')
    (folder.path / "wild.py").write_text(TASK)
    return folder


def test_a_pipe_and_a_log_get_text_that_no_terminal_obeys(wild: Any) -> None:
    done = wild.run("run", "wild:mission", "--log", "run.log")
    assert done.returncode == 1
    log = (wild.path / "run.log").read_text()
    for text in (done.stderr, log):
        assert not OBEYED.search(text), ascii(text)
        for told in (f"printed {TAME}", f"unfinished {TAME}", f"logged {TAME}", "red", f"ValueError: raised {TAME}"):
            assert told in text
    assert f"row {TAME} failed" in log


def test_a_log_of_json_has_what_was_raised_and_logged_exactly(wild: Any) -> None:
    wild.run("run", "wild:mission", "--log", "run.log", "--log-json", "--quiet")
    log = (wild.path / "run.log").read_text()
    assert not OBEYED.search(log)
    told = [json.loads(line) for line in log.splitlines()]
    messages = [one["message"] for one in told]
    assert f"logged {WILD}" in messages
    assert any(message.endswith(f"ValueError: raised {WILD}") for message in messages)
    assert [WILD] in [one.get("key") for one in told]


def test_what_commands_say_of_rows_is_harmless_and_their_json_exact(wild: Any) -> None:
    wild.run("run", "wild:mission", "--quiet")
    for command in (
        ("failures",), ("show", WILD), ("logs", WILD), ("status",), ("doctor",), ("try", "wild:mission", WILD),
        ("show", f"no such {WILD}"), ("run", f"{WILD}:mission"), (WILD,), ("run", f"--{WILD}"),
    ):  # fmt: skip
        done = wild.run(*command)
        shown = done.stdout + done.stderr
        if command[0] == "try":
            # What the task itself prints in this process is its own affair.
            shown = shown[shown.index("Traceback") :]
        assert not OBEYED.search(shown), (command, ascii(shown))
    for command in (("failures", "--json"), ("show", WILD, "--json"), ("logs", WILD, "--json")):
        done = wild.run(*command)
        assert not OBEYED.search(done.stdout), command
        found = json.loads(done.stdout)
        told = found[0]["reason"] if command[0] == "failures" else found.get("error") or found["entry"]["reason"]
        assert f"raised {WILD}" in told
    assert json.loads(wild.run("show", WILD, "--json").stdout)["row"]["name"] == WILD
    done = wild.run("retry", WILD)
    assert (done.returncode, done.stdout) == (0, "1 row waits again\n"), done.stderr


def test_a_terminal_is_shown_colours_and_nothing_else_that_it_obeys(wild: Any, terminal: Any) -> None:
    shown = terminal("run", "wild:mission")
    assert shown.finish() == 1
    # What is left are the bar's own sequences: colours, the cursor within the bar's lines.
    rest = re.sub(r"\x1b\[[0-9;]*[mKA]|\x1b\[\?25[lh]|\r", "", shown.seen)
    assert not OBEYED.search(rest), ascii(rest)
    assert f"logged {TAME}" in rest
    assert f"ValueError: raised {TAME}" in rest
    assert "\x1b[31mred" in shown.seen


def test_commands_of_map_are_told_harmless_and_written_exactly(wild: Any, terminal: Any) -> None:
    done = wild.run("map", "--db", "map.db", "sh", "-c", "exit 3", ":::", WILD)
    assert done.returncode == 1
    assert not OBEYED.search(done.stderr), ascii(done.stderr)
    assert TAME in done.stderr
    assert WILD in wild.run("map", "--db", "dry.db", "--dry-run", "echo", ":::", WILD).stdout
    shown = terminal("map", "--db", "dry.db", "--dry-run", "echo", ":::", WILD)
    assert shown.finish() == 0
    assert not OBEYED.search(shown.seen.replace("\r", "")), ascii(shown.seen)
    told = wild.run("map", "--db", "json.db", "--json", "echo", ":::", WILD).stdout
    assert not OBEYED.search(told)
    assert json.loads(told)["arguments"] == [WILD]
