"""examples/file_types: every file gets its type, and a second start looks at new files only."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("magika")

SCRIPT = Path(__file__).parents[2] / "examples" / "file_types" / "file_types.py"


def rows(folder):
    with closing(sqlite3.connect(folder / "files.db")) as db:
        return db.execute("SELECT path, status, type FROM file ORDER BY path").fetchall()


def test_each_file_gets_its_type_and_a_second_start_looks_at_new_ones_only(start, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.txt").write_text("#!/usr/bin/env python3\nimport os\n\nfor name in os.listdir():\n    print(name)\n")
    (files / "b").write_text('{\n  "name": "value",\n  "numbers": [1, 2, 3],\n  "more": {\n    "none": null\n  }\n}\n')
    (files / "c").symlink_to(files / "a.txt")
    script = start(SCRIPT, files)
    assert script.wait() == 0, script.output()
    assert [row[1:] for row in rows(tmp_path)] == [("DONE", "python"), ("DONE", "json"), ("DONE", "python")]
    assert "2 python" in script.output()

    (files / "b").unlink()
    (files / "d.html").write_text("<!DOCTYPE html><html><head><title>x</title></head><body><p>Hello</p></body></html>")
    again = start(SCRIPT, files)
    assert again.wait() == 0, again.output()
    assert [type for _, _, type in rows(tmp_path)] == ["python", "json", "python", "html"]


def test_a_file_that_is_gone_fails_its_row_alone(start, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    (files / "a").write_text("gone soon")
    (files / "b").write_text("# A title\n\nSome *text* with a [link](https://example.org).\n\n- one\n- two\n")
    fill = "import sys; sys.path.insert(0, sys.argv[1]); import file_types; file_types.fill('files')"
    filled = start("-c", fill, SCRIPT.parent)
    assert filled.wait() == 0, filled.output()
    (files / "a").unlink()
    script = start(SCRIPT, files)
    assert script.wait() == 1, script.output()
    assert [status for _, status, _ in rows(tmp_path)] == ["FAILED", "DONE"]
