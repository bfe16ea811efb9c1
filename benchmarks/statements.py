"""The limit of the statements alone: claim and finish with nothing in between, without a runner and without a pool.

    python benchmarks/statements.py [--rows N] [--batches 10,100,1000] [--no-index] [DATABASE_URL ...]

For each database (a SQLite file of its own, where none is given) and each batch size: rows a second through the whole
of claim, read and finish, with the commits as safe as the database makes them by default. Then how long one claim takes
with many rows waiting, at the start and at the end of them, and with many rows under back-off at the head of the order.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

from pooltable import TaskTable
from pooltable.table.sqlite import create_file
from pooltable.table.states import Again, Done, Finish


def fill(url: str, rows: int, index: bool) -> TaskTable:
    engine = sa.create_engine(url)
    metadata = sa.MetaData()
    text = sa.String(200)
    table = sa.Table(
        "benchmark",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("content", text),
        sa.Column("status", sa.String(20)),
    )
    with engine.begin() as connection:
        for name in (
            "pooltable_benchmark_claims",
            "pooltable_benchmark_entry",
            "pooltable_runner",
            "pooltable_job",
            "benchmark",
        ):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
        metadata.create_all(connection)
        for start in range(0, rows, 10_000):
            some = range(start, min(start + 10_000, rows))
            connection.execute(table.insert(), [{"content": f"video {i}", "status": "PENDING"} for i in some])
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("ANALYZE benchmark"))
    engine.dispose()
    tasks = TaskTable(url, "benchmark")
    tasks.prepare()
    if index:
        tasks.create_index()
    return tasks


def drain(tasks: TaskTable, rows: int, batch: int, read: bool) -> float:
    """Rows a second, from the first claim to the last finish."""
    lease = tasks.open_lease()
    began = time.perf_counter()
    ends: list[Finish] = []
    finished = 0
    while True:
        answer = lease.exchange(ends, batch if finished + len(ends) < rows else 0)
        finished += len(answer.fates)
        if not answer.claims:
            break
        if read:
            lease.read(answer.claims)
        ends = [Finish(claim, Done(), 0.01, 0) for claim in answer.claims]
    seconds = time.perf_counter() - began
    lease.close()
    assert finished == rows, (finished, rows)
    return rows / seconds


def claims(tasks: TaskTable, count: int, room: int) -> list[float]:
    lease = tasks.open_lease()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        assert len(lease.claim(room)) == room
        times.append(time.perf_counter() - began)
    lease.close()
    return times


def milliseconds(times: list[float]) -> str:
    return f"{statistics.median(times) * 1000:6.2f} ms median, {max(times) * 1000:6.1f} ms longest"


def measure(url: str, rows: int, batches: list[int], index: bool, waiting: int, backing_off: int) -> None:
    for batch in batches:
        size = rows if batch > 10 else rows // 4
        for read in (False, True):
            tasks = fill(url, size, index)
            what = "claim, read, finish" if read else "claim, finish      "
            print(f"  {what} by {batch:5}: {drain(tasks, size, batch, read):9,.0f} rows/s", flush=True)
    for count in (1_000, waiting):
        tasks = fill(url, count + 100, index)
        print(f"  claim of 10 with {count:7,} waiting: {milliseconds(claims(tasks, 10, 10))}", flush=True)
    tasks = fill(url, backing_off + 10_000, index)
    lease = tasks.open_lease()
    for _ in range(0, backing_off, 1000):
        lease.finish([Finish(claim, Again(3600.0, "E", "e"), 0.0, 0) for claim in lease.claim(1000)])
    lease.close()
    lease = tasks.open_lease()
    times = []
    for _ in range(90):
        began = time.perf_counter()
        found = lease.claim(100)
        times.append(time.perf_counter() - began)
        lease.finish([Finish(claim, Done(), 0.0, 0) for claim in found])
        assert len(found) == 100
    print(f"  claim of 100 with {backing_off:,} under back-off at the head: {milliseconds(times)}", flush=True)
    lease.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="*", metavar="DATABASE_URL")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batches", default="10,100,1000")
    parser.add_argument("--no-index", action="store_true", help="without the index that claims want")
    parser.add_argument("--waiting", type=int, default=500_000)
    parser.add_argument("--backing-off", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "benchmark.db"
        create_file(str(file))
        for url in asked.urls or [f"sqlite:///{file}"]:
            print(sa.make_url(url).render_as_string(), flush=True)
            batches = [int(batch) for batch in asked.batches.split(",")]
            measure(url, asked.rows, batches, not asked.no_index, asked.waiting, asked.backing_off)


if __name__ == "__main__":
    main()
