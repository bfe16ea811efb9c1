"""What the measurements share: the machine in words, a table of rows to work on, and where results go."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Table:
    """A table of a report; `note` says how it was measured."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", "| " + " | ".join(self.heads) + " |"]
        lines.append("| --- " + "| ---: " * (len(self.heads) - 1) + "|")
        lines += ["| " + " | ".join(_words(cell) for cell in row) + " |" for row in self.rows]
        return "\n".join([*lines, "", self.note, ""] if self.note else [*lines, ""])


def _words(cell: object) -> str:
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return str(cell)


def write(name: str, tables: Sequence[Table], settings: dict[str, Any]) -> None:
    """Keep the result as JSON for programs and as Markdown for people, and print the latter."""
    RESULTS.mkdir(exist_ok=True)
    about = machine()
    everything = {"machine": about, "settings": settings, "tables": [asdict(table) for table in tables]}
    (RESULTS / f"{name}.json").write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    head = f"# {name}\n\n{', '.join(f'{key} {value}' for key, value in about.items())}\n"
    text = "\n".join([head, *(table.markdown() for table in tables)]).rstrip() + "\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text, flush=True)


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
    }


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def make_rows(file: Path, count: int) -> str:
    """A fresh SQLite file in WAL mode with `count` PENDING rows in the table `video`; gives its URL."""
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE video (id INTEGER PRIMARY KEY, content TEXT, status TEXT NOT NULL)")
        db.execute("CREATE INDEX video_pending ON video (id) WHERE status = 'PENDING'")
        rows = ((f"clip-{number}.mp4", "PENDING") for number in range(count))
        db.executemany("INSERT INTO video (content, status) VALUES (?, ?)", rows)
    return f"sqlite:///{file}"


def count_done(file: Path) -> int:
    with closing(sqlite3.connect(file)) as db:
        return int(db.execute("SELECT count(*) FROM video WHERE status = 'DONE'").fetchone()[0])
