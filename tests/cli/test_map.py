"""`pooltable map`: a command on arguments and in folders, with a memory."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands_on_rows import gone, until


def out(done: Any) -> list[str]:
    return sorted(done.stdout.splitlines())


def _query(folder: Any, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder.path / "pooltable-map.db")) as db:
        return db.execute(sql).fetchall()


def _counts(folder: Any) -> dict[str, int]:
    ((name,),) = _query(folder, "SELECT name FROM maps")
    return dict(_query(folder, f"SELECT status, count(*) FROM {name} GROUP BY status"))


def test_each_argument_is_run_once_and_only_what_is_left_is_run_again(folder: Any) -> None:
    command = ["sh", "-c", "echo $1 >> ran; echo did $1; [ $1 != b ] || [ -e mended ]", "sh"]
    done = folder.run("map", *command, ":::", "a", "b", "c", "a")
    assert done.returncode == 1
    assert out(done) == ["did a", "did b", "did c"]
    assert "exit status 1: sh -c" in done.stderr
    assert "--retry-failed" in done.stderr

    again = folder.run("map", *command, ":::", "a", "b", "c", "d")
    assert (again.returncode, again.stdout) == (1, "did d\n")
    assert "1 had failed before" in again.stderr

    only = folder.run("map", *command, ":::", "a", "d")
    assert (only.returncode, only.stdout) == (0, "")
    assert "2 were done before" in only.line

    (folder.path / "mended").touch()
    mended = folder.run("map", "--retry-failed", *command, ":::", "b", "c")
    assert (mended.returncode, mended.stdout) == (0, "did b\n")
    assert sorted((folder.path / "ran").read_text().split()) == ["a", "b", "b", "c", "d"]

    other = folder.run("map", "echo", ":::", "a")
    assert (other.returncode, other.stdout) == (0, "a\n")
    assert sorted(path.name for path in folder.path.iterdir() if ".db" in path.name) == ["pooltable-map.db"]


def test_a_killed_run_goes_on_where_it_was(folder: Any) -> None:
    command = [
        "sh",
        "-c",
        'echo "$1" >> ran; [ "$1" -lt 6 ] || [ -e go ] || sleep 60',
        "sh",
        ":::",
        *map(str, range(12)),
    ]
    process = folder.start("map", "-j", "2", *command)
    until(lambda: (folder.path / "ran").exists() and (folder.path / "ran").read_text().count("\n") == 8)
    until(lambda: _counts(folder).get("DONE") == 6)
    process.kill()
    process.communicate()
    running = [number for number in map(int, (folder.path / "ran").read_text().split()) if number >= 6]
    (folder.path / "go").touch()
    done = folder.run("map", "-j", "2", *command)
    assert done.returncode == 0, done.stderr
    # Only the two that ran when it was killed are run again.
    assert sorted(map(int, (folder.path / "ran").read_text().split())) == sorted([*range(12), *running])


HOSTILE = ["a b", "$(touch pwned)", "`touch pwned`", "; touch pwned", "'", '"', "line\nline", "*", "é", "\udcff"]


def test_arguments_from_stdin_reach_the_command_as_they_are(folder: Any) -> None:
    script = folder.path / "say.py"
    script.write_text("import sys, os; os.write(1, ascii(sys.argv[1:]).encode() + b'\\n')")
    arguments = b"\0".join(map(os.fsencode, [*HOSTILE, "-rf", "x" * 200_000]))
    for options, last in ((["-0", "-k"], [sys.executable, "say.py"]), (["-0", "-k", "--shell"], ["python3 say.py {}"])):
        process = folder.start("map", "--joblog", "log", *options, *last, text=False, stdin=subprocess.PIPE)
        printed, told = process.communicate(arguments, timeout=50)
        assert printed.decode().splitlines() == [ascii([text]) for text in HOSTILE], told
        assert process.returncode == 1
        assert b"taken for an option" in told
        assert b"too long" in told
    assert not (folder.path / "pwned").exists()
    assert len((folder.path / "log").read_bytes().splitlines()) == 1 + 2 * 12


def test_without_an_argument_nothing_is_run_and_that_is_said(folder: Any) -> None:
    done = folder.run("map", "echo", stdin="")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "pooltable: there are no arguments, so nothing was run\n"


def test_lines_of_stdin_are_arguments_and_lists_are_combined(folder: Any) -> None:
    assert out(folder.run("map", "echo", "<{}>", stdin="a b\n\nc\n")) == ["<a b>", "<c>"]
    done = folder.run("map", "-k", "--tag", "echo {2}{1} {#}", ":::", "a", "b", ":::", "x", "y")
    assert done.stdout.splitlines() == ["a x\txa 1", "a y\tya 2", "b x\txb 3", "b y\tyb 4"]


def test_output_is_kept_together_and_in_order(folder: Any) -> None:
    script = "import sys, time; n = int(sys.argv[1]); print(n); sys.stdout.flush(); time.sleep((4 - n) / 10); print(n)"
    command = [sys.executable, "-c", script, ":::", "1", "2", "3", "4"]
    done = folder.run("map", "-k", "-j", "4", *command)
    assert done.stdout.split() == [str(n) for n in (1, 1, 2, 2, 3, 3, 4, 4)]
    mixed = folder.run("map", "--db", "other.db", "-j", "4", *command).stdout.split()
    assert mixed[::2] == mixed[1::2]


def test_a_dry_run_prints_what_would_be_run_and_makes_nothing(folder: Any) -> None:
    done = folder.run("map", "--dry-run", "cp", "{}", "{.}.bak", ":::", "a b.txt", "$c")
    assert done.stdout.splitlines() == ["cp 'a b.txt' 'a b.bak'", "cp '$c' '$c.bak'"]
    assert [path.name for path in folder.path.iterdir()] == ["app.py"]
    folder.run("map", "echo", ":::", "a")
    assert folder.run("map", "--dry-run", "echo", ":::", "a", "b").stdout == "echo b\n"


def test_a_command_runs_in_each_folder(folder: Any) -> None:
    for name in ("one", "two words", "three"):
        (folder.path / "in" / name).mkdir(parents=True)
    (folder.path / "in" / "file").touch()
    local = folder.path / "in" / "one" / "local"
    local.write_text("#!/bin/sh\necho local\n")
    local.chmod(0o755)
    done = folder.run("map", "-k", "--dir", "in/*", "sh", "-c", 'basename "$PWD"')
    assert done.stdout.splitlines() == ["one", "three", "two words"]
    done = folder.run("map", "--dir", "in/*", "./local")
    assert (done.returncode, done.stdout) == (1, "local\n")
    assert "cannot be run" in done.stderr


def test_the_job_log_has_the_columns_of_gnu_parallel(folder: Any) -> None:
    script = "echo out; case $1 in bad) exit 3;; dead) kill -9 $$;; slow) sleep 60;; esac"
    done = folder.run(
        "map", "--joblog", "log", "--timeout", "1", "sh", "-c", script, "sh", ":::", "ok", "bad", "dead", "slow"
    )
    assert done.returncode == 1
    head, *lines = (folder.path / "log").read_text().splitlines()
    assert head == "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"
    cells = {line.split("\t")[8].split()[-1]: line.split("\t") for line in lines}
    assert {name: cell[6:8] for name, cell in cells.items()} == {
        "ok": ["0", "0"],
        "bad": ["3", "0"],
        "dead": ["0", "9"],
        "slow": ["-1", "15"],
    }
    assert [cell[1] + cell[4] + cell[5] for cell in cells.values()] == [":04"] * 4
    assert 0.9 < float(cells["slow"][3]) < 5
    assert len(out(done)) == 4
    assert "ended after 1 s" in done.stderr


def test_json_has_a_line_for_each_end_with_what_was_printed(folder: Any) -> None:
    script = "[ $1 = silent ] || echo out $1; [ $1 != bad ] || exit 3"
    done = folder.run("map", "-k", "--json", "sh", "-c", script, "sh", ":::", "a", "silent", "bad")
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["arguments"], one["exit"], one["output"]) for one in found] == [
        (["a"], 0, "out a\n"),
        (["silent"], 0, ""),
        (["bad"], 3, "out bad\n"),
    ]
    assert all(one["command"].endswith(one["arguments"][0]) for one in found)
    ago = datetime.now(UTC) - datetime.fromisoformat(found[0]["started"])
    assert 0 <= ago.total_seconds() < 60


def test_a_time_limit_leaves_nothing_running(folder: Any) -> None:
    script = "sh -c 'echo $$ > child; exec sleep 87.5' & sleep 87.5"
    done = folder.run("map", "--timeout", "0.5", "sh", "-c", script, "sh", ":::", "a")
    assert done.returncode == 1
    assert gone(int((folder.path / "child").read_text()))


def test_a_command_that_fails_is_tried_again(folder: Any) -> None:
    script = "echo try; echo x >> tries; [ $(wc -l < tries) -ge 3 ]"
    done = folder.run("map", "--retries", "3", "sh", "-c", script, "sh", ":::", "a")
    assert (done.returncode, done.stdout) == (0, "try\n")
    assert (folder.path / "tries").read_text() == "x\n" * 3


@pytest.mark.parametrize(
    ("when", "script", "code", "least"),
    [
        ("soon,fail=2", "sleep 0.3; exit 1", 6, 2),
        ("now,fail=10%", "[ $1 != 1 ] && exec sleep 60; exit 1", 6, 1),
        ("now,success=1", "[ $1 != 1 ] && exec sleep 60; exit 0", 0, 1),
    ],
)
def test_halt_ends_the_run_early(folder: Any, when: str, script: str, code: int, least: int) -> None:
    numbers = list(map(str, range(1, 11)))
    done = folder.run("map", "-j", "2", "--halt", when, "sh", "-c", script, "sh", ":::", *numbers)
    assert done.returncode == code, done.stderr
    counts = _counts(folder)
    assert counts.get("DOING", 0) == 0
    assert counts["PENDING"] >= (10 - 4 * least if "soon" in when else 8)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("-p", "2", "--time-limit", "0.5", "--fails", "2"), ("-j", "2", "--timeout", "0.5", "--retries", "2")),
        (("--halt", "0"), ("--halt", "never")),
    ],
)
def test_the_words_of_run_and_those_of_gnu_parallel_say_the_same(
    folder: Any, ours: tuple[str, ...], theirs: tuple[str, ...]
) -> None:
    script = "echo x >> tries.$1; exec sleep 60" if "-p" in ours else "echo x >> tries.$1; exit 1"
    told = []
    for db, options in (("ours.db", ours), ("theirs.db", theirs)):
        done = folder.run("map", "--db", db, *options, "sh", "-c", script, "sh", ":::", db)
        told.append((done.returncode, len((folder.path / f"tries.{db}").read_text().split())))
    assert told == [(1, 2 if "-p" in ours else 1)] * 2


def test_halt_with_a_number_counts_commands_in_a_row_that_failed_alike(folder: Any) -> None:
    numbers = list(map(str, range(1, 41)))
    done = folder.run("map", "-p", "1", "--halt", "3", "sh", "-c", "sleep 0.2; exit 1", "sh", ":::", *numbers)
    assert done.returncode == 6, done.stderr
    assert "halted: 3 rows in a row failed" in done.stderr
    assert _counts(folder)["FAILED"] < 12


def test_what_was_done_before_is_said_and_runs_again_only_when_asked(folder: Any) -> None:
    command = ("sh", "-c", "echo x >> ran.$1; [ $1 != bad ]", "sh", ":::", "a", "b", "bad")
    assert folder.run("map", *command).returncode == 1
    done = folder.run("map", *command)
    assert done.returncode == 1
    assert all(part in done.line for part in ("2 were done before", "1 failed", "--retry-failed", "--again"))
    assert folder.run("map", "--dry-run", "--again", *command).stdout.count("echo") == 3
    done = folder.run("map", "--again", *command[:-1])
    assert done.returncode == 0, done.stderr
    counts = {name: len((folder.path / f"ran.{name}").read_text().split()) for name in ("a", "b", "bad")}
    assert counts == {"a": 2, "b": 2, "bad": 1}


@pytest.mark.parametrize(
    ("command", "word"), [(["echo {} | wc -c"], "'|'"), (["echo", "{}", ">", "x"], "'>'"), (["cat <{}"], "'<{}'")]
)
def test_a_word_that_only_a_shell_understands_gets_a_hint(folder: Any, command: list[str], word: str) -> None:
    done = folder.run("map", "--dry-run", *command, ":::", "a")
    assert word in done.line
    assert "--shell" in done.line
    assert folder.run("map", "--dry-run", "--shell", " ".join(command), ":::", "a").stderr == ""
    assert folder.run("map", "--dry-run", "sh", "-c", "echo $1 | wc -c", "sh", ":::", "a").stderr == ""


def test_ctrl_c_lets_what_runs_end_and_leaves_the_rest(folder: Any) -> None:
    script = "touch began.$1; while [ ! -e go ]; do sleep 0.02; done; echo $1"
    process = folder.start("map", "-j", "1", "sh", "-c", script, "sh", ":::", "a", "b", "c")
    until(lambda: (folder.path / "began.a").exists())
    process.send_signal(signal.SIGINT)
    # What was claimed ahead is given back when the request is heard.
    until(lambda: _counts(folder).get("PENDING") == 2)
    (folder.path / "go").touch()
    printed, told = process.communicate(timeout=30)
    assert (process.returncode, printed) == (3, "a\n"), told
    assert folder.run("map", "-k", "-j", "1", "sh", "-c", script, "sh", ":::", "a", "b", "c").stdout == "b\nc\n"


def test_two_calls_share_the_work_and_only_the_last_says_that_all_is_done(folder: Any) -> None:
    script = "touch began.$1; while [ $1 = a ] && [ ! -e go ]; do sleep 0.02; done; echo $1"
    command = ("map", "-j", "1", "sh", "-c", script, "sh", ":::", "a", "b")
    first = folder.start(*command)
    until(lambda: (folder.path / "began.a").exists())
    second = folder.run(*command, "c")
    assert second.returncode == 3
    assert "with other runners" in second.stderr
    (folder.path / "go").touch()
    printed, told = first.communicate(timeout=30)
    assert first.returncode == 0, told
    assert sorted((printed + second.stdout).split()) == ["a", "b", "c"]


def test_nobody_who_reads_on_ends_the_run(folder: Any) -> None:
    ours = Path(sys.executable)
    # To the end it would take minutes.
    slow = "sh -c 'echo $0; sleep 0.05'"
    line = f"seq 10000 | {ours} -m pooltable map -j 2 {slow} | head -1; echo ${{PIPESTATUS[1]}}"
    done = subprocess.run(["bash", "-c", line], cwd=folder.path, capture_output=True, text=True, timeout=50, check=True)
    first, code = done.stdout.split()
    assert first.isdigit()
    assert code == "141"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nosuchprogram", ":::", "a"], ["nosuchprogram", "PATH"]),
        ([":::", "a"], ["Give a command"]),
        (["--halt", "often", "echo", ":::", "a"], ["--halt", "soon"]),
        (["--dir", "none/*", "ls"], ["no folder matches"]),
        (["--db", "app.py", "echo", ":::", "a"], ["app.py", "not a database"]),
        (["--hosts", "none", "uptime"], ["none"]),
        (["echo", "::::", "urls.txt"], ["::::", "< FILE"]),
        (["echo", ":::", "a", ":::+", "b"], [":::+"]),
        (["--joblog", "/dev/full", "echo", ":::", "a"], ["--joblog", "No space left"]),
    ],
    ids=["no program", "no command", "halt", "no folder", "no database", "no hosts", "::::", ":::+", "full job log"],
)
def test_what_cannot_work_is_one_line_and_runs_nothing(folder: Any, options: list[str], words: list[str]) -> None:
    done = folder.run("map", *options)
    assert done.returncode == 2
    assert all(word in done.line for word in words), done.line
    assert done.stdout == ""


def test_what_commands_write_to_stderr_is_shown_and_kept(folder: Any) -> None:
    done = folder.run("map", "sh", "-c", "echo to you >&2; exit 4", "sh", ":::", "a")
    assert "to you" in done.stderr.splitlines()
    ((name,),) = _query(folder, "SELECT name FROM maps")
    assert "to you" in folder.run("logs", "1", "--db", "pooltable-map.db", "-t", name).stdout
