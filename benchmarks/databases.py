"""pooltable on SQLite, PostgreSQL and MariaDB: rows a second, claims, how soon rows are begun, memory.

Rows a second are compared with the limit of its statements, the loop written by hand, and other queues in a database.

Every commit is synced to the disk, on all three. What is compared takes turns, so that a busy minute of the machine
hits all of it. The servers are those of the tests. The peers are measured where an interpreter that has them is
named, and for graphile-worker a folder; Celery and dramatiq want a redis-server, too. What cannot be had is left out:

    python3 -m venv PEERS
    PEERS/bin/pip install procrastinate pgqueuer asyncpg 'psycopg[binary,pool]' huey litequeue
    PEERS/bin/pip install 'celery[redis]' 'dramatiq[redis]' hiredis
    npm install --prefix PEERS graphile-worker
    apt-get install redis-server
    python -m benchmarks.databases --peers PEERS/bin/python --node-peers PEERS

Redis is started here with appendonly and appendfsync always: it answers a write when its log was synced, as a database
answers a commit. Jobs of graphile-worker are JavaScript, and a millisecond of CPU is counted out for Python: it gets
only rows that do nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _peers, _report, _slow_disk
from benchmarks._queues import PEER_SCRIPT, Peer, peers
from benchmarks._sites import PATIENCE, Site, sites
from benchmarks._tasks import by_hand, finishes, ours, serve, without_waiting
from pooltable import TaskTable
from pooltable.table.states import Done, Finish

SCRIPT = "benchmarks.databases"


# ---- rows a second


def measured(role: str, site: Site, **facts: Any) -> dict[str, float]:
    """One measurement in a program of its own, so that none inherits another one's memory or imports."""
    asked = json.dumps({"role": role, "url": site.url, **facts})
    done = subprocess.run(
        [sys.executable, "-m", SCRIPT, "--one", asked], stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rate_of(role: str, site: Site, rows: int, kind: str) -> float:
    site.fill(rows, kind)
    seconds = measured(role, site, rows=rows)["working"]
    if (count := site.done()) != rows:
        raise SystemExit(f"{role} on {site.name}: {count} of {rows} rows are DONE")
    return rows / seconds


def statements(url: str, rows: int) -> dict[str, float]:
    """Claim a hundred, read them, finish them, and nothing else."""
    table = TaskTable(url, "video")
    lease = table.open_lease()
    began = time.perf_counter()
    ends: list[Finish] = []
    while True:
        claims = lease.exchange(ends, 100).claims
        if not claims:
            break
        lease.read(claims)
        ends = [Finish(claim, Done(), 0.0, 0) for claim in claims]
    seconds = time.perf_counter() - began
    lease.close()
    return {"working": seconds}


def two_processes(kind: str, rows: int) -> float:
    """Rows a second of the bare work in two processes, without any queue."""
    code = (
        "import time, _peers\nbegan = time.perf_counter()\n"
        f"for _ in range({rows // 2}): _peers.work({kind!r})\nprint(time.perf_counter() - began)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=PEER_SCRIPT.parent, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    return rows / max(float(one.communicate(timeout=PATIENCE)[0]) for one in both)


# ---- claims, memory, latency


def claim(url: str) -> dict[str, float]:
    """Milliseconds for writing the ends of a hundred rows and claiming the next hundred."""
    lease = TaskTable(url, "video").open_lease()
    held = lease.claim(100)
    seconds = []
    for _ in range(50):
        ends = [Finish(claim, Done(), 0.0, 0) for claim in held]
        began = time.perf_counter()
        held = lease.exchange(ends, 100).claims
        seconds.append(time.perf_counter() - began)
    lease.close()
    return {"median": 1e3 * statistics.median(seconds), "slowest": 1e3 * max(seconds)}


@contextlib.contextmanager
def service(site: Site, notes: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A runner that goes on for ever, with all its settings as they are by default."""
    notes.unlink(missing_ok=True)
    environment = {**os.environ, "BENCH_NOTES": str(notes)}
    asked = json.dumps({"role": "serve", "url": site.url})
    one = subprocess.Popen([sys.executable, "-m", SCRIPT, "--one", asked], env=environment)
    try:
        yield one
    finally:
        one.send_signal(signal.SIGTERM)
        one.wait(30)


def noted(notes: Path, count: int, seconds: float = 60.0) -> list[list[str]]:
    """The lines of the notes, once there are so many."""
    deadline = time.monotonic() + seconds
    while True:
        lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
        if len(lines) >= count:
            return lines
        if time.monotonic() > deadline:
            raise SystemExit(f"only {len(lines)} of {count} tasks have begun")
        time.sleep(0.001)


def pickup(insert: Callable[[int], None], notes: Path, rows: int) -> list[float]:
    """Milliseconds from before an INSERT until the task begins, with workers that are idle."""
    insert(0)
    noted(notes, 1)
    found = []
    for number in range(1, rows + 1):
        # Longer than the runner looks again quickly after it had work.
        time.sleep(random.uniform(0.3, 1.5))
        at = time.time()
        insert(number)
        found.append(1e3 * (float(noted(notes, number + 1)[-1][0]) - at))
    return sorted(found)


def after_a_kill(site: Site, notes: Path, times: int) -> dict[str, list[float]]:
    """Seconds until a row is begun again after its worker was killed, and after its whole runner was, on this host."""
    site.fill(0, "noop")
    workers, runners = [], []
    with service(site, notes), service(site, notes):
        pass  # the files of Python are in memory now
    with service(site, notes):
        for number in range(1, times + 1):
            site.insert(number, "hold")
            pid = int(noted(notes, 2 * number - 1)[-1][1])
            at = time.time()
            os.kill(pid, signal.SIGKILL)
            workers.append(float(noted(notes, 2 * number)[-1][0]) - at)
    for _ in range(times):
        site.fill(0, "noop")
        with service(site, notes) as first:
            # Both its workers are busy, so the next row is the second runner's, which is ready then.
            site.insert(1, "hold")
            site.insert(2, "hold")
            noted(notes, 2)
            with contextlib.ExitStack() as stack:
                kept = notes.read_text()
                stack.enter_context(service(site, notes))
                notes.write_text(kept)
                site.insert(3, "stamp")
                noted(notes, 3)
                at = time.time()
                first.kill()
                runners.append(float(noted(notes, 4)[3][0]) - at)
    return {"worker": workers, "runner": runners}


def sync_milliseconds(folder: Path) -> float:
    """How long this disk takes to sync 8 KiB; every commit pays it."""
    seconds = []
    with (folder / "sync").open("wb") as file:
        for _ in range(100):
            file.write(bytes(8192))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


# ---- the program

ROLES: dict[str, Callable[..., dict[str, float]]] = {
    "pooltable": ours,
    "no wait": without_waiting,
    "by hand": by_hand,
    "statements": statements,
    "claim": claim,
    "finishes": finishes,
    "serve": serve,
}


@dataclass
class Variant:
    """Something whose rate is measured: what it is called, on what, and how many rows of each kind it gets."""

    name: str
    database: str
    rate: Callable[[int, str], float]
    rows: dict[str, int]


def variants(found: dict[str, Site], others: list[Peer], rows: int) -> list[Variant]:
    some = {"cpu1": max(200, rows // 40), "cpu10": max(60, rows // 250)}
    fast = {"noop": rows, **some}
    slow = {**fast, "noop": max(300, rows // 10)}
    slower = {**fast, "noop": max(300, rows // 30)}
    all_: list[Variant] = []
    for site in found.values():
        all_ += [
            Variant("the statements alone", site.name, _rate("statements", site), {"noop": rows}),
            Variant("pooltable", site.name, _rate("pooltable", site), fast),
            Variant("the loop by hand", site.name, _rate("by hand", site), slow),
        ]
    # Jobs of graphile-worker are JavaScript, in which the loop of a millisecond takes another time.
    counts = {"pgqueuer": fast, "graphile-worker": {"noop": rows}}
    counts |= dict.fromkeys(("procrastinate", "litequeue", "celery"), slower)
    all_ += [Variant(one.name, one.place.database, one.rate, counts.get(one.name, slow)) for one in others]
    return all_


def _rate(role: str, site: Site) -> Callable[[int, str], float]:
    return lambda rows, kind: rate_of(role, site, rows, kind)


def rates(asked: argparse.Namespace, found: dict[str, Site]) -> tuple[list[_report.Table], dict[str, Any]]:
    with peers(asked.peers, asked.node_peers, found) as others:
        return _rates_of(variants(found, others, asked.rows), others, asked)


def _rates_of(
    all_: list[Variant], others: list[Peer], asked: argparse.Namespace
) -> tuple[list[_report.Table], dict[str, Any]]:
    kinds = ["noop", "cpu1", "cpu10"]
    runs: dict[str, dict[str, list[float]]] = {}
    bare: dict[str, list[float]] = {"cpu1": [], "cpu10": []}
    for turn in range(asked.repeat):
        for kind in kinds:
            if kind in bare:
                bare[kind].append(two_processes(kind, max(60, asked.rows // (40 if kind == "cpu1" else 250))))
            for variant in random.sample(all_, len(all_)):
                if kind not in variant.rows:
                    continue
                rate = variant.rate(variant.rows[kind], kind)
                label = f"{variant.name}, {variant.database}"
                runs.setdefault(label, {}).setdefault(kind, []).append(rate)
                print(f"  {turn + 1} {kind} {label}: {rate:,.0f}", file=sys.stderr, flush=True)
    lines = []
    for variant in all_:
        label = f"{variant.name}, {variant.database}"
        got = runs[label]
        noop = got["noop"]
        cells: list[Any] = [
            label,
            variant.rows["noop"],
            round(statistics.median(noop)),
            f"{min(noop):,.0f}-{max(noop):,.0f}",
        ]
        cells += [round(statistics.median(got[kind])) if kind in got else "-" for kind in ("cpu1", "cpu10")]
        lines.append(cells)
    ideal = {kind: round(statistics.median(values)) for kind, values in bare.items()}
    lines.append(["the bare work in two processes, no queue", "-", "-", "-", ideal["cpu1"], ideal["cpu10"]])
    versions = ", ".join(one.about for one in others)
    table = _report.Table(
        "Rows a second, two worker processes",
        ["", "no-op rows", "no-op rows/s", "lowest-highest", "1 ms of CPU", "10 ms of CPU"],
        lines,
        f"Medians of {asked.repeat} runs that took turns in a random order. From the first claim, or the start of the "
        "first job, to the last row done; the start of the processes is left out. Slow ones get fewer rows, since they "
        "would take minutes. " + (f"Peers: {versions}." if others else ""),
    )
    return [table], {"rates": runs, "bare": bare}


def claims_table(asked: argparse.Namespace, found: dict[str, Site]) -> tuple[list[_report.Table], dict[str, Any]]:
    got: dict[str, list[dict[str, float]]] = {}
    for _ in range(asked.repeat):
        for site in found.values():
            for count in (asked.few, asked.waiting):
                site.fill(count, "noop", done=count)
                label = f"{site.name}, {count:,} waiting and as many done"
                got.setdefault(label, []).append(measured("claim", site))
    lines = [
        [name, *(statistics.median(one[at] for one in all_) for at in ("median", "slowest"))]
        for name, all_ in got.items()
    ]
    note = (
        "Writing the ends of a hundred rows and claiming the next hundred, fifty times, with the index over the "
        f"waiting rows. Medians of {asked.repeat} runs that took turns."
    )
    return [
        _report.Table("A claim, by the number of rows that wait", ["", "median ms", "slowest ms"], lines, note)
    ], got


def backoff_table(asked: argparse.Namespace, found: dict[str, Site]) -> tuple[list[_report.Table], dict[str, Any]]:
    """Rows a second while many rows that are under back-off stand at the head of the order."""
    got: dict[str, list[float]] = {}
    for _ in range(asked.repeat):
        for site in found.values():
            for under in (0, asked.under_backoff):
                site.fill(under + asked.rows, "noop")
                site.put_off(under)
                seconds = measured("no wait", site, rows=asked.rows)["working"]
                got.setdefault(f"{site.name}, {under:,} under back-off", []).append(asked.rows / seconds)
    lines = [[name, round(statistics.median(all_)), f"{min(all_):,.0f}-{max(all_):,.0f}"] for name, all_ in got.items()]
    note = f"A whole run over {asked.rows:,} rows that do nothing. Medians of {asked.repeat} runs that took turns."
    heads = ["", "rows/s", "lowest-highest"]
    return [_report.Table("Rows under back-off at the head of the order", heads, lines, note)], got


def latencies(asked: argparse.Namespace, found: dict[str, Site]) -> tuple[list[_report.Table], dict[str, Any]]:
    got: dict[str, Any] = {"pickup": {}, "kill": {}, "finishes": {}}
    for site in found.values():
        notes = site.folder / "notes"
        site.fill(0, "noop")
        with service(site, notes), site.connection() as run:
            got["pickup"][f"pooltable, {site.name}"] = pickup(
                lambda number, run=run: run(f"INSERT INTO video VALUES ({number}, 'stamp', 'PENDING')"),  # type: ignore[misc]
                notes,
                asked.pickups,
            )
        got["kill"][site.name] = after_a_kill(site, notes, asked.kills)
        notes.unlink(missing_ok=True)
        site.fill(40 * asked.pickups, "noop")
        got["finishes"][site.name] = measured("finishes", site, rows=40 * asked.pickups)
    lines = [[name, statistics.median(all_), all_[0], all_[-1]] for name, all_ in got["pickup"].items()]
    first = _report.Table(
        "From an INSERT by somebody else to the start of the task, with an idle runner",
        ["", "median ms", "shortest", "longest"],
        lines,
        f"{asked.pickups} rows, one at a time, at random moments 0.3 to 1.5 s apart; default settings.",
    )
    second = _report.Table(
        "From kill -9 to the second start of the row, on the same host",
        ["", "of its worker, s", "longest", "of its runner, s", "longest"],
        [
            [name, *(part for of in (one["worker"], one["runner"]) for part in (statistics.median(of), max(of)))]
            for name, one in got["kill"].items()
        ],
        f"{asked.kills} times each; another runner was waiting when the runner was killed. Default settings.",
    )
    third = _report.Table(
        "From the end of a task to the commit of its end",
        ["", "median ms", "99th of 100", "longest"],
        [[name, one["median"], one["99th"], one["longest"]] for name, one in got["finishes"].items()],
        f"{40 * asked.pickups} rows of 0 to 39 ms, as a listener of the run hears of it.",
    )
    return [first, second, third], got


def memory_table(asked: argparse.Namespace, found: dict[str, Site]) -> tuple[list[_report.Table], dict[str, Any]]:
    got: dict[str, Any] = {}
    lines = []
    for site in found.values():
        for count in (asked.few, asked.many):
            site.fill(count, "noop")
            one = measured("pooltable", site, rows=count)
            got[f"{site.name} {count}"] = one
            lines.append([site.name, count, one["peak_mb"], round(count / one["working"])])
    heads = ["", "rows", "peak MB", "rows/s"]
    return [_report.Table("The runner's memory, by the number of rows run", heads, lines)], got


PARTS = {
    "rates": rates,
    "claims": claims_table,
    "backoff": backoff_table,
    "latencies": latencies,
    "memory": memory_table,
}


NOT_TOLD = ("one", "peers", "node_peers", "folder", "parts")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=f"python -m {SCRIPT}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=500_000, help="rows for the memory")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="rows that wait while others are claimed")
    parser.add_argument("--under-backoff", type=int, default=100_000, help="rows at the head that must wait")
    parser.add_argument("--pickups", type=int, default=25)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--parts", default="rates,claims,backoff,latencies,memory")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of an environment with the peers")
    parser.add_argument("--node-peers", metavar="FOLDER", type=Path, help="folder in which npm installed the peers")
    parser.add_argument("--slower-sync", type=float, default=0.0, metavar="MS", help="so much more for every sync")
    parser.add_argument("--folder", type=Path, help="where the files lie; a temporary folder by default")
    parser.add_argument("--quick", action="store_true", help="small numbers, once")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        facts = json.loads(asked.one)
        print(json.dumps(ROLES[facts.pop("role")](**facts)))
        return
    if asked.quick:
        asked.rows, asked.repeat, asked.few, asked.many, asked.waiting = 1_000, 1, 500, 2_000, 2_000
        asked.pickups, asked.kills, asked.under_backoff = 2, 1, 1_000
    os.environ["BENCH_PER_MS"] = str(_per_millisecond())
    settings = {key: str(value) for key, value in vars(asked).items() if key not in NOT_TOLD}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=asked.folder))
        if asked.slower_sync:
            _slow_disk.slow_down(Path(folder), asked.slower_sync)
        found = stack.enter_context(sites(Path(folder)))
        os.environ["BENCH_NOTES"] = str(Path(folder) / "notes")
        versions = ", ".join(f"{name} {site.version()}" for name, site in found.items())
        for part in asked.parts.split(","):
            sync, load = sync_milliseconds(Path(folder)), os.getloadavg()[0]
            tables, got = PARTS[part](asked, found)
            busy = f"The load of the machine was {load:.1f} before and {os.getloadavg()[0]:.1f} after."
            more = f", and {asked.slower_sync:g} ms more in every program measured" if asked.slower_sync else ""
            about = f"{versions}. A sync of 8 KiB took {sync:.2f} ms on this disk{more}. {busy}"
            last = tables[-1]
            tables[-1] = _report.Table(last.title, last.heads, last.rows, f"{last.note} {about}".strip())
            name = f"databases_{part}_slow_disk" if asked.slower_sync else f"databases_{part}"
            _report.write(name, tables, {**settings, "found": got})


def _per_millisecond() -> int:
    """How far the work of a millisecond counts on this machine."""
    best = min(_seconds_of(200_000) for _ in range(5))
    return int(200_000 / best / 1000)


def _seconds_of(count: int) -> float:
    began = time.perf_counter()
    _peers.spin(count)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
