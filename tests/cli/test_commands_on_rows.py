"""`pooltable run --command`: a program on each row, and whatever the rows may hold."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest


@pytest.fixture
def texts(folder: Any) -> Any:
    """A folder whose table text(id, content, words, status) is in its settings."""
    folder.sql(
        "CREATE TABLE text (id INTEGER PRIMARY KEY, content TEXT, words TEXT, status TEXT NOT NULL DEFAULT 'PENDING')"
    )
    (folder.path / "pooltable.toml").write_text('db = "work.db"\ntable = "text"\nprocesses = 2\n')
    return folder


def add(folder: Any, *contents: object) -> None:
    for content in contents:
        folder.sql("INSERT INTO text (content) VALUES (?)", (content,))


def rows(folder: Any, columns: str = "status, words") -> list[Any]:
    return folder.sql(f"SELECT {columns} FROM text ORDER BY id")


HOSTILE = [
    "with  two spaces",
    'it\'s "quoted" \\',
    "$(touch pwned) `touch pwned` ; touch pwned & | > pwned",
    "'; touch pwned; '",
    "line one\nline two\n",
    "",
    "*",
    "日本語 \U0001f600",
    "--behind-two-dashes",
]


@pytest.mark.parametrize(
    "options",
    [
        ["--command", "/usr/bin/printf -- <%s> {content}"],
        ["--command", "/usr/bin/printf -- '<%s>' {content}", "--shell"],
        ["--command", "true $(true) && x=1 /usr/bin/printf -- '<%s>' {content} # it's done", "--shell"],
    ],
    ids=["arguments", "shell", "longer shell line"],
)
def test_no_value_of_a_row_is_read_by_a_shell(texts: Any, options: list[str]) -> None:
    add(texts, *HOSTILE)
    done = texts.run("run", *options, "--write", "words", "-q")
    assert done.returncode == 0, done.stderr
    assert rows(texts) == [("DONE", f"<{text}>") for text in HOSTILE]
    assert not (texts.path / "pwned").exists()


def test_a_value_that_no_argument_can_hold_or_that_would_be_an_option_fails_its_row_alone(texts: Any) -> None:
    add(texts, "-n", "a\0b", None, "x" * 1_000_000, "fine")
    done = texts.run("run", "--command", "echo {content}", "--write", "words", "-q")
    assert done.returncode == 1
    assert rows(texts) == [("FAILED", None)] * 4 + [("DONE", "fine")]
    reasons = {entry["key"][0]: entry["error"] for entry in json.loads(texts.run("failures", "--json").stdout)}
    for id, words in {1: ("'-n'", "--allow-dashes"), 2: ("NUL",), 3: ("NULL",), 4: ("too long", "1,000,000")}.items():
        assert all(word in reasons[id] for word in words), reasons[id]

    texts.sql("UPDATE text SET status = 'PENDING' WHERE id = 1")
    done = texts.run("run", "--command", "echo {content} x", "--write", "words", "--allow-dashes", "-q")
    assert done.returncode == 0
    assert rows(texts)[0] == ("DONE", "x")


def test_braces_types_and_the_key_reach_the_program(texts: Any) -> None:
    add(texts, "a")
    script = (
        "import os,sys; e = os.environ.get; print(sys.argv[1:], e('POOLTABLE_ROW_KEY'), e('POOLTABLE_ROW_ATTEMPT'))"
    )
    (texts.path / "say.py").write_text(script + "; assert len(e('POOLTABLE_IDEMPOTENCY_KEY')) > 8\n")
    done = texts.run("run", "--command", "python3 say.py {{}} {id}.mp3 --x={content}{id}", "--result", "words", "-q")
    assert done.returncode == 0, done.stderr
    assert rows(texts) == [("DONE", "['{}', '1.mp3', '--x=a1'] 1 1")]


def test_how_the_command_ended_is_the_kind_of_failure_and_what_it_printed_is_kept(texts: Any) -> None:
    add(texts, "exit 3", "kill -SEGV $$", "exit 0")
    done = texts.run(
        "run", "--command", "sh -c 'echo out; echo err >&2; '{content}", "--fails", "2", "--retry-pause", "0"
    )
    assert done.returncode == 1
    assert "1 exit status 3" in done.stdout
    assert "1 killed by SIGSEGV" in done.stdout
    assert rows(texts, "status") == [("FAILED",), ("FAILED",), ("DONE",)]
    shown = texts.run("show", "1").stdout
    assert "exit status 3: sh -c 'echo out; echo err >&2; exit 3'" in shown
    log = texts.run("logs", "1").stdout
    assert "out\n" in log
    assert "err\n" in log


def test_output_that_would_have_been_stored_is_kept_with_the_failure(texts: Any) -> None:
    add(texts, "a")
    done = texts.run("run", "--command", "echo {content} before; false", "--shell", "--write", "words", "-q")
    assert done.returncode == 1
    assert rows(texts) == [("FAILED", None)]
    shown = texts.run("show", "1").stdout
    assert "It printed:\na before" in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--command", "nosuchprogram {content}"], ["'nosuchprogram'", "PATH"]),
        (["--command", "echo {contents}"], ["{contents}", "id, content, words"]),
        (["--command", "echo {content}", "--write", "words,content"], ["one of them"]),
        (["--command", "echo {content}", "--batch", "2"], ["--batch"]),
        (["app:mission", "--command", "echo {content}"], ["not both"]),
        ([], ["--command"]),
    ],
    ids=["no program", "no column", "two columns", "batch", "function too", "nothing"],
)
def test_a_command_that_can_never_run_is_one_clear_line_and_claims_nothing(
    texts: Any, options: list[str], words: list[str]
) -> None:
    add(texts, "a")
    done = texts.run("run", *options)
    assert done.returncode == 2
    assert all(word in done.line for word in words), done.line
    assert rows(texts, "status") == [("PENDING",)]


def test_a_command_in_the_settings_runs_where_no_function_is_named(texts: Any) -> None:
    add(texts, "a")
    with (texts.path / "pooltable.toml").open("a") as file:
        file.write('command = "echo {content}{content}"\nresult = "words"\n')
    assert texts.run("run", "-q").returncode == 0
    assert rows(texts) == [("DONE", "aa")]
    texts.sql("UPDATE text SET status = 'PENDING'")
    assert texts.run("run", "app:noisy", "-q").returncode == 0


def test_a_time_limit_kills_all_that_the_command_started(texts: Any) -> None:
    add(texts, "a")
    command = "sh -c 'sleep 87.5 & echo $! > child; echo begun; sleep 87.5'"
    done = texts.run("run", "--command", command, "--time-limit", "0.5", "-q")
    assert done.returncode == 1
    assert rows(texts, "status") == [("FAILED",)]
    assert gone(int((texts.path / "child").read_text()))
    log = texts.run("logs", "1").stdout
    assert "begun" in log
    assert "most recent call first" not in log


def test_what_a_command_left_in_the_background_ends_with_the_run(texts: Any) -> None:
    add(texts, "a")
    done = texts.run("run", "--command", "sh -c 'sleep 87.5 >/dev/null 2>&1 & echo $! > child'", "-q")
    assert done.returncode == 0
    assert gone(int((texts.path / "child").read_text()))


def test_ctrl_c_lets_the_commands_come_to_their_end(texts: Any) -> None:
    add(texts, "a", "b", "c")
    command = "sh -c 'touch began; while [ ! -e go ]; do sleep 0.02; done'"
    process = texts.start("run", "--command", command, "-p", "1")
    until(lambda: (texts.path / "began").exists())
    process.send_signal(signal.SIGINT)
    assert "stop" in process.stderr.readline() + process.stderr.readline()
    (texts.path / "go").touch()
    process.communicate(timeout=30)
    assert process.returncode == 3
    assert sorted(rows(texts, "status")) == [("DONE",), ("PENDING",), ("PENDING",)]


def gone(pid: int) -> bool:
    """Whether that process ends soon."""

    def is_gone() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    until(is_gone)
    return True


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_bytes_that_are_no_text_go_into_a_column_for_bytes(texts: Any) -> None:
    texts.sql("CREATE TABLE blob (id INTEGER PRIMARY KEY, status TEXT DEFAULT 'PENDING', data BLOB)")
    texts.sql("INSERT INTO blob (id) VALUES (1)")
    (texts.path / "bytes").write_bytes(b"\xff\x00\n\n")
    done = texts.run("run", "-t", "blob", "--command", "cat bytes", "--write", "data", "-q")
    assert done.returncode == 0, done.stderr
    assert texts.sql("SELECT data FROM blob") == [(b"\xff\x00\n",)]


def test_the_test_folder_is_where_commands_run(texts: Any) -> None:
    add(texts, "a")
    assert texts.run("run", "--command", "pwd", "--write", "words", "-q").returncode == 0
    assert Path(rows(texts)[0][1]) == Path(os.path.realpath(texts.path))


def test_try_runs_the_command_on_rows_and_writes_nothing(texts: Any) -> None:
    add(texts, "fine", "-n", "bad")
    (texts.path / "pooltable.toml").write_text('db = "work.db"\ntable = "text"\nwrite = ["words"]\n')
    command = "test {content} != bad && echo ran {content}"
    done = texts.run("try", "--command", command, "--shell", "1", "2", "3")
    assert done.returncode == 1
    assert "row 1 returned" in done.stdout
    assert ": ran fine" in done.stdout
    assert "row 2 would be FAILED: '-n' in the place of {content}" in done.stdout
    assert f"row 3 would be FAILED: exit status 1: {command}" in done.stdout
    assert done.stderr == ""
    assert rows(texts) == [("PENDING", None)] * 3
    assert texts.sql("SELECT count(*) FROM sqlite_master WHERE name LIKE 'pooltable%'") == [(0,)]


def test_try_takes_the_command_of_the_settings_unless_a_function_is_named(texts: Any) -> None:
    add(texts, "fine")
    (texts.path / "app.py").write_text("def mission(row):\n    return 'from a function'\n")
    with (texts.path / "pooltable.toml").open("a") as settings:
        settings.write('command = "echo from a command"\nwrite = ["words"]\n')
    assert "from a command" in texts.run("try", "1").stdout
    assert "from a function" in texts.run("try", "app:mission", "1").stdout
    assert "keys" in texts.run("try", "app:mission").line
    assert "leave out --batch" in texts.run("try", "1", "--batch", "2").line


@pytest.mark.parametrize("options", [["run", "-p", "0"], ["try", "1"]], ids=["run", "try"])
def test_a_command_in_this_process_ends_with_ctrl_c(texts: Any, options: list[str]) -> None:
    add(texts, "a")
    script = texts.path / "wait.py"
    script.write_text("import os, time\nprint(os.getpid(), file=open('pid', 'w'), flush=True)\ntime.sleep(60)\n")
    process = texts.start(*options, "--command", "python3 wait.py")
    until = time.monotonic() + 20
    while not (texts.path / "pid").exists() or not (texts.path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    pid = int((texts.path / "pid").read_text())
    while psutil.pid_exists(pid):  # no longer: Ctrl-C pressed while Python itself ends has another exit code
        assert time.monotonic() < until
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=20)
    assert process.returncode == (3 if "run" in options else 130)
    assert rows(texts, "status") == [("PENDING",)]


def test_a_command_inherits_nothing_that_is_open_in_its_worker(texts: Any) -> None:
    add(texts, "a")
    (texts.path / "show.py").write_text("import os\nprint(*sorted(map(int, os.listdir('/dev/fd'))))\n")
    done = texts.run("run", "--command", "python3 show.py", "--write", "words", "-q")
    assert done.returncode == 0, done.stderr
    assert rows(texts) == [("DONE", "0 1 2 3")]  # the last one is what it lists them with
