"""examples/thumbnails: a program runs on each row; what it prints is stored, what fails is kept."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

Image = pytest.importorskip("PIL.Image")

FOLDER = Path(__file__).parents[2] / "examples" / "thumbnails"


def test_each_picture_gets_its_thumbnail_and_new_ones_are_run_alone(start, tmp_path):
    made = start(FOLDER / "make_table.py")
    assert made.wait() == 0, made.output()
    command = f"'{sys.executable}' '{FOLDER / 'thumbnail.py'}' {{path}} thumbnails/{{id}}.jpg"
    options = ["--db", "photos.db", "--table", "photo", "--write", "size", "--command", command, "-p", "2"]
    ran = start("-m", "pooltable", "run", *options)
    assert ran.wait() == 1, ran.output()
    assert "6 done, 1 failed" in ran.output()
    with closing(sqlite3.connect(tmp_path / "photos.db")) as db:
        rows = {path: rest for path, *rest in db.execute("SELECT path, id, size, status FROM photo")}
    assert rows.pop("photos/broken.png")[1:] == [None, "FAILED"]
    for id, size, status in rows.values():
        with Image.open(tmp_path / "thumbnails" / f"{id}.jpg") as picture:
            assert (f"{picture.width}x{picture.height}", status) == (size, "DONE")
    failures = start("-m", "pooltable", "failures", "--db", "photos.db", "--table", "photo")
    assert failures.wait() == 0
    assert "exit status 1" in failures.output()
