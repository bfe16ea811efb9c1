"""What makes a demonstration good, told without running one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pooltable.demo import accident, clips, report
from pooltable.demo.stage import Video


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
    report.print_verdict(bad, report.Speed(processes=2, rows=47, rate=8.0, full=9.0, sample=10, alone=5.0))
    printed = capsys.readouterr().out
    for text in (
        "46 of 47",
        "SOMETHING [red] ELSE",
        "NOT OK",
        "Invalid data found",
        "DONE on attempt 2",
        "1.6 times",
        "1.8 times",
    ):
        assert text in printed
