"""Where a call's time goes: system calls, waits, context switches and CPU time of each kind of pool, per call.

    python -m benchmarks.percall

Each pool is run in a program of its own under strace, once with few calls and once with many more; the difference is
what the calls cost, without the start. The CPU times and switches are from runs without strace. Where there is no
strace, system calls are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._report import Table, write

POOLS = ("pooltable.Pool", "PoolExecutor", "multiprocessing.Pool", "ProcessPoolExecutor")
WAYS = {"bulk": "all submitted, then all results", "single": "one after the other"}
# strace slows every system call down: so few calls are enough.
FEW, MANY = 200, 2_200
TIMED = {"bulk": 100_000, "single": 3_000}


def nothing(value: Any) -> Any:
    return value


# ---- what is measured, in a program of its own


def submitter(name: str) -> tuple[Callable[[int], Callable[[], object]], Callable[[], list[int]], Callable[[], None]]:
    """How to submit a call, giving how to fetch its result; the process numbers of the workers; how to end them."""
    if name == "pooltable.Pool":
        import pooltable

        pool = pooltable.Pool(2)
        return (lambda i: pool.apply_async(nothing, (i,)).get), lambda: pids_of(pool), pool.terminate
    if name == "PoolExecutor":
        import pooltable

        executor: Any = pooltable.PoolExecutor(2, min_processes=2)
        return (lambda i: executor.submit(nothing, i).result), lambda: list(executor._processes), executor.shutdown
    import concurrent.futures
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    if name == "multiprocessing.Pool":
        theirs: Any = context.Pool(2)
        return (lambda i: theirs.apply_async(nothing, (i,)).get), lambda: pids_of(theirs), theirs.terminate
    executor = concurrent.futures.ProcessPoolExecutor(2, context)
    return (lambda i: executor.submit(nothing, i).result), lambda: list(executor._processes), executor.shutdown


def pids_of(pool: Any) -> list[int]:
    return [process.pid for process in pool._pool]


def run(submit: Callable[[int], Callable[[], object]], way: str, calls: int) -> None:
    if way == "single":
        for i in range(calls):
            submit(i)()
    else:
        for fetch in [submit(i) for i in range(calls)]:
            fetch()


def child(name: str, way: str, calls: int) -> None:
    submit, pids, end = submitter(name)
    run(submit, way, 100)
    before = used(pids())
    begin = time.perf_counter()
    run(submit, way, calls)
    seconds = time.perf_counter() - begin
    after = used(pids())
    print(json.dumps([seconds, *(late - early for early, late in zip(before, after, strict=True))]), flush=True)
    end()


def used(pids: list[int]) -> tuple[float, float, float, float]:
    """CPU seconds of this process and of the workers, and voluntary switches of both."""
    mine = resource.getrusage(resource.RUSAGE_SELF)
    theirs = switches = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        theirs += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for task in Path(f"/proc/{pid}/task").iterdir():
            switches += int((task / "status").read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return mine.ru_utime + mine.ru_stime, theirs, float(mine.ru_nvcsw), switches


# ---- from outside


def program(name: str, way: str, calls: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.percall", "--child", name, way, str(calls)]


def system_calls(name: str, way: str, calls: int) -> dict[str, int]:
    """How many of each system call a run makes, all its processes together."""
    with tempfile.NamedTemporaryFile("r") as file:
        command = ["strace", "-f", "-qq", "-c", "-o", file.name, *program(name, way, calls)]
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=300, check=False)
        lines = file.read().splitlines()
    found = {}
    for line in lines:
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
            found[fields[-1]] = int(fields[3])
    return found


def measure_calls(way: str) -> Table:
    rows = []
    for name in POOLS:
        few, many = (system_calls(name, way, calls) for calls in (FEW, MANY))
        each = {call: (many[call] - few.get(call, 0)) / (MANY - FEW) for call in many}
        waits = each.pop("futex", 0.0)
        most = sorted(each, key=lambda call: -each[call])[:5]
        words = ", ".join(f"{call} {each[call]:.2f}" for call in most if each[call] >= 0.01)
        rows.append((name, sum(each.values()), waits, words))
    return Table(
        f"System calls per call, {WAYS[way]}",
        ("pool", "without futex", "futex", "most of them"),
        rows,
        "All processes together, counted by strace.",
    )


def measure_time(way: str, rounds: int, scale: float) -> Table:
    calls = int(TIMED[way] * scale)
    found: dict[str, list[list[float]]] = {name: [] for name in POOLS}
    for _ in range(rounds):
        for name in POOLS:
            done = subprocess.run(program(name, way, calls), capture_output=True, text=True, timeout=300, check=True)
            found[name].append([value / calls for value in json.loads(done.stdout)])
    rows = []
    for name, runs in found.items():
        seconds, parent, workers, parent_waits, worker_waits = (
            sorted(each)[len(each) // 2] for each in zip(*runs, strict=True)
        )
        rows.append((name, seconds * 1e6, parent * 1e6, workers * 1e6, parent_waits, worker_waits))
    return Table(
        f"Time per call, {WAYS[way]}",
        ("pool", "us", "us of CPU, parent", "us of CPU, workers", "waits, parent", "waits, workers"),
        rows,
        "A wait is a voluntary context switch: a thread went to sleep and was woken again.",
    )


# ---- pooltable's own steps


class Counted:
    """A lock that counts how often it is taken."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.count = 0

    def __enter__(self) -> Any:
        self.count += 1
        return self._lock.__enter__()

    def __exit__(self, *error: object) -> Any:
        return self._lock.__exit__(*error)


def measure_steps() -> Table:
    """How often, per call, the parent of a Pool pickles, takes the lock of its books, and sends and receives."""
    import pooltable
    from pooltable.pool import engine, local, wire

    rows = []
    with pooltable.Pool(2) as pool:
        floor = pool._engine._floor
        for way in WAYS:
            run(lambda i: pool.apply_async(nothing, (i,)).get, way, 1000)
            counts = {"dumps": 0, "loads": 0, "send": 0, "receive": 0}
            lock: Any = Counted(floor.lock)
            originals = local._dumps, engine.load, wire.Channel.send, wire.Channel.receive

            def counting(name: str, function: Any, counts: dict[str, int] = counts) -> Any:
                def counted(*args: Any, **kwargs: Any) -> Any:
                    counts[name] += 1
                    return function(*args, **kwargs)

                return counted

            floor.lock = lock
            local._dumps = counting("dumps", originals[0])
            wire.Channel.send = counting("send", originals[2])  # type: ignore[method-assign]
            wire.Channel.receive = counting("receive", originals[3])  # type: ignore[method-assign]
            calls = 20_000
            try:
                run(lambda i: pool.apply_async(nothing, (i,)).get, way, calls)
            finally:
                floor.lock = lock._lock
                local._dumps = originals[0]
                wire.Channel.send, wire.Channel.receive = originals[2], originals[3]  # type: ignore[method-assign]
            rows.append(
                (WAYS[way], *(counts[name] / calls for name in ("dumps", "send", "receive")), lock.count / calls)
            )
    return Table(
        "The steps of a call in the parent of a pooltable.Pool, per call",
        ("calls", "pickled", "messages sent", "reads of a socket", "lock taken"),
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often times are measured (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that everything works")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        name, way, calls = options.child
        child(name, way, int(calls))
        return
    rounds, scale = (1, 0.02) if options.quick else (options.rounds, 1.0)
    tables = [measure_steps(), *(measure_time(way, rounds, scale) for way in WAYS)]
    if shutil.which("strace"):
        tables += [measure_calls(way) for way in WAYS]
    write("percall", tables, {"rounds": rounds})


if __name__ == "__main__":
    main()
