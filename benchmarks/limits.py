"""What must not grow: a claim with the rows that wait, memory with the rows that were run, CPU time at rest.

Each measurement runs in a program of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks import _report

MEGABYTE = 2**20


def do_nothing(row: object) -> None:
    pass


def same(item: Any) -> Any:
    return item


# ---- what is measured, each in a program of its own


def claim(file: str, rows: int) -> dict[str, float]:
    """Milliseconds for claiming a hundred rows, and for writing their end together with the next claim."""
    from pooltable import TaskTable
    from pooltable.table.states import Done, Finish

    _report.make_rows(Path(file), rows)
    table = TaskTable(f"sqlite:///{file}", "video")
    table.prepare()
    lease = table.open_lease()
    held = lease.claim(100)
    seconds = []
    for _ in range(50):
        ends = [Finish(claim, Done(), 0.0, 0) for claim in held]
        started = time.perf_counter()
        held = lease.exchange(ends, 100).claims
        seconds.append(time.perf_counter() - started)
        if len(held) != 100:
            raise SystemExit(f"claimed {len(held)} rows, not 100")
    lease.close()
    return {"median": _report.median(seconds) * 1e3, "slowest": max(seconds) * 1e3}


def memory(file: str, rows: int) -> dict[str, float]:
    """Peak memory in MB of the program that runs all rows, without its workers."""
    from pooltable import TaskTable, run

    _report.make_rows(Path(file), rows)
    with _Watched() as watched:
        summary = run(do_nothing, TaskTable(f"sqlite:///{file}", "video"), processes=2)
    if summary.done != rows:
        raise SystemExit(f"{summary.done} of {rows} rows are DONE")
    return {"rss": watched.peak_rss, "uss": watched.peak_uss, "rate": summary.rate}


def imap(seconds: float, pause: float) -> dict[str, float]:
    """Memory in MB of a program that reads an endless `imap`, and how far its source was read ahead."""
    from pooltable import Pool

    read = itertools.count()
    ahead, taken = 0, 0

    def endless() -> Iterator[bytes]:
        for number in read:
            yield number.to_bytes(8, "big") * 1250

    with Pool(2) as pool, _Watched() as watched:
        results = pool.imap(same, endless())
        until = time.perf_counter() + seconds
        early = 0.0
        while time.perf_counter() < until:
            next(results)
            taken += 1
            if taken == 2_000:
                early = watched.uss()
            if pause:
                time.sleep(pause)
            if taken % 100 == 0:
                # itertools.count shows where it stands without moving.
                ahead = max(ahead, int(repr(read)[6:-1]) - taken)
        late = watched.uss()
        pool.terminate()
    return {"items": taken, "ahead": ahead, "early": early or late, "late": late, "peak": watched.peak_uss}


def idle(file: str, seconds: float) -> dict[str, float]:
    """CPU time of a service that has nothing to do, in percent of one core."""
    _report.make_rows(Path(file), 100)
    service = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.limits", "--one", "serve", json.dumps({"file": file})]
    )
    try:
        deadline = time.monotonic() + 30
        while _report.count_done(Path(file)) < 100:
            if time.monotonic() > deadline or service.poll() is not None:
                raise SystemExit("the service did not run its rows")
            time.sleep(0.05)
        time.sleep(3)
        family = [psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True)]
        before = [_cpu(one) for one in family]
        time.sleep(seconds)
        used = [_cpu(one) - earlier for one, earlier in zip(family, before, strict=True)]
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(30)
    return {"runner": 100 * used[0] / seconds, "workers": 100 * sum(used[1:]) / seconds}


def serve(file: str) -> dict[str, float]:
    """Not a measurement: the service that `idle` looks at."""
    from pooltable import TaskTable, run

    return {"done": float(run(do_nothing, TaskTable(f"sqlite:///{file}", "video"), processes=2, forever=True).done)}


def _cpu(process: psutil.Process) -> float:
    """CPU seconds of a process so far; from the scheduler where it tells, since the usual clock ticks every 10 ms."""
    threads = list(Path(f"/proc/{process.pid}/task").glob("*/schedstat"))
    if threads:
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)


class _Watched:
    """The peak memory of this process while the block runs, in MB."""

    def __enter__(self) -> _Watched:
        self._process = psutil.Process()
        self._over = threading.Event()
        self.peak_uss = 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def uss(self) -> float:
        return float(self._process.memory_full_info().uss) / MEGABYTE

    def _watch(self) -> None:
        while True:
            self.peak_uss = max(self.peak_uss, self.uss())
            if self._over.wait(0.25):
                return


# ---- the report

MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    "claim": claim,
    "memory": memory,
    "imap": imap,
    "idle": idle,
    "serve": serve,
}


def measure(name: str, **arguments: Any) -> dict[str, float]:
    one = [sys.executable, "-m", "benchmarks.limits", "--one", name, json.dumps(arguments)]
    done = subprocess.run(one, stdout=subprocess.PIPE, text=True, check=True, timeout=400)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--few", type=int, default=10_000, help="rows of the small table")
    parser.add_argument("--many", type=int, default=500_000, help="rows of the large table")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="for the endless iterator, and for the service at rest"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs of the claims; medians are reported")
    parser.add_argument("--folder", type=Path, help="where the database file lies; a temporary folder by default")
    parser.add_argument("--quick", action="store_true", help="at most 20,000 rows, 2 seconds")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "ARGUMENTS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(MEASUREMENTS[asked.one[0]](**json.loads(asked.one[1]))))
        return
    if asked.quick:
        asked.few, asked.many, asked.seconds, asked.repeat = 10_000, 20_000, 2.0, 1

    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        file = str(Path(folder) / "videos.db")
        sizes = (asked.few, asked.many)
        # In turns, so that a busy moment of the machine hits both.
        turns = [{rows: measure("claim", file=file, rows=rows) for rows in sizes} for _ in range(asked.repeat)]
        claims = {
            rows: {name: _report.median([turn[rows][name] for turn in turns]) for name in ("median", "slowest")}
            for rows in sizes
        }
        memories = {rows: measure("memory", file=file, rows=rows) for rows in sizes}
        fast = measure("imap", seconds=asked.seconds, pause=0.0)
        slow = measure("imap", seconds=asked.seconds, pause=0.001)
        rest = measure("idle", file=file, seconds=asked.seconds)

    tables = [
        _report.Table(
            "A claim, by the number of rows that wait",
            ["rows waiting", "median ms", "slowest ms"],
            [[f"{rows:,}", found["median"], found["slowest"]] for rows, found in claims.items()],
            "One transaction that writes the ends of a hundred rows and claims the next hundred, with the index on "
            "the waiting rows. Medians over the runs.",
        ),
        _report.Table(
            "The runner's memory, by the number of rows run",
            ["rows", "peak RSS MB", "peak USS MB", "rows/s"],
            [[f"{rows:,}", found["rss"], found["uss"], round(found["rate"])] for rows, found in memories.items()],
            f"{asked.many:,} rows take {memories[asked.many]['rss'] - memories[asked.few]['rss']:+.1f} MB more than "
            f"{asked.few:,}.",
        ),
        _report.Table(
            "`Pool.imap` over an endless source of items of 10 kB",
            ["reader", "items read", "most items read ahead", "USS MB early", "USS MB at the end"],
            [
                ["as fast as it can", int(fast["items"]), int(fast["ahead"]), fast["early"], fast["late"]],
                ["a millisecond for each item", int(slow["items"]), int(slow["ahead"]), slow["early"], slow["late"]],
            ],
            "Early is after 2,000 items.",
        ),
        _report.Table(
            "A service with nothing to do",
            ["", "% of one core"],
            [["the runner", rest["runner"]], ["its two workers together", rest["workers"]]],
            f"Over {asked.seconds:g} seconds.",
        ),
    ]
    found = {"claim": claims, "memory": memories, "imap": {"fast": fast, "slow": slow}, "idle": rest}
    settings = {"few": asked.few, "many": asked.many, "seconds": asked.seconds, "repeat": asked.repeat}
    _report.write("limits", tables, {**settings, "found": found})


if __name__ == "__main__":
    main()
