"""The folder and the table of a demonstration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pooltable import demo
from pooltable.demo import stage
from pooltable.errors import UsageError


def test_a_second_start_adds_only_what_is_new(tmp_path):
    file = tmp_path / "videos.db"
    stage.create(file)
    assert stage.add(file, [Path("a.mp4"), Path("b.mp4")]) == 2
    stage.create(file)
    assert stage.add(file, [Path("a.mp4"), Path("c.mp4")]) == 1
    assert [(video.id, video.content, video.status) for video in stage.videos(file)] == [
        (1, "a.mp4", "PENDING"),
        (2, "b.mp4", "PENDING"),
        (3, "c.mp4", "PENDING"),
    ]


def test_the_videos_of_a_folder_are_found_by_their_names(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.MP4", "below/a.mkv", "notes.txt", "below/no"):
        (tmp_path / name).touch()
    assert stage.files_in(tmp_path) == [tmp_path / "b.MP4", tmp_path / "below/a.mkv"]


def test_without_the_extra_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name in ("av", "rapidocr") else object())
    with pytest.raises(UsageError, match=r"needs PyAV, RapidOCR; .*pip install 'pooltable\[demo\]'"):
        demo.main()


def test_no_worker_imports_the_database_or_the_terminal_for_the_mission():
    heavy = ("sqlalchemy", "rich", "typer", "av")
    code = f"import sys, pooltable.demo.accident; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
