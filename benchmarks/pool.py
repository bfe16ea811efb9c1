"""How fast pooltable's pool is beside other pools: calls that do nothing, so that only the pool's own work is measured.

    python -m benchmarks.pool                          all measures, all pools that are installed
    python -m benchmarks.pool --only one-by-one --rounds 7 --workers 4

Every round runs each measure on each pool in turn, so that what else the machine does falls on all of them alike; the
median of the rounds counts. pooltable.Pool is compared with multiprocessing.Pool, PoolExecutor with
ProcessPoolExecutor; loky, pebble, mpire, billiard and joblib are measured where they are installed.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pooltable
from benchmarks._plot import bars
from benchmarks._report import RESULTS, Table, write

BIG = 8 << 20


def nothing(value: Any) -> Any:
    return value


# ---- the pools: what each can do, by the name of the measure


class Subject:
    """A pool under test; `calls` runs n calls and returns when all results are there."""

    def __init__(self, name: str, measures: dict[str, Callable[[int], object]], share: float = 1.0) -> None:
        self.name = name
        self.measures = measures
        self.share = share  # of the usual number of calls, for pools that would take minutes


@contextmanager
def pooltable_pool(workers: int) -> Iterator[Subject]:
    with pooltable.Pool(workers) as pool:
        yield Subject("pooltable.Pool", like_multiprocessing(pool))
    pool.join()


@contextmanager
def pooltable_executor(workers: int) -> Iterator[Subject]:
    with pooltable.PoolExecutor(workers, min_processes=workers) as executor:
        yield Subject("pooltable.PoolExecutor", like_futures(executor))


@contextmanager
def multiprocessing_pool(workers: int) -> Iterator[Subject]:
    with multiprocessing.get_context("forkserver").Pool(workers) as pool:
        yield Subject("multiprocessing.Pool", like_multiprocessing(pool))


@contextmanager
def process_pool_executor(workers: int) -> Iterator[Subject]:
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as executor:
        yield Subject("ProcessPoolExecutor", like_futures(executor), 0.2)


@contextmanager
def loky(workers: int) -> Iterator[Subject]:
    from loky import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as executor:
        yield Subject("loky", like_futures(executor), 0.2)


@contextmanager
def billiard(workers: int) -> Iterator[Subject]:
    import billiard as library

    pool = library.Pool(workers)
    yield Subject("billiard", like_multiprocessing(pool), 0.3)
    pool.terminate()
    pool.join()


@contextmanager
def pebble(workers: int) -> Iterator[Subject]:
    from pebble import ProcessPool

    with ProcessPool(workers) as pool:

        def one_by_one(n: int) -> object:
            return [future.result() for future in [pool.schedule(nothing, args=(i,)) for i in range(n)]]

        def round_trip(n: int) -> object:
            return [pool.schedule(nothing, args=(i,)).result() for i in range(n)]

        yield Subject("pebble", {"one-by-one": one_by_one, "round-trip": round_trip}, 0.02)


@contextmanager
def mpire(workers: int) -> Iterator[Subject]:
    from mpire import WorkerPool

    # A pool that has been used for single calls cannot be used for maps any more.
    with WorkerPool(workers, keep_alive=True) as pool, WorkerPool(workers, keep_alive=True) as maps:
        yield Subject(
            "mpire",
            {
                "one-by-one": lambda n: [r.get() for r in [pool.apply_async(nothing, (i,)) for i in range(n)]],
                "map": lambda n: maps.map(nothing, range(n)),
                "round-trip": lambda n: [pool.apply(nothing, (i,)) for i in range(n)],
            },
            0.05,
        )


@contextmanager
def joblib(workers: int) -> Iterator[Subject]:
    from joblib import Parallel, delayed

    with Parallel(workers) as parallel:
        yield Subject("joblib", {"map": lambda n: parallel(delayed(nothing)(i) for i in range(n))}, 0.05)


def like_multiprocessing(pool: Any) -> dict[str, Callable[[int], object]]:
    return {
        "one-by-one": lambda n: [result.get() for result in [pool.apply_async(nothing, (i,)) for i in range(n)]],
        "map": lambda n: pool.map(nothing, range(n)),
        "unordered": lambda n: exhaust(pool.imap_unordered(nothing, range(n))),
        "ordered": lambda n: exhaust(pool.imap(nothing, range(n))),
        "round-trip": lambda n: [pool.apply(nothing, (i,)) for i in range(n)],
        "big": lambda n: [pool.apply(nothing, (bytes(BIG),)) for _ in range(n)],
    }


def like_futures(executor: Any) -> dict[str, Callable[[int], object]]:
    return {
        "one-by-one": lambda n: [future.result() for future in [executor.submit(nothing, i) for i in range(n)]],
        "map": lambda n: list(executor.map(nothing, range(n), chunksize=1000)),
        "round-trip": lambda n: [executor.submit(nothing, i).result() for i in range(n)],
        "big": lambda n: [executor.submit(nothing, bytes(BIG)).result() for _ in range(n)],
    }


def exhaust(iterator: Iterator[object]) -> None:
    collections.deque(iterator, 0)


POOLS = (
    pooltable_pool,
    multiprocessing_pool,
    pooltable_executor,
    process_pool_executor,
    loky,
    pebble,
    mpire,
    billiard,
    joblib,
)

# name: (what it is, calls)
MEASURES = {
    "one-by-one": ("submit all calls one by one, then get all results", 200_000),
    "unordered": ("imap_unordered with chunks of 1", 50_000),
    "ordered": ("imap with chunks of 1", 50_000),
    "map": ("map with the pool's own chunks (executors: of 1,000)", 1_000_000),
    "round-trip": ("one call after the other", 2_000),
    "big": (f"one call after the other with {BIG >> 20} MiB there and back", 20),
}

# What the project promises: the measure, ours, theirs, at least so many times as fast.
TARGETS = (
    ("one-by-one", "pooltable.Pool", "multiprocessing.Pool", 8.0),
    ("one-by-one", "pooltable.PoolExecutor", "ProcessPoolExecutor", 20.0),
    ("map", "pooltable.Pool", "multiprocessing.Pool", 0.9),
    ("unordered", "pooltable.Pool", "multiprocessing.Pool", 5.0),
    ("round-trip", "pooltable.Pool", "multiprocessing.Pool", 1 / 0.7),
)


def main() -> None:
    options = parse()
    subjects: list[Subject] = []
    with ExitStack() as stack:
        for make in POOLS:
            if not options.pools or make.__name__ in options.pools:
                try:
                    subjects.append(stack.enter_context(make(options.workers)))
                except ImportError as error:
                    print(f"{make.__name__}: not measured, {error}", file=sys.stderr)
        for subject in subjects:
            for measure in subject.measures.values():
                measure(50)
        figures = measure_all(subjects, options)
    settings = {"workers": options.workers, "rounds": options.rounds, "scale": options.scale}
    write("pool", [*(table_of(name, rates) for name, rates in figures.items()), targets_table(figures)], settings)
    named = {f"{name}: {MEASURES[name][0]}": rates for name, rates in figures.items()}
    bars(RESULTS / "pool.svg", f"Calls a second, {options.workers} workers, logarithmic", named, "pooltable")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measures to run")
    parser.add_argument("--pools", nargs="+", choices=[make.__name__ for make in POOLS], help="pools to measure")
    parser.add_argument("--workers", type=int, default=2, help="workers of each pool (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of calls (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that everything works")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.scale = 1, 0.02
    return options


def measure_all(subjects: list[Subject], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Calls per second by measure and pool: the median of the rounds."""
    figures: dict[str, dict[str, float]] = {}
    for name in options.only:
        rates: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for subject in subjects:
                if name in subject.measures:
                    n = max(10, int(MEASURES[name][1] * subject.share * options.scale))
                    begin = time.perf_counter()
                    subject.measures[name](n)
                    rates.setdefault(subject.name, []).append(n / (time.perf_counter() - begin))
        figures[name] = {subject: round(statistics.median(each), 1) for subject, each in rates.items()}
    return figures


def table_of(name: str, rates: dict[str, float]) -> Table:
    rows = [(subject, rate, 1e6 / rate) for subject, rate in sorted(rates.items(), key=lambda item: -item[1])]
    return Table(f"{name}: {MEASURES[name][0]}", ("pool", "calls/s", "us/call"), rows)


def targets_table(figures: dict[str, dict[str, float]]) -> Table:
    rows = []
    for measure, ours, theirs, at_least in TARGETS:
        rates = figures.get(measure, {})
        if ours in rates and theirs in rates:
            ratio = rates[ours] / rates[theirs]
            rows.append((measure, ours, theirs, ratio, at_least, "yes" if ratio >= at_least else "NO"))
    return Table("What is promised", ("measure", "pool", "against", "times as fast", "at least", "reached"), rows)


if __name__ == "__main__":
    main()
