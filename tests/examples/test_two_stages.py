"""examples/two_stages: rows pass through both stages, which run at the same time."""

from __future__ import annotations

import gzip
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "two_stages"
LAST = {"READY", "UNREADABLE", "UNKNOWN"}


def ask(folder, sql, *values):
    with closing(sqlite3.connect(folder / "documents.db", timeout=30)) as db, db:
        return db.execute(sql, values).fetchall()


def test_rows_pass_through_both_stages_while_both_run(start, tmp_path):
    made = start(FOLDER / "make_table.py")
    assert made.wait() == 0, made.output()
    stages = [start(FOLDER / "stages.py", stage) for stage in ("infer", "decode")]
    stages[1].until(
        lambda: {status for (status,) in ask(tmp_path, "SELECT status FROM document")} <= LAST, "the end of every row"
    )
    assert ask(tmp_path, "SELECT status, text, topic FROM document ORDER BY id") == [
        ("READY", "rain and snow all day", "weather"),
        ("READY", "a boat leaves the harbour", "sea"),
        ("UNREADABLE", None, None),
        ("UNKNOWN", "nothing of the kind", None),
        ("READY", "wind and wave", "weather"),
    ]
    ask(tmp_path, "INSERT INTO document (content) VALUES (?)", gzip.compress(b"a boat"))
    sixth = "SELECT topic FROM document WHERE id = 6"
    stages[1].until(lambda: ask(tmp_path, sixth) == [("sea",)], "a row that was added")
    for stage in stages:
        stage.signal(signal.SIGTERM)
    assert [stage.wait() for stage in stages] == [0, 0], [stage.output() for stage in stages]
