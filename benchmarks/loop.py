"""The loop written by hand against pooltable: rows a second of a task that does nothing, on one SQLite file.

The hand-written loop reads the waiting rows, hands each to multiprocessing.Pool, and every process marks its own row
DOING and DONE. It comes in two kinds: one connects for each row, one keeps its connection. All variants take turns on
fresh copies of the same table, so that a busy minute of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import _report

# ---- the hand-written loop

file = ""
kept: sqlite3.Connection | None = None


def remember_file(path: str) -> None:
    global file
    file = path


def connecting_mission(row: tuple[int, str]) -> None:
    db = sqlite3.connect(file, timeout=60)
    db.execute("UPDATE video SET status = 'DOING' WHERE id = ?", (row[0],))
    db.commit()
    do_nothing(row)
    db.execute("UPDATE video SET status = 'DONE' WHERE id = ?", (row[0],))
    db.commit()
    db.close()


def keeping_mission(row: tuple[int, str]) -> None:
    global kept
    if kept is None:
        kept = sqlite3.connect(file, timeout=60)
    kept.execute("UPDATE video SET status = 'DOING' WHERE id = ?", (row[0],))
    kept.commit()
    do_nothing(row)
    kept.execute("UPDATE video SET status = 'DONE' WHERE id = ?", (row[0],))
    kept.commit()


def by_hand(path: Path, processes: int, mission: object) -> dict[str, float]:
    started = time.perf_counter()
    with multiprocessing.Pool(processes, remember_file, (str(path),)) as pool:
        db = sqlite3.connect(path)
        first = time.perf_counter()
        while rows := db.execute("SELECT id, content FROM video WHERE status = 'PENDING'").fetchall():
            for result in [pool.apply_async(mission, (row,)) for row in rows]:  # type: ignore[arg-type]
                result.get()
        last = time.perf_counter()
        db.close()
    return {"working": last - first, "whole": time.perf_counter() - started}


# ---- pooltable


def do_nothing(row: tuple[int, str]) -> None:
    pass


def by_pooltable(path: Path, processes: int) -> dict[str, float]:
    from benchmarks._span import Span
    from pooltable import TaskTable, run

    span = Span()
    started = time.perf_counter()
    summary = run(do_nothing, TaskTable(f"sqlite:///{path}", "video"), processes=processes, listeners=(span,))
    if summary.exit_code:
        raise SystemExit(f"the run ended with {summary}")
    return {"working": span.seconds, "whole": time.perf_counter() - started}


# ---- taking turns

VARIANTS = {
    "by hand, connects for each row": lambda path, processes: by_hand(path, processes, connecting_mission),
    "by hand, keeps its connection": lambda path, processes: by_hand(path, processes, keeping_mission),
    "pooltable": by_pooltable,
}


def measure(variant: str, rows: int, processes: int, folder: Path) -> dict[str, float]:
    """One run in a program of its own, so that no variant inherits another one's memory or imports."""
    path = folder / "videos.db"
    _report.make_rows(path, rows)
    one = [
        sys.executable,
        "-m",
        "benchmarks.loop",
        "--one",
        variant,
        "--file",
        str(path),
        "--processes",
        str(processes),
    ]
    done = subprocess.run(one, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    if (count := _report.count_done(path)) != rows:
        raise SystemExit(f"{variant}: {count} of {rows} rows are DONE")
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each variant; medians are reported")
    parser.add_argument("--folder", type=Path, help="where the database file lies; a temporary folder by default")
    parser.add_argument("--quick", action="store_true", help="1,000 rows, once")
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(VARIANTS[asked.one](asked.file, asked.processes)))
        return
    if asked.quick:
        asked.rows, asked.repeat = 1_000, 1

    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for _ in range(asked.repeat):
            for variant in VARIANTS:
                runs[variant].append(measure(variant, asked.rows, asked.processes, Path(folder)))
    ours = _report.median([run["working"] for run in runs["pooltable"]])
    lines = []
    for variant, measured in runs.items():
        working = _report.median([run["working"] for run in measured])
        rates = sorted(asked.rows / run["working"] for run in measured)
        whole = _report.median([run["whole"] for run in measured])
        lines.append(
            [variant, round(asked.rows / working), f"{rates[0]:,.0f}-{rates[-1]:,.0f}", whole, f"{working / ours:.1f}"]
        )
    table = _report.Table(
        f"{asked.rows:,} rows that do nothing, {asked.processes} processes",
        ["", "rows/s", "lowest-highest", "seconds in all", "times as long as pooltable"],
        lines,
        "From the first read or claim to the last row DONE; `seconds in all` has the start of the processes in it. "
        "The same SQLite file for all: journal in WAL mode, every commit synced to the disk (SQLite's default).",
    )
    settings = {"rows": asked.rows, "processes": asked.processes, "repeat": asked.repeat}
    _report.write("loop", [table], {**settings, "seconds": runs})


if __name__ == "__main__":
    main()
