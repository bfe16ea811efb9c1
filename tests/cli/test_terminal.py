"""What is shown on a terminal: the bar, lines above it, the questions of init."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from typing import Any

import pytest


def test_a_run_shows_a_bar_with_counts_workers_and_the_newest_failure(hosts: Any, terminal: Any) -> None:
    (hosts.path / "two.py").write_text(
        "import os, time\n"
        "def mission(row):\n"
        "    if row.id == 1: raise ValueError('number one')\n"
        "    print('at', row.name)\n"
        "    while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    shown = terminal("run", "two:mission", "-p", "1")
    shown.wait_for(r"worker 0 row 2: .*at web2")
    shown.wait_for(r"1/4")
    shown.wait_for(r"1 failed")
    shown.wait_for(r"1 x ValueError: number one .row 1")
    shown.wait_for(r"worker 0\s+row 2\s+\d")
    (hosts.path / "go").touch()
    assert shown.finish() == 1
    assert "3 done, 1 failed" in shown.seen
    assert shown.seen.rstrip().endswith("failures: 1 ValueError"), "the bar is gone and the result stays"
    assert "\x1b[?25h" in shown.seen, "the cursor is back"


def test_quiet_shows_no_bar(hosts: Any, terminal: Any) -> None:
    shown = terminal("run", "app:picky", "--quiet")
    assert shown.finish() == 1
    assert "\x1b" not in shown.seen
    assert "2 done, 2 failed" in shown.seen


def test_ctrl_c_drains_and_a_second_one_stops_now(hosts: Any, terminal: Any) -> None:
    shown = terminal("run", "app:slow", "-p", "1", "--grace", "50")
    shown.wait_for(r"1 running")
    os.kill(shown.process.pid, signal.SIGINT)
    shown.wait_for(r"taking no more rows")
    os.kill(shown.process.pid, signal.SIGINT)
    assert shown.finish() == 3
    assert "Traceback" not in shown.seen
    assert hosts.sql("SELECT DISTINCT status FROM host") == [("PENDING",)]
    assert "\x1b[?25h" in shown.seen


@pytest.mark.parametrize("option", ["--no-verbose", "-v"])
def test_a_second_ctrl_c_gives_each_row_one_line_and_verbose_shows_where_it_was(
    hosts: Any, terminal: Any, option: str
) -> None:
    (hosts.path / "naps.py").write_text("import time\n\ndef mission(row):\n    print('naps')\n    time.sleep(60)\n")
    shown = terminal("run", "naps:mission", "-p", "2", "--grace", "50", option)
    shown.wait_for(r"worker 0 row \d: .*naps.*worker 1 row \d: .*naps|worker 1 row \d: .*naps.*worker 0 row \d: .*naps")
    os.kill(shown.process.pid, signal.SIGINT)
    shown.wait_for(r"taking no more rows")
    os.kill(shown.process.pid, signal.SIGINT)
    shown.wait_for(r"ending 2 running rows now")
    before = len(shown.seen)
    assert shown.finish() == 3
    after = shown.seen[before:]
    for row in (1, 2):
        assert len(re.findall(rf"row {row} is given back", after)) == 1, after
    if option == "-v":
        assert len(re.findall(r'File ".*naps\.py", line 5 in mission', after)) == 2, after
    else:
        assert "File" not in after, after
        assert "worker 0 ended" not in after, after


def test_what_a_worker_prints_cannot_move_the_cursor(hosts: Any, terminal: Any) -> None:
    (hosts.path / "wild.py").write_text(
        "def mission(row):\n"
        "    print('\\x1b[2J\\x1b[1;1H\\x1b]0;title\\x07wild \\x1b[31mred\\x1b[0m [bold]plain[/bold]')\n"
    )
    shown = terminal("run", "wild:mission", "--max-rows", "1", "-p", "1")
    assert shown.finish() == 0
    assert "\x1b[2J" not in shown.seen
    assert "\x1b]0;" not in shown.seen
    assert "[bold]plain[/bold]" in shown.seen


def test_init_asks_for_what_it_cannot_see(folder: Any, terminal: Any) -> None:
    folder.sql("CREATE TABLE video (id INTEGER PRIMARY KEY, state TEXT)")
    folder.sql("CREATE TABLE other (id INTEGER PRIMARY KEY)")
    folder.sql("INSERT INTO video (state) VALUES ('new'), ('new'), (NULL)")
    asked = terminal("init")
    for question, answer in (
        (r"Database.*: $", "work.db"),
        (r"Table.*: $", "video"),
        (r"Status column: $", "state"),
        (r"PENDING.*: $", "new"),
        (r"DOING.*: $", ""),
        (r"DONE.*: $", ""),
        (r"FAILED.*: $", "NULL"),
    ):
        asked.wait_for(question)
        asked.seen = ""
        asked.type(answer + "\n")
    assert asked.finish() == 0
    assert "2 rows wait" in asked.seen
    done = folder.run("run", "app:nothing", "--quiet")
    assert done.returncode == 0, done.stderr
    assert folder.sql("SELECT state FROM video ORDER BY id") == [("DONE",), ("DONE",), (None,)]


def test_init_says_what_is_wrong_with_an_answer_and_asks_again(folder: Any, terminal: Any) -> None:
    folder.sql("CREATE TABLE video (id TEXT PRIMARY KEY, state TEXT, score JSON)")
    folder.sql("INSERT INTO video VALUES ('a', NULL, NULL), ('b', NULL, NULL)")
    asked = terminal("init")
    for question, answer in (
        (r"Database.*: $", "other.db"),
        (r"there is no file 'other.db'[^$]*Database.*: $", "work.db"),
        (r"Status column: $", "stat"),
        (r"no column 'stat' for status; there is 'state'\s+Status column: $", "state"),
        (r"PENDING \[NULL\]: $", "NEW"),
        (r"no row has 'NEW': they have NULL\s+The word for PENDING \[NULL\]: $", ""),
        (r"DOING.*: $", "NULL"),
        (r"'NULL' is the word for PENDING already\s+The word for DOING.*: $", ""),
        (r"DONE.*: $", ""),
        (r"FAILED.*: $", ""),
        (r"Columns.*: $", "scor"),
        (r"'scor' is none of them\s+Columns.*: $", "score"),
    ):
        asked.wait_for(question)
        asked.seen = ""
        asked.type(answer + "\n")
    assert asked.finish() == 0
    assert "2 rows wait" in asked.seen


def test_init_asks_where_a_result_goes(hosts: Any, terminal: Any) -> None:
    (hosts.path / "pooltable.toml").unlink()
    asked = terminal("init", "--db", "work.db", "--table", "host")
    asked.wait_for(r"Columns for what the task returns, with commas, of name, caption \(empty: it returns nothing\): $")
    asked.type("caption\n")
    assert asked.finish() == 0
    assert 'write = ["caption"]' in (hosts.path / "pooltable.toml").read_text()
    assert hosts.run("run", "app:mission", "--quiet").returncode == 0
    assert hosts.sql("SELECT caption FROM host WHERE id = 1") == [("WEB1",)]


@pytest.mark.parametrize(("answer", "caption"), [("caption", "WEB1"), ("", None)])
def test_run_asks_before_it_drops_the_first_value(hosts: Any, terminal: Any, answer: str, caption: str | None) -> None:
    (hosts.path / "pooltable.toml").write_text('db = "work.db"\ntable = "host"\nprocesses = 2\n')
    asked = terminal("run", "app:mission")
    asked.wait_for(r"the task returned a value for row \d, and no column takes it")
    asked.wait_for(r"of name, caption \(empty: drop it, and that of every row\): $")
    assert hosts.sql("SELECT count(*) FROM host WHERE status = 'PENDING'") == [(4,)]
    asked.type(answer + "\n")
    asked.wait_for(r"Keep this answer in .*pooltable.toml \[Y/n\]: $")
    asked.type("\n")
    assert asked.finish() == 0
    assert "4 done, 0 failed" in asked.seen
    assert hosts.sql("SELECT caption, status FROM host WHERE id = 1") == [(caption, "DONE")]
    hosts.run("retry", "--done")
    assert hosts.run("run", "app:mission").returncode == 0, "it is in the file now"


@pytest.mark.parametrize(("answer", "flag"), [("caption", "--write caption"), ("", "--drop-results")])
def test_run_says_which_flag_keeps_an_answer_where_there_is_no_file(
    hosts: Any, terminal: Any, answer: str, flag: str
) -> None:
    (hosts.path / "pooltable.toml").unlink()
    asked = terminal("run", "app:mission", "--db", "work.db", "--table", "host")
    asked.wait_for(r"\(empty: drop it, and that of every row\): $")
    asked.type(answer + "\n")
    assert asked.finish() == 0
    assert f"to be asked no more, give {flag}\r\n" in asked.seen
    assert not (hosts.path / "pooltable.toml").exists()


def test_a_question_that_is_not_answered_ends_without_a_traceback(folder: Any, terminal: Any) -> None:
    asked = terminal("init")
    asked.wait_for(r"Database.*: $")
    # An interrupt between the prompt and the read of the answer is noticed after the read: press again, as one does.
    while asked.process.poll() is None:
        os.kill(asked.process.pid, signal.SIGINT)
        heard = time.monotonic() + 2
        while asked.read() and time.monotonic() < heard:
            pass
    assert asked.finish() in (130, -signal.SIGINT)
    assert "Traceback" not in asked.seen


def test_a_progress_line_is_shown_every_few_seconds_without_a_terminal(hosts: Any) -> None:
    process = hosts.start("run", "app:waiting", "-p", "1")
    lines = []
    try:
        while not (lines and re.search(r"0 of 4, 1 running, 3 waiting, 0 failed", lines[-1])):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        (hosts.path / "go").touch()
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        raise AssertionError(lines) from None
    finally:
        process.kill()
        process.wait()
    assert "\x1b" not in "".join(lines)


@pytest.mark.alone
def test_tune_shows_what_it_has_measured_so_far_and_ends_at_ctrl_c(folder: Any, terminal: Any) -> None:
    folder.make_hosts(12)
    shown = terminal("tune", "app:nothing", "--seconds", "60")
    # A round later than the first: there are rates of all by then.
    shown.wait_for(r"round 2: processes.*ROWS/S.*\d of 60 s", 50)
    os.killpg(shown.process.pid, signal.SIGINT)
    assert shown.finish() == 130, shown.seen
    assert "Traceback" not in shown.seen


def test_show_and_failures_fit_the_terminal(hosts: Any, terminal: Any) -> None:
    (hosts.path / "long.py").write_text("def mission(row):\n    raise ValueError('word ' * 40)\n")
    hosts.sql("UPDATE host SET caption = ?, name = ?", ("much " * 200, "\x1b[2J" + "name " * 100))
    hosts.run("run", "long:mission", "--quiet")
    for arguments in (("show", "1"), ("failures",)):
        shown = terminal(*arguments, columns=60)
        assert shown.finish() == 0
        lines = shown.seen.partition("\r\n\r\n")[0].splitlines()  # the traceback is whole
        assert 50 < max(map(len, lines)) <= 60, shown.seen
        assert "…" in shown.seen
        assert "\x1b" not in shown.seen
