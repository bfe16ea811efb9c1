"""What the hand-written loop gets wrong, each claim of its README shown; the same job in pooltable does not."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "blog_loop"
HANDWRITTEN = FOLDER / "handwritten.py"
POOLTABLE = FOLDER / "with_pooltable.py"


@pytest.fixture
def make(start):
    """Makes the table with such contents."""

    def make(*contents):
        script = start(FOLDER / "make_table.py", *contents)
        assert script.wait() == 0, script.output()

    return make


def starts_of_rows(output):
    return [int(number) for number in re.findall(r"row (\d+) DOING", output)]


# ---- the hand-written loop


def test_handwritten_runs_a_row_again_that_no_process_marked_before_the_next_poll(make, start, table):
    make(*["snow"] * 8)
    script = start(HANDWRITTEN, seconds=0.9)
    script.until(lambda: len(starts_of_rows(script.output())) > 8, "a row that is run twice")
    assert len(set(starts_of_rows(script.output()))) < len(starts_of_rows(script.output()))


def test_handwritten_leaves_the_row_of_a_killed_process_doing_for_ever(make, start, table):
    make("too large for the memory", "snow", "snow")
    script = start(HANDWRITTEN)
    script.until(lambda: list(table.status().values()) == ["DOING", "DONE", "DONE"], "the rows that can be done")
    table.ask("INSERT INTO video (content) VALUES ('a row that is polled later')")
    script.until(lambda: table.status().get(4) == "DONE", "another poll")
    assert table.status()[1] == "DOING"
    script.end()
    again = start(HANDWRITTEN)
    table.ask("INSERT INTO video (content) VALUES ('a row for the second start')")
    again.until(lambda: table.status().get(5) == "DONE", "the second start")
    assert table.status()[1] == "DOING"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_handwritten_forgets_what_ran_when_it_was_stopped(make, start, table, number):
    make("snow", "snow", "snow")
    script = start(HANDWRITTEN, seconds=5)
    script.until(lambda: list(table.status().values()).count("DOING") == 2, "two rows that run")
    script.signal(number)
    script.wait()
    script.end()
    again = start(HANDWRITTEN)
    again.until(lambda: table.status()[3] == "DONE", "the row that waited")
    left = [status for row, status in table.status().items() if row != 3]
    assert "DOING" in left, left


def test_handwritten_calls_its_callback_before_the_row_is_run(make, start, table):
    make("snow")
    script = start(HANDWRITTEN, seconds=0.5)
    script.until(lambda: table.status()[1] == "DONE", "the row")
    output = script.output()
    assert output.index("a row is finished") < output.index("row 1 DONE")
    assert output.count("a row is finished") == 1, "it is not called again when the row has really ended"


def test_handwritten_says_nothing_of_an_error_outside_its_try(make, start, table):
    make("snow")
    table.ask("CREATE TRIGGER no BEFORE UPDATE ON video BEGIN SELECT RAISE(ABORT, 'no'); END")
    script = start(HANDWRITTEN)
    script.until(lambda: script.output().count("a row is finished") == 2, "a second poll that finds the row again")
    assert table.status() == {1: "PENDING"}
    assert "Error" not in script.output()


# ---- the same job in pooltable


def finished_rows(output):
    return [int(number) for number in re.findall(r"^row (\d+) is finished", output, re.MULTILINE)]


def test_pooltable_runs_each_row_once_and_calls_back_after_the_status_is_written(make, start, table):
    make(*["snow"] * 8)
    script = start(POOLTABLE, seconds=0.2)
    script.until(lambda: len(finished_rows(script.output())) == 8, "eight callbacks")
    assert set(table.status().values()) == {"DONE"}
    assert sorted(finished_rows(script.output())) == list(range(1, 9))
    assert table.ask("SELECT count(*) FROM pooltable_video_entry") == [(0,)]
    script.signal(signal.SIGTERM)
    assert script.wait() == 0, script.output()


def test_pooltable_gives_up_the_row_that_kills_its_process_and_no_other_notices(make, start, table):
    make("too large for the memory", "snow", "not a video", "snow")
    script = start(POOLTABLE)
    script.until(lambda: list(table.status().values()) == ["FAILED", "DONE", "FAILED", "DONE"], "the end of every row")
    assert table.ask("SELECT lost, attempt FROM pooltable_video_entry WHERE id = 1") == [(3, 3)]
    assert "SIGKILL" in str(table.ask("SELECT error FROM pooltable_video_entry WHERE id = 1"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_pooltable_takes_up_again_what_ran_when_it_was_stopped(make, start, table, number):
    make("snow", "snow", "snow")
    script = start(POOLTABLE, seconds=5)
    script.until(lambda: list(table.status().values()).count("DOING") == 2, "two rows that run")
    if number == signal.SIGKILL:
        script.kill()
        script.until(lambda: not script.children_that_run(), "the end of its workers")
    else:
        script.signal(number)
        script.wait()
    again = start(POOLTABLE)
    again.until(lambda: set(table.status().values()) == {"DONE"}, "every row")


# ---- one step at a time


UNCHANGED = """
import sys
sys.path.insert(0, sys.argv[1])
from handwritten import mission
from pooltable import TaskTable, run
videos = TaskTable("sqlite:///videos.db", "video")
summary = run(mission, videos, processes=2, listeners=[lambda event: print(repr(event))])
raise SystemExit(summary.exit_code)
"""


def test_the_handwritten_mission_runs_unchanged_and_its_user_is_told_that_it_marks_the_rows(make, start, table):
    make("snow", "not a video", "snow")
    script = start("-c", UNCHANGED, FOLDER)
    script.wait()
    assert list(table.status().values()) == ["DONE", "FAILED", "DONE"], script.output()
    assert script.output().count("Noticed(what='row marked by the task'") == 1, script.output()
