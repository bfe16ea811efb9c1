"""Asks a model for the type of every file in a folder: python file_types.py FOLDER

The files go into the table file(id, path, status, type, score) of files.db; a second start looks at new ones only.
"""

import sqlite3
import sys
from pathlib import Path

from pooltable import TaskTable, run

model = None


def load_model():
    global model
    from magika import Magika  # its model of 3 MB is in the package

    model = Magika()


def file_type(row):
    found = model.identify_path(row.path)
    if not found.ok:
        raise OSError(f"{row.path}: {found.status}")
    return {"type": found.output.label, "score": found.score}


def fill(folder):
    with sqlite3.connect("files.db") as db:
        db.execute(
            "CREATE TABLE IF NOT EXISTS file (id INTEGER PRIMARY KEY, path TEXT UNIQUE,"
            " status TEXT DEFAULT 'PENDING', type TEXT, score REAL)"
        )
        files = sorted(path for path in Path(folder).resolve().rglob("*") if path.is_file())
        db.executemany("INSERT OR IGNORE INTO file (path) VALUES (?)", [(str(path),) for path in files])
    db.close()


def show():
    db = sqlite3.connect("files.db")
    for type, count in db.execute("SELECT type, count(*) FROM file WHERE status = 'DONE' GROUP BY 1 ORDER BY 2 DESC"):
        print(f"{count:7} {type}")
    db.close()


if __name__ == "__main__":
    fill(sys.argv[1] if len(sys.argv) > 1 else ".")
    summary = run(file_type, TaskTable("sqlite:///files.db", "file", write=("type", "score")), initializer=load_model)
    show()
    raise SystemExit(summary.exit_code)
