"""What the pool promises beside its rate: latency, arrays, real work, a killed worker, memory, the first result.

    python -m benchmarks.promises
    python -m benchmarks.promises --only arrays latency

Each is measured on pooltable and on the standard library's pool of the same kind, in turn within one round, and the
median of the rounds counts. All use the start method forkserver.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pooltable
from benchmarks._report import Table, write

CONTEXT = multiprocessing.get_context("forkserver")
WORKERS = 2


def nothing(value: Any) -> Any:
    return value


def spin(turns: int) -> int:
    x = 0
    for k in range(turns):
        x = (x + k * k) % 1000003
    return x


def spin_for(turns: int, calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        spin(turns)
    return time.perf_counter() - begin


def own_pid() -> int:
    return os.getpid()


def median(values: list[float]) -> float:
    return statistics.median(values)


# ---- latency: one call after the other on an idle pool


def latency(rounds: int, scale: float) -> Table:
    calls = max(100, int(2000 * scale))
    with (
        pooltable.Pool(WORKERS) as ours,
        CONTEXT.Pool(WORKERS) as theirs,
        pooltable.PoolExecutor(WORKERS, min_processes=WORKERS) as our_executor,
        concurrent.futures.ProcessPoolExecutor(WORKERS, CONTEXT) as their_executor,
    ):
        subjects: dict[str, Callable[[int], object]] = {
            "pooltable.Pool": lambda i: ours.apply(nothing, (i,)),
            "multiprocessing.Pool": lambda i: theirs.apply(nothing, (i,)),
            "pooltable.PoolExecutor": lambda i: our_executor.submit(nothing, i).result(),
            "ProcessPoolExecutor": lambda i: their_executor.submit(nothing, i).result(),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
        for call in subjects.values():
            for i in range(50):
                call(i)
        for _ in range(rounds):
            for name, call in subjects.items():
                seconds = []
                for i in range(calls):
                    begin = time.perf_counter()
                    call(i)
                    seconds.append(time.perf_counter() - begin)
                seconds.sort()
                found[name].append((seconds[calls // 2] * 1e6, seconds[calls * 99 // 100] * 1e6))
    medians = {name: [median(list(each)) for each in zip(*pairs, strict=True)] for name, pairs in found.items()}
    rows: list[tuple[object, ...]] = [(name, *pair) for name, pair in medians.items()]
    for mine, other in (("pooltable.Pool", "multiprocessing.Pool"), ("pooltable.PoolExecutor", "ProcessPoolExecutor")):
        ratios = (a / b for a, b in zip(medians[mine], medians[other], strict=True))
        rows.append((f"{mine} / {other}", *ratios))
    return Table("One call there and back on an idle pool", ("pool", "p50 us", "p99 us"), rows)


# ---- arrays


def arrays(rounds: int, scale: float) -> Table:
    import numpy

    rows = []
    with pooltable.Pool(WORKERS) as ours, CONTEXT.Pool(WORKERS) as theirs:
        for size, calls in ((64_000_000, 3), (8 << 20, 8), (1 << 20, 20), (1 << 17, 50), (1 << 16, 50)):
            if scale < 1 and size > 8 << 20:
                continue
            array = numpy.random.default_rng(1).random(size // 8)
            copy = numpy.empty_like(array)
            plain = []
            for _ in range(9):
                begin = time.perf_counter()
                numpy.copyto(copy, array)
                plain.append(time.perf_counter() - begin)
            for keep in (False, True):
                seconds: dict[Any, list[float]] = {ours: [], theirs: []}
                for _ in range(rounds):
                    for pool, each in seconds.items():
                        each.append(there_and_back(pool, array, calls, keep))
                mine, other = median(seconds[ours]), median(seconds[theirs])
                words = f"{size:,} bytes, {'kept' if keep else 'dropped'}"
                rows.append((words, mine * 1e3, other * 1e3, other / mine, mine / median(plain)))
    return Table(
        "A float64 array there and back, one call after the other",
        ("array", "pooltable.Pool ms", "multiprocessing.Pool ms", "times as fast", "times a warm copy"),
        rows,
        "*dropped*: each result before the next call; *kept*: all results. A warm copy is numpy.copyto of that array.",
    )


def there_and_back(pool: Any, array: Any, calls: int, keep: bool) -> float:
    kept = []
    begin = time.perf_counter()
    for _ in range(calls):
        result = pool.apply(nothing, (array,))
        if keep:
            kept.append(result)
        del result
    return (time.perf_counter() - begin) / calls


# ---- real work


def work(rounds: int, scale: float) -> Table:
    turns_per_ms = int(20_000 / (spin_for(20_000, 20) / 20 * 1e3))
    rows = []
    with pooltable.Pool(WORKERS) as ours, CONTEXT.Pool(WORKERS) as theirs, CONTEXT.Pool(WORKERS) as bare:
        for name, turns, calls in (
            ("100 us", turns_per_ms // 10, 20_000),
            ("1 ms", turns_per_ms, 2_000),
            ("10 ms", turns_per_ms * 10, 200),
        ):
            calls = max(WORKERS * 10, int(calls * scale))
            shares: dict[Any, list[float]] = {ours: [], theirs: []}
            for _ in range(rounds):
                for pool, each in shares.items():
                    # The same work in the same number of processes without a pool, just before.
                    ideal = max(bare.starmap(spin_for, [(turns, calls // WORKERS)] * WORKERS, chunksize=1))
                    begin = time.perf_counter()
                    for result in [pool.apply_async(spin, (turns,)) for _ in range(calls)]:
                        result.get()
                    each.append(ideal / (time.perf_counter() - begin))
            rows.append((name, median(shares[ours]), median(shares[theirs])))
    return Table(
        f"Calls of so much CPU time each: the share of {WORKERS} cores that goes into them",
        ("a call", "pooltable.Pool", "multiprocessing.Pool"),
        rows,
        "1 is what as many processes do without any pool, measured just before each time.",
    )


# ---- a killed worker


def killed(rounds: int, scale: float) -> Table:
    waits = []
    with pooltable.Pool(1) as pool:
        for _ in range(rounds * 4):
            pid = pool.apply(own_pid)
            pool.apply_async(time.sleep, (600,))
            later = pool.apply_async(own_pid)
            time.sleep(0.1)
            begin = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            later.get()
            waits.append((time.perf_counter() - begin) * 1e3)
    return Table(
        "From SIGKILL of a busy worker until its replacement has answered the next call",
        ("", "median ms", "longest ms"),
        [("pooltable.Pool(1)", median(waits), max(waits))],
    )


# ---- memory of calls that wait


def memory(rounds: int, scale: float) -> Table:
    calls = int(1_000_000 * scale)
    rows = []
    with pooltable.Pool(1) as pool:
        pool.apply_async(time.sleep, (600,))
        time.sleep(0.3)
        rows.append(
            ("pooltable.Pool", calls, resident(lambda: [pool.apply_async(nothing, (i,)) for i in range(calls)]))
        )
        pool.terminate()
    executor = pooltable.PoolExecutor(1, min_processes=1)
    executor.submit(time.sleep, 600)
    time.sleep(0.3)
    rows.append(("PoolExecutor", calls, resident(lambda: [executor.submit(nothing, i) for i in range(calls)])))
    executor.kill_workers()
    rows = [(name, count, grown / count) for name, count, grown in rows]
    return Table(
        "Memory of the parent for calls that wait, their results included", ("pool", "calls", "bytes a call"), rows
    )


def resident(make: Callable[[], object]) -> float:
    """How many bytes this process grows by, kept objects included."""
    before = resident_now()
    kept = make()
    grown = resident_now() - before
    del kept
    return float(grown)


def resident_now() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- the first result

FIRST = """
import time
{setup}
def nothing(value):
    return value
if __name__ == "__main__":
    begin = time.perf_counter()
    pool = {make}
    pool.apply(nothing, (1,))
    print(time.perf_counter() - begin)
    pool.terminate()
"""
KINDS = {
    "pooltable": ("import pooltable; pooltable.Pool", 'pooltable.Pool(2, context="{method}")'),
    "multiprocessing": (
        "import multiprocessing, multiprocessing.pool",
        'multiprocessing.get_context("{method}").Pool(2)',
    ),
}


def first(rounds: int, scale: float) -> Table:
    rows = []
    for method in ("fork", "forkserver", "spawn"):
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind, (setup, make) in KINDS.items():
                seconds[kind].append(first_result(FIRST.format(setup=setup, make=make.format(method=method))))
        mine, other = (median(seconds[kind]) * 1e3 for kind in KINDS)
        rows.append((method, mine, other, mine / other))
    return Table(
        "From making the first pool of two workers in a program to its first result",
        ("start method", "pooltable.Pool ms", "multiprocessing.Pool ms", "ratio"),
        rows,
    )


def first_result(program: str) -> float:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(program)
        file.flush()
        done = subprocess.run([sys.executable, file.name], capture_output=True, text=True, check=True, timeout=60)
    return float(done.stdout)


MEASURES = {each.__name__: each for each in (latency, arrays, work, killed, memory, first)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measures to run")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that everything works")
    options = parser.parse_args()
    rounds, scale = (1, 0.02) if options.quick else (options.rounds, 1.0)
    tables = []
    for name in options.only:
        try:
            tables.append(MEASURES[name](rounds, scale))
        except ImportError as error:
            print(f"{name}: not measured, {error}", file=sys.stderr)
    write("promises", tables, {"workers": WORKERS, "rounds": rounds})


if __name__ == "__main__":
    main()
