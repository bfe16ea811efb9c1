"""What makes a demonstration good, told without running one."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pooltable.demo import accident, clips, report
from pooltable.demo.stage import Video

SPEED = report.Speed(
    processes=2, cores=2, loading=1.5, accident=True, rows=47, rate=8.0, full=9.0, sample=10, alone=5.0
)


@pytest.fixture
def verdict():
    videos = tuple(
        Video(number, f"clip-{number}.mp4", "FAILED", None)
        if number == clips.BROKEN
        else Video(number, f"clip-{number}.mp4", "DONE", clips.caption_of(number))
        for number in range(1, 49)
    )
    kill = accident.Kill(accident.ROW, attempt=1, pid=4711)
    attempts = dict.fromkeys(range(1, 49), 1) | {accident.ROW: 2}
    return report.Verdict(videos, attempts, {clips.BROKEN: "Invalid data found"}, kill)


def changed(verdict, number, **fields):
    videos = (replace(video, **fields) if video.id == number else video for video in verdict.videos)
    return replace(verdict, videos=tuple(videos))


def test_all_captions_one_failure_and_a_second_attempt_are_good(verdict):
    assert verdict.good
    assert verdict.misread == []


def test_two_misread_captions_of_47_are_forgiven_and_three_are_not(verdict):
    for number in (10, 11):
        verdict = changed(verdict, number, caption="SOMETHING ELSE")
    assert verdict.good
    verdict = changed(verdict, 12, caption=None)
    assert not verdict.captions_match
    assert not verdict.good


def test_another_failure_is_one_too_many(verdict):
    verdict = changed(verdict, 20, status="FAILED")
    assert verdict.captions_match
    assert not verdict.broken_one_failed
    assert not verdict.good


def test_a_broken_clip_that_is_done_is_not_good(verdict):
    assert not changed(verdict, clips.BROKEN, status="DONE").good


@pytest.mark.parametrize("attempt", [1, 3])
def test_the_killed_row_must_be_done_on_the_attempt_after_the_one_that_was_killed(verdict, attempt):
    assert not replace(verdict, attempts=verdict.attempts | {accident.ROW: attempt}).good


def test_without_a_kill_it_is_not_good(verdict):
    assert not replace(verdict, kill=None).good


def test_a_runner_killed_before_the_worker_moves_both_attempts(verdict):
    kill = accident.Kill(accident.ROW, attempt=2, pid=4712)
    assert replace(verdict, kill=kill, attempts=verdict.attempts | {accident.ROW: 3}).good


def test_the_table_says_what_is_wrong_and_what_was_measured(verdict, capsys):
    bad = changed(changed(verdict, 20, status="FAILED"), 30, caption="SOMETHING [red] ELSE")
    report.print_verdict(bad, SPEED)
    printed = capsys.readouterr().out
    for text in (
        "46 of 47",
        "SOMETHING [red] ELSE",
        "NOT OK",
        "Invalid data found",
        "DONE on attempt 2",
    ):
        assert text in printed


def test_what_was_shown_comes_first_and_then_the_speed_without_the_accident_and_why(verdict, capsys):
    report.print_verdict(verdict, SPEED)
    printed = capsys.readouterr().out
    said = " ".join(re.sub(r"[│┃]", " ", printed).split())
    assert said.startswith(
        "nothing was lost: all 48 rows ended, 47 DONE and 1 FAILED;"
        f" one worker was killed in the middle of row {accident.ROW}, which another worker ran again"
    )
    first = said.index("1.8 times as fast as one process, without the accident: 9.0 clips/s in 2 processes")
    why = said.index("2 times is the most that 2 processes can reach on 2 cores")
    assert first < why < said.index("8.0 clips/s from the first claim of 47 clips to the last end, with the accident")
    assert "load the model, which takes 1.5 s" in said


def test_a_row_that_has_not_ended_is_told_first(verdict, capsys):
    report.print_verdict(changed(verdict, 20, status="DOING"), SPEED)
    assert capsys.readouterr().out.startswith("1 of 48 rows have not ended, 46 DONE and 1 FAILED")


def test_more_processes_than_cores_promise_no_more_than_the_cores(verdict, capsys):
    report.print_verdict(verdict, replace(SPEED, processes=8, cores=4))
    assert "4 times is the most that 8 processes can reach on 4 cores" in capsys.readouterr().out


def test_a_run_after_the_one_with_the_accident_tells_nothing_of_it(verdict, capsys):
    report.print_verdict(verdict, replace(SPEED, accident=False))
    assert "read twice" not in capsys.readouterr().out
