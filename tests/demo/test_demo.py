"""The whole demonstration, run as a person runs it, and killed as only a test does."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

import psutil
import pytest

from pooltable.demo import accident, clips

pytest.importorskip("av")
pytest.importorskip("rapidocr")

PATIENCE = 100.0  # each loads the models anew, on all cores
pytestmark = pytest.mark.timeout(150)


class Demo:
    """A running `pooltable demo`."""

    def __init__(self, folder, prepared, *options):
        self.folder = folder
        self._out, self._err = (folder / f"{name}-{time.monotonic_ns()}.txt" for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            start = start_fresh if prepared is None else prepared.start
            self.process = start(
                ["demo", *map(str, options)],
                folder,
                os.environ | {"TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def said(self):
        return self._err.read_text()

    @property
    def printed(self):
        return self._out.read_text()

    def wait(self):
        return self.process.wait(PATIENCE)

    def until(self, condition, what):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.said}"
            assert time.monotonic() < deadline, f"waited for {what}:\n{self.said}"
            time.sleep(0.02)

    def family(self):
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_fresh(arguments, folder, environment, **options):
    return subprocess.Popen([sys.executable, "-m", "pooltable", *arguments], cwd=folder, env=environment, **options)


@pytest.fixture
def start(tmp_path, prepared):
    demos = []

    def start(*options, fresh=False):
        demos.append(Demo(tmp_path, None if fresh else prepared, *options))
        return demos[-1]

    yield start
    for demo in demos:
        demo.end()


def ask(file, sql):
    if not file.exists():
        return []
    with closing(sqlite3.connect(file, timeout=30)) as db:
        try:
            return db.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []  # the table is not there yet


def count_of(file, status):
    return sum(1 for (found,) in ask(file, "SELECT status FROM video") if found == status)


def runs(process):
    # Where nobody waits for orphans, the dead stay as zombies.
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def check(file, count):
    """Every row has ended: one FAILED, the others DONE with their captions, and no claim is open."""
    rows = dict(ask(file, "SELECT id, status FROM video"))
    assert rows == {number: "FAILED" if number == clips.BROKEN else "DONE" for number in range(1, count + 1)}
    assert ask(file, "SELECT count(*) FROM pooltable_video_claims WHERE closed_at IS NULL") == [(0,)]


def test_the_demonstration_says_what_became_of_every_row(start, tmp_path):
    demo = start("--clips", 12, "--processes", 2, "--keep", fresh=True)
    assert demo.wait() == 0, demo.said + demo.printed
    (folder,) = tmp_path.glob("pooltable-demo-*")
    assert str(folder) in demo.said
    check(folder / "videos.db", 12)
    assert "11 of 11" in demo.printed
    assert re.search(r"DONE on attempt 2", demo.printed)
    assert "Invalid data found" in demo.printed
    assert demo.printed.startswith("nothing was lost: all 12 rows ended, 11 DONE and 1 FAILED; one worker was killed")
    assert re.search(r"\d\.\d times as fast as one process", demo.printed)
    assert "NOT OK" not in demo.printed
    assert ask(folder / "videos.db", f"SELECT attempt, lost FROM pooltable_video_entry WHERE id = {accident.ROW}") == [
        (2, 1)
    ]

    again = start("--clips", 12, "--folder", folder)
    assert again.wait() == 0, again.said + again.printed
    assert "nothing was left to run" in again.printed


def test_a_demonstration_killed_in_the_middle_goes_on_at_once(start, tmp_path):
    folder, file = tmp_path / "kept", tmp_path / "kept" / "videos.db"
    demo = start("--clips", 12, "--processes", 2, "--folder", folder)
    demo.until(lambda: count_of(file, "DONE") >= 3, "three rows that are DONE")
    orphans = demo.family()
    demo.process.kill()
    demo.process.wait()
    done = count_of(file, "DONE")
    assert done < 11
    again = start("--clips", 12, "--processes", 2, "--folder", folder)
    assert again.wait() == 0, again.said + again.printed
    check(file, 12)
    assert not any(map(runs, orphans))
    # Nothing was run again but what ran when it was killed: the rows that two workers held, at most one more for each.
    attempts = dict(ask(file, "SELECT id, attempt FROM pooltable_video_entry"))
    assert sum(attempt - 1 for number, attempt in attempts.items() if number != accident.ROW) <= 4


def test_a_demonstration_killed_while_it_renders_goes_on(start, tmp_path):
    folder = tmp_path / "kept"
    demo = start("--clips", 8, "--folder", folder)
    demo.until(lambda: clips.path_of(folder, 3).exists(), "three clips")
    demo.process.kill()
    demo.process.wait()
    again = start("--clips", 8, "--folder", folder)
    assert again.wait() == 0, again.said + again.printed
    check(folder / "videos.db", 8)


def test_ctrl_c_leaves_nothing_doing_and_says_how_to_go_on(start, tmp_path):
    folder, file = tmp_path / "kept", tmp_path / "kept" / "videos.db"
    demo = start("--clips", 12, "--processes", 2, "--folder", folder)
    demo.until(lambda: count_of(file, "DONE") >= 2, "two rows that are DONE")
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait() == 3, demo.said
    assert f"pooltable demo --folder {folder}" in demo.said
    assert count_of(file, "DOING") == 0
    again = start("--clips", 12, "--processes", 2, "--folder", folder)
    assert again.wait() == 0, again.said + again.printed
    check(file, 12)


def test_a_good_demonstration_removes_its_temporary_folder(start, tmp_path):
    demo = start("--clips", 8, "--processes", 1)
    assert demo.wait() == 0, demo.said + demo.printed
    assert list(tmp_path.glob("pooltable-demo-*")) == []


def test_the_captions_of_own_videos_are_printed_and_a_second_start_reads_new_ones_only(start, tmp_path):
    folder = tmp_path / "my videos"
    folder.mkdir()
    clips.render(folder, clips.BROKEN, lambda count: None)
    demo = start("--videos", folder, "--processes", 1)
    assert demo.wait() == 1, demo.said
    assert len(demo.printed.splitlines()) == clips.BROKEN - 1
    assert re.sub("[ \n]", "", demo.printed).startswith("clip-001.mp4:" + clips.caption_of(1).replace(" ", ""))
    assert "clip-005.mp4: FAILED" in demo.said
    clips.path_of(folder, clips.BROKEN).unlink()
    clips.render(folder, clips.BROKEN + 1, lambda count: None)
    again = start("--videos", folder, "--processes", 1, "--db", tmp_path / "my videos-captions.db")
    again.wait()
    assert "1 of them new" in again.said
    assert len(again.printed.splitlines()) == clips.BROKEN


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--clips", 3], "--clips must be 8 or more, not 3"),
        (["--processes", 0], "--processes"),
        (["--videos", "nowhere"], "there is no such folder"),
        (["--videos", "."], "there is no video in it"),
    ],
)
def test_options_that_cannot_work_are_refused_with_the_reason(start, options, text):
    demo = start(*options)
    assert demo.wait() == 2, demo.said
    assert text in demo.said
