"""`pooltable tune`, and `try` with several rows: real workers on real rows, and nothing is written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

MODELS = """
import fcntl, os, time

def predict(rows):
    time.sleep(0.02)                       # a call costs the same, however many rows it has
    return [row.name.upper() for row in rows]

def mark():
    with open("started", "a") as file:
        print(os.getpid(), file=file)

def one(row):
    return row.name.upper()

def one_by_name(row):
    return row["name"].upper()

def unpacks(row):
    id, name = row
    return name

def waits(row):
    time.sleep(0.02)

def load():
    with open("lock", "a") as lock:        # as a disk that gives a model to one worker after the other
        fcntl.flock(lock, fcntl.LOCK_EX)
        time.sleep(0.5)

def waits_after_loading(row, loaded=[]):
    if not loaded:
        load()
        loaded.append(True)
    time.sleep(0.02)

def some_fail(rows):
    return [ValueError("even") if row.id % 2 == 0 else row.name for row in rows]

def hopeless(rows):
    raise RuntimeError("no model here")

def too_large(rows):
    if len(rows) > 8:
        os.kill(os.getpid(), 9)            # as the kernel does when memory is short
    return predict(rows)

def deadly(row):
    if row.id == 3:
        os.kill(os.getpid(), 9)
"""


@pytest.fixture
def rows(folder: Any) -> Any:
    folder.make_hosts(40)
    (folder.path / "models.py").write_text(MODELS)
    return folder


def contents(folder: Any) -> dict[str, str]:
    files = sorted(folder.path.glob("work.db*"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.alone
def test_the_best_flags_are_printed_with_what_they_gain_and_nothing_is_written(rows: Any) -> None:
    before = contents(rows)
    done = rows.run("tune", "models:predict", "-p", "1", "--threads", "1", "--batch", "32", "--seconds", "4", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # The default of four times as many would be 128, and there are 40 rows.
    assert found["best"]["batch"] == 32
    assert {one["batch"] for one in found["measured"]} == {2, 8, 32}
    assert found["command"] == "pooltable run models:predict --processes 1 --threads 1 --batch 32"
    rates = {one["batch"]: one["rate"] for one in found["measured"]}
    assert rates[32] > 3 * rates[8] > 6 * rates[2]
    assert found["for_rows"] == 40
    assert contents(rows) == before


def test_a_choice_that_kills_its_workers_is_not_taken_and_the_others_are_measured(rows: Any) -> None:
    rows.environment["POOLTABLE_BATCH"] = "2"
    flags = ("-p", "1", "--threads", "1", "--batch", "32", "--seconds", "8")
    done = rows.run("tune", "models:too_large", *flags)
    assert done.returncode == 0, done.stderr
    assert "--batch 8" in done.stdout.splitlines()[-1]
    assert "was killed by SIGKILL" in next(line for line in done.stdout.splitlines() if line.split()[2] == "32")


def test_a_task_that_waits_gets_more_workers_than_there_are_cores(rows: Any) -> None:
    done = rows.run("tune", "models:waits", "--threads", "1", "--rows", "100000", "--seconds", "8")
    assert done.returncode == 0, done.stderr
    assert "times as fast as what is set now (processes 2, threads 1)" in done.stdout
    assert int(done.stdout.split("--processes ")[1].split()[0]) > 2


@pytest.fixture
def two_cores() -> Iterator[None]:
    """What is started meanwhile has two cores at most, so that the same few choices are measured on every machine."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("cores cannot be taken away on this system")
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:2])
    yield
    os.sched_setaffinity(0, mine)


@pytest.mark.alone
@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("task", [("waits", "--initializer", "models:load"), ("waits_after_loading",)])
def test_what_the_workers_load_counts_and_few_rows_are_done_sooner_by_few_of_them(rows: Any, task: Any) -> None:
    name, *initializer = task
    flags = ("--threads", "1", "--seconds", "16", "--json")
    done = rows.run("tune", f"models:{name}", *initializer, "--rows", "10", *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    measured = {one["processes"]: one for one in found["measured"] if one["rate"]}
    # Each waits for those before it: on average half of them.
    assert measured[4]["start"] > measured[1]["start"] + 0.5
    assert measured[4]["rate"] > 2 * measured[1]["rate"]
    # One alone, or on a busy machine perhaps two.
    best = found["best"]["processes"]
    assert best <= 2
    # Whether more of them win with more rows is decided from what was measured: tests/unit/test_tuning.py.
    assert found["later"] is None or found["later"]["processes"] > best


def test_save_writes_the_choice_beside_what_somebody_wrote(rows: Any) -> None:
    file = rows.path / "pooltable.toml"
    file.write_text("# ours\n" + file.read_text().replace("processes = 2", "processes = 2  # a guess") + "# the end\n")
    rows.environment["POOLTABLE_THREADS"] = "1"
    done = rows.run("tune", "models:waits", "--rows", "100000", "--seconds", "8", "--save")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(
        r"wrote processes = \d+, threads = 1 to .*pooltable\.toml; in the environment, POOLTABLE_THREADS wins", last
    )
    processes = int(last.split()[3].rstrip(","))
    assert processes > 2
    assert file.read_text() == (
        '# ours\ndb = "work.db"\ntable = "host"\nwrite = ["caption"]\n'
        f"processes = {processes}  # a guess\n# the end\nthreads = 1\n"
    )
    # Also what a flag said, though nothing else was measured.
    done = rows.run("tune", "models:waits", "-p", "1", "--threads", "1", "--seconds", "6", "--save", "--json")
    assert json.loads(done.stdout)["best"]["processes"] == 1
    assert "wrote processes = 1, threads = 1 to" in done.line
    assert "processes = 1  # a guess\n" in file.read_text()


def test_a_task_that_fails_on_its_rows_is_told_with_the_way_to_look_at_one(rows: Any) -> None:
    done = rows.run("tune", "models:hopeless", "--batch", "8", "--seconds", "5")
    assert done.returncode == 2
    assert "RuntimeError: no model here" in done.line
    assert "`pooltable try` on row 1" in done.line
    killed = rows.run("tune", "models:deadly", "--seconds", "5")
    assert killed.returncode == 2
    assert "SIGKILL" in killed.line
    assert "`pooltable try` on row 3" in killed.line


@pytest.mark.parametrize("choices", [0, 1])
def test_ctrl_c_ends_it_with_what_was_measured(rows: Any, choices: int) -> None:
    flags = ("--threads", "1", "--seconds", "20" if choices else "4000", "--initializer", "models:mark")
    tuning = rows.start("tune", "models:waits", *flags)
    started = rows.path / "started"
    # Those for the first calls and for the first choice, and one of the next: the first is measured by then.
    until = time.monotonic() + 40
    while not started.exists() or started.read_text().count("\n") < (1 + 2 + 1 if choices else 1):
        assert time.monotonic() < until
        time.sleep(0.02)
    tuning.send_signal(signal.SIGINT)
    out, err = tuning.communicate(timeout=20)
    assert tuning.returncode == 130
    assert err == "pooltable: interrupted\n"
    assert ("pooltable run models:waits --initializer models:mark --processes" in out) == bool(choices)


def test_a_function_for_one_row_is_told_so_when_it_gets_lists(rows: Any) -> None:
    for task in ("one", "one_by_name", "unpacks"):
        done = rows.run("tune", f"models:{task}", "--batch", "8", "--seconds", "5")
        assert done.returncode == 2
        assert f"models:{task} seems to be written for one row" in done.line
    done = rows.run("try", "models:one", "1", "2", "--batch", "2")
    assert done.returncode == 1
    assert "row 2 would be FAILED: models:one seems to be written for one row" in done.stdout


def test_too_few_rows_are_told(rows: Any) -> None:
    rows.sql("DELETE FROM host WHERE id > 3")
    done = rows.run("tune", "models:predict", "--batch", "8")
    assert done.returncode == 2
    assert "'host' has 3 rows to measure with, waiting or done; tune needs 8" in done.line


def test_workers_that_cannot_start_end_it(rows: Any) -> None:
    done = rows.run("tune", "models:waits", "--initializer", "app:broken_start", "--seconds", "20")
    assert done.returncode == 5
    assert "no such model file" in done.stderr


def test_try_runs_a_batch_function_on_several_rows_and_writes_nothing(rows: Any) -> None:
    before = contents(rows)
    done = rows.run("try", "models:some_fail", "1", "2", "3", "--batch", "2")
    assert done.returncode == 1
    assert "row 1 returned" in done.stdout
    assert "row 2 would be FAILED: ValueError: even" in done.stdout
    assert "row 3 returned" in done.stdout
    assert "no model here" in rows.run("try", "models:hopeless", "1", "2", "--batch", "2").stderr
    assert contents(rows) == before
