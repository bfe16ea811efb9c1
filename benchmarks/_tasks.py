"""What databases.py runs in programs of its own: pooltable over the rows, and the loop written by hand."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import _peers

# ---- the task, the same for all


def work(row: Any) -> None:
    kind = row[1]
    if kind == "hold":
        from pooltable import current

        attempt = current().attempt
        _peers.note(f"{time.time():.6f} {os.getpid()} {attempt}")
        if attempt == 1:
            time.sleep(600)
    else:
        _peers.work(kind)


# ---- pooltable


def without_waiting(url: str, rows: int) -> dict[str, float]:
    return ours(url, rows, wait=False)


def ours(url: str, rows: int, wait: bool = True) -> dict[str, float]:
    """Seconds from the first claim to the last finish, and the most memory that the runner took."""
    from benchmarks._span import Span
    from pooltable import Pace, TaskTable, run

    span = Span()
    summary = run(work, TaskTable(url, "video"), processes=2, pace=Pace(wait=wait), listeners=(span,))
    if summary.exit_code or summary.done != rows:
        raise SystemExit(f"the run ended with {summary}")
    return {"working": span.seconds, "peak_mb": peak_megabytes()}


def end_noted(row: Any) -> None:
    time.sleep(row[0] % 40 / 1000)
    _peers.note(f"{row[0]} {time.time():.6f}")


def finishes(url: str, rows: int) -> dict[str, float]:
    """Milliseconds from the end of a task to its end being committed, as a listener hears of it."""
    from pooltable import Event, TaskTable, run
    from pooltable.events import RowsFinished

    heard: dict[int, float] = {}

    def note(event: Event) -> None:
        if isinstance(event, RowsFinished):
            now = time.time()
            heard.update((end.key[0], now) for end in event.rows)

    run(end_noted, TaskTable(url, "video"), processes=2, listeners=(note,))
    lines = [line.split() for line in Path(os.environ["BENCH_NOTES"]).read_text().splitlines()]
    found = sorted(1e3 * (heard[int(key)] - float(at)) for key, at in lines)
    return {"median": found[len(found) // 2], "99th": found[len(found) * 99 // 100], "longest": found[-1]}


def serve(url: str) -> dict[str, float]:
    from pooltable import TaskTable, run

    return {"done": float(run(work, TaskTable(url, "video"), processes=2, forever=True).done)}


def peak_megabytes() -> float:
    """The most memory that this process had, since it was started."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ---- the loop written by hand: it reads the waiting rows, every process marks its own, over a connection that it keeps

_url = ""
_kept: Any = None


def remember(url: str) -> None:
    global _url
    _url = url


def connect(url: str) -> Any:
    engine = sa.create_engine(url, connect_args={"timeout": 60} if url.startswith("sqlite") else {})
    connection: Any = engine.raw_connection().driver_connection
    if url.startswith("mysql"):
        # Else the loop would read the same snapshot for ever.
        connection.cursor().execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return connection


def mission(row: tuple[int, str]) -> None:
    global _kept
    if _kept is None:
        _kept = connect(_url)
    mark = "?" if _url.startswith("sqlite") else "%s"
    cursor = _kept.cursor()
    cursor.execute(f"UPDATE video SET status = 'DOING' WHERE id = {mark}", (row[0],))
    _kept.commit()
    work(row)
    cursor.execute(f"UPDATE video SET status = 'DONE' WHERE id = {mark}", (row[0],))
    _kept.commit()


def by_hand(url: str, rows: int) -> dict[str, float]:
    with multiprocessing.Pool(2, remember, (url,)) as pool:
        db = connect(url)
        cursor = db.cursor()
        began = time.perf_counter()
        while True:
            cursor.execute("SELECT id, content FROM video WHERE status = 'PENDING'")
            found = cursor.fetchall()
            db.commit()
            if not found:
                break
            for result in [pool.apply_async(mission, (row,)) for row in found]:
                result.get()
        seconds = time.perf_counter() - began
        db.close()
    return {"working": seconds}
