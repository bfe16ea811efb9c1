"""`pooltable run` and `try`, as a process of its own against a real SQLite file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest


def wait_until(condition: Callable[[], Any], seconds: float = 25) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("that did not come true in time")


def statuses(folder: Any) -> dict[str, int]:
    return dict(folder.sql("SELECT status, count(*) FROM host GROUP BY status"))


def test_all_rows_done_is_exit_0_with_the_summary_on_stdout(hosts: Any) -> None:
    done = hosts.run("run", "app:mission")
    assert done.returncode == 0
    assert "4 done, 0 failed" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert hosts.sql("SELECT caption, status FROM host WHERE id = 3") == [("WEB3", "DONE")]


def test_a_value_that_no_column_takes_ends_the_run_unless_that_is_said(hosts: Any) -> None:
    (hosts.path / "pooltable.toml").write_text('db = "work.db"\ntable = "host"\nprocesses = 2\n')
    done = hosts.run("run", "app:mission", "--quiet")
    assert done.returncode == 2
    assert "and no column takes it: name one with --result or --write" in done.line
    assert "--drop-results" in done.line
    assert statuses(hosts) == {"PENDING": 4}
    done = hosts.run("run", "app:mission", "--quiet", "--drop-results")
    assert (done.returncode, statuses(hosts)) == (0, {"DONE": 4})


def test_some_rows_failed_is_exit_1_and_each_says_worker_and_row_on_stderr(hosts: Any) -> None:
    done = hosts.run("run", "app:picky", "--json")
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert (summary["done"], summary["failed"], summary["failures"]) == (2, 2, {"ValueError": 2})
    failed = [line for line in done.stderr.splitlines() if "row 2 failed" in line]
    assert len(failed) == 1
    assert "ValueError: row 2 is even" in failed[0]
    assert "attempt 1" in failed[0]
    assert "Traceback" not in done.stderr


def test_an_initializer_that_raises_is_told_once_with_its_traceback(hosts: Any) -> None:
    done = hosts.run("run", "app:mission", "--initializer", "app:broken_start")
    assert done.returncode == 5
    assert done.stderr.count("Traceback") == 1
    lines = done.stderr.splitlines()
    assert lines[-1] == "pooltable: no worker can be started: OSError: no such model file"
    assert sum("no worker can be started" in line for line in lines) == 1


MODELS = """
import app

if not app.ready:
    raise RuntimeError("it is too early")

def mission(row):
    return row.name.upper()
"""


def test_what_is_to_be_done_before_the_task_is_imported_can_be_said(hosts: Any) -> None:
    with (hosts.path / "app.py").open("a") as file:
        file.write("\nready = False\n\ndef prepare_models():\n    global ready\n    ready = True\n")
    (hosts.path / "models.py").write_text(MODELS)
    assert "it is too early" in hosts.run("run", "models:mission").line
    assert hosts.run("try", "models:mission", "1", "--setup", "app:prepare_models").returncode == 0
    done = hosts.run("run", "models:mission", "--setup", "app.prepare_models")
    assert (done.returncode, statuses(hosts)) == (0, {"DONE": 4})


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ("app:prepair", "did you mean app:prepare?"),
        ("prepare", "setup names a function, such as django.setup or app:prepare, not 'prepare'"),
        ("app:broken_start", "setup app:broken_start raised OSError"),
    ],
)
def test_a_setup_that_cannot_be_done_is_one_line(hosts: Any, setup: str, words: str) -> None:
    done = hosts.run("run", "app:mission", "--setup", setup)
    assert done.returncode == 2
    assert words in done.line


def test_what_workers_print_and_log_is_shown_with_worker_and_row(hosts: Any) -> None:
    done = hosts.run("run", "app:noisy", "-p", "1", "--initializer", "app:prepare", "--max-rows", "1")
    assert done.returncode == 0
    shown = [line.split(" ", 1)[1] for line in done.stderr.splitlines() if "worker 0" in line]
    assert shown == [
        "worker 0 INFO app: prepared",
        "worker 0 row 1: from C",
        "worker 0 row 1: on stderr",
        "worker 0 row 1 INFO app: a record of row 1",
    ]


def test_quiet_shows_nothing_but_the_result(hosts: Any) -> None:
    done = hosts.run("run", "app:picky", "--quiet")
    assert (done.returncode, done.stderr) == (1, "")
    assert "2 done, 2 failed" in done.stdout


def test_a_log_file_holds_every_end_with_worker_and_row(hosts: Any) -> None:
    hosts.run("run", "app:picky", "--quiet", "--log", "run.log")
    log = (hosts.path / "run.log").read_text()
    assert "row 1 done" in log
    assert "row 2 failed" in log
    assert "WARNING app: an even one" in log
    assert "looking at web1" in log
    assert "2 done, 2 failed" in log


def test_a_json_log_is_one_object_per_line(hosts: Any) -> None:
    done = hosts.run("run", "app:picky", "--log-json")
    records = [json.loads(line) for line in done.stderr.splitlines()]
    by_row = [record for record in records if record["logger"] == "app" and record["key"] == [2]]
    assert [(record["level"], record["message"]) for record in by_row] == [("WARNING", "an even one")]
    assert isinstance(by_row[0]["worker"], int)
    failed = next(record for record in records if record.get("end") == "failed" and record["key"] == [4])
    assert (failed["attempt"], failed["level"]) == (1, "ERROR")
    assert any(record.get("exit_code") == 1 for record in records)


def test_the_log_of_a_killed_worker_is_kept_with_its_row(hosts: Any) -> None:
    done = hosts.run("run", "app:deadly", "--max-rows", "1", "--lost", "1", "-p", "1")
    assert done.returncode == 1
    assert "SIGKILL" in done.stderr
    assert "last words" in hosts.run("logs", "1").stdout
    assert "SIGKILL" in hosts.run("failures").stdout


@pytest.mark.parametrize("option", ["--no-verbose", "-v"])
def test_a_lost_worker_costs_one_warning_for_each_attempt_and_its_stack_is_kept_with_the_row(
    hosts: Any, option: str
) -> None:
    (hosts.path / "crash.py").write_text("import ctypes\n\ndef mission(row):\n    ctypes.string_at(0)\n")
    done = hosts.run("run", "crash:mission", "--max-rows", "2", "--lost", "2", "-p", "1", option)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
    assert len(told) == 2, done.stderr
    assert all("row 1 failed" in line and "SIGSEGV" in line for line in told), done.stderr
    stacks = done.stderr.count("Fatal Python error: Segmentation fault")
    assert stacks == (2 if option == "-v" else 0), done.stderr
    assert 'crash.py", line 4 in mission' in hosts.run("logs", "1").stdout


def test_a_worker_that_crashes_before_its_first_row_shows_its_stack(hosts: Any) -> None:
    (hosts.path / "crash.py").write_text("import ctypes\n\ndef begin():\n    ctypes.string_at(0)\n")
    done = hosts.run("run", "app:mission", "-p", "1", "--initializer", "crash:begin")
    assert done.returncode == 5
    assert 'crash.py", line 4 in begin' in done.stderr


def test_a_burst_of_failures_is_exit_6_and_retry_by_run_undoes_it(hosts: Any) -> None:
    done = hosts.run("run", "app:hopeless", "--halt", "3", "-p", "1", "--json")
    assert done.returncode == 6, done.stderr
    summary = json.loads(done.stdout)
    assert "RuntimeError" in summary["error"]
    assert hosts.run("retry", "--run", summary["run"][:8]).returncode == 0
    assert statuses(hosts) == {"PENDING": 4}


def test_rows_that_fail_are_tried_again_as_told(hosts: Any) -> None:
    done = hosts.run("run", "app:picky", "--fails", "2", "--retry-pause", "0.01", "--json")
    assert json.loads(done.stdout)["retried"] == 2
    assert json.loads(hosts.run("show", "2", "--json").stdout)["entry"]["attempt"] == 2


def test_a_time_limit_ends_a_row(hosts: Any) -> None:
    done = hosts.run("run", "app:slow", "--time-limit", "0.3", "--max-rows", "1", "-p", "1")
    assert done.returncode == 1
    assert "time limit" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_service_drains_and_is_exit_0(hosts: Any, number: int) -> None:
    process = hosts.start("run", "app:waiting", "--forever", "-p", "1")
    try:
        wait_until(lambda: statuses(hosts).get("DOING"))
        process.send_signal(number)
        process.stderr.readline()
        (hosts.path / "go").touch()
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert "DOING" not in statuses(hosts)
    assert "Traceback" not in err


def test_a_run_that_is_stopped_with_work_left_is_exit_3(hosts: Any) -> None:
    process = hosts.start("run", "app:slow", "-p", "1", "--grace", "0.2")
    try:
        wait_until(lambda: statuses(hosts).get("DOING"))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 3, err
    assert statuses(hosts) == {"PENDING": 4}
    assert "4 left" in out


def test_rows_in_this_process_run_without_workers(hosts: Any) -> None:
    done = hosts.run("run", "app:picky", "-p", "0")
    assert done.returncode == 1
    assert statuses(hosts) == {"DONE": 2, "FAILED": 2}
    assert "looking at web1" in done.stdout


def test_settings_come_from_the_environment_too(hosts: Any) -> None:
    hosts.environment.update(POOLTABLE_MAX_ROWS="1", POOLTABLE_QUIET="yes")
    done = hosts.run("run", "app:mission")
    assert (done.stderr, statuses(hosts)) == ("", {"DONE": 1, "PENDING": 3})


def test_try_runs_one_row_here_and_writes_nothing(hosts: Any) -> None:
    done = hosts.run("try", "app:mission", "3")
    assert done.returncode == 0
    assert "WEB3" in done.stdout
    assert "caption" in done.stdout
    assert statuses(hosts) == {"PENDING": 4}
    assert hosts.sql("SELECT name FROM sqlite_master WHERE name LIKE 'pooltable%'") == []


def test_try_says_that_no_column_can_hold_what_a_function_returned(hosts: Any) -> None:
    (hosts.path / "locks.py").write_text("import threading\ndef mission(row):\n    return threading.Lock()\n")
    done = hosts.run("try", "locks:mission", "1")
    assert done.returncode == 1
    assert "the row would be FAILED: column 'caption'" in done.stdout
    (only,) = json.loads(hosts.run("try", "locks:mission", "1", "--json").stdout)
    assert only["ended"] == "failed"


def test_try_shows_the_traceback_of_the_users_own_code_only(hosts: Any) -> None:
    done = hosts.run("try", "app:picky", "2")
    assert done.returncode == 1
    assert "app.py" in done.stderr
    assert "ValueError: row 2 is even" in done.stderr
    assert os.path.join("pooltable", "tasks.py") not in done.stderr
    assert hosts.run("try", "app:picky", "1", "--initializer", "app:prepare").returncode == 0


def test_a_worker_over_the_first_memory_limit_is_replaced_and_over_the_second_killed(hosts: Any) -> None:
    (hosts.path / "fat.py").write_text(
        "import os, time\nkept = []\n"
        "def mission(row):\n"
        "    kept.append(bytearray(os.urandom(1 << 20) * (120 if row.id < 3 else 400)))\n"
        "    while row.id == 4: time.sleep(0.01)\n"
        "    return str(os.getpid())\n"
    )
    hosts.sql("DELETE FROM host WHERE id = 3")
    done = hosts.run("run", "fat:mission", "--memory", "100MB,300MB", "--lost", "1", "-p", "1")
    assert done.returncode == 1, done.stderr
    pids = dict(hosts.sql("SELECT id, caption FROM host"))
    assert pids[1] != pids[2], "replaced after its row"
    assert "over its limit of 300 MB" in hosts.run("show", "4").stdout


def test_try_tells_programs_what_came_of_each_row_and_nothing_else_on_stdout(hosts: Any) -> None:
    done = hosts.run("try", "app:picky", "1", "3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(one["key"], one["ended"], one["value"]) for one in found] == [
        ("1", "returned", "web1"),
        ("3", "returned", "web3"),
    ]
    assert "looking at web1" in done.stderr
    done = hosts.run("try", "app:picky", "2", "--json")
    assert done.returncode == 1
    (only,) = json.loads(done.stdout)
    assert (only["ended"], only["reason"]) == ("failed", "ValueError: row 2 is even")


def test_try_starts_the_debugger_where_the_function_raised(hosts: Any) -> None:
    done = hosts.run("try", "app:picky", "2", "--pdb", stdin="p row.name\nq\n")
    assert "web2" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("command", ["run app:picky", "status --json", "failures", "config", "--help"])
def test_a_reader_that_leaves_early_gets_no_traceback(hosts: Any, command: str) -> None:
    hosts.run("run", "app:picky", "--max-rows", "2")
    process = hosts.start(*command.split())
    # Closed before anything is written, which is what `| head -0` does.
    process.stdout.close()
    err = process.stderr.read()
    process.stdin.close()
    process.stderr.close()
    code = process.wait(timeout=30)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    assert code in (0, 1, 128 + signal.SIGPIPE)


def test_closed_stdout_and_stderr_do_not_stop_a_run(hosts: Any) -> None:
    import sys

    command = f"{sys.executable} -m pooltable run app:picky"
    done = subprocess.run(
        ["sh", "-c", f"{command} >&- 2>&- <&-; echo $?"], cwd=hosts.path, capture_output=True, text=True
    )
    assert done.stdout == "1\n"
    assert statuses(hosts) == {"DONE": 2, "FAILED": 2}
