"""A bounded time of accidents on one table, and then the question whether anything was lost, repeated or left behind.

    python -m benchmarks.chaos [--minutes 1] [--seed N] [--database sqlite|postgres|mariadb|all] [--runners 3]

Several runners work on the same rows for ever. Meanwhile runners and workers are killed, stopped and continued, asked
to drain and started again, the server is restarted, also without warning, the job is paused, and rows are added,
deleted and set back by hand, also while they run. Then everybody is left in peace until all rows are done, and the
books are checked: the history of every row's status, the entries, and what the tasks noted themselves. The same seed
makes the same choices, not the same timing. The servers are the tests' own; the exit code is 1 when something is
wrong.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import sqlalchemy as sa

from tests.on_servers.runs import Running, Site, site_at
from tests.on_servers.sturdy import STURDY
from tests.servers import Missing, Server, running
from tests.table.places import Place, sqlite_place

DATABASES = {"sqlite": "sqlite", "postgres": "postgresql", "mariadb": "mariadb"}
LEASE = 2.0
SETTLES_IN = 60.0
PAUSE = (0.03, 0.3)  # seconds between two accidents
# Budgets so large that no row may fail: FAILED would hide a row that was lost.
ENDLESS = {"lost": 100_000, "rescued": 100_000, "pause": 0.1, "longest_pause": 0.2}
KILLED_BY_US = -signal.SIGKILL


@dataclass
class Verdict:
    """What was done, and what is wrong with the outcome."""

    database: str
    seed: int
    accidents: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    claims: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        done = ", ".join(f"{name} {count}" for name, count in sorted(self.accidents.items()))
        size = f"{self.rows:,} rows, {self.claims:,} claims, {self.seconds:.0f} s"
        head = f"{self.database}, seed {self.seed}: {size}; {done}"
        good = ["  nothing lost, nothing written twice, nothing left behind"]
        return "\n".join([head, *([f"  WRONG: {one}" for one in self.wrong] or good)])


class Chaos:
    """One bounded time of accidents over one site."""

    def __init__(self, site: Site, server: Server | None, seed: int, runners: int, rows: int) -> None:
        self.site = site
        self.server = server
        self.random = random.Random(seed)
        self.size = runners
        self.verdict = Verdict(site.place.kind, seed)
        self.runners: list[Running] = []
        self.timers: list[threading.Timer] = []
        self.expected_exits: set[int] = set()  # by pid: killed or drained by us
        self.last_key = rows
        self.paused_until: float | None = None
        self.restart_at = 0.0
        site.fill(rows)

    def run(self, seconds: float) -> Verdict:
        began = time.monotonic()
        self._fill_up()
        # Accidents to runners that are still starting would be all that happens.
        self._wait(lambda: self.site.done() > 0, 30.0)
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            accident = self._choose()
            self.verdict.accidents[accident.__name__.strip("_").replace("_", " ")] += 1
            try:
                accident()
            except (sa.exc.OperationalError, sa.exc.DBAPIError, psutil.Error):
                pass  # a deadlock with a runner, as users have them; a process that ended meanwhile
            self._tidy_up()
            time.sleep(self.random.uniform(*PAUSE))
        self._settle()
        self.verdict.seconds = time.monotonic() - began
        return self.verdict

    # ---- accidents

    def _choose(self) -> Callable[[], None]:
        chances: dict[Callable[[], None], int] = {
            self._kill_a_runner: 3,
            self._kill_a_worker: 6,
            self._stop_a_runner: 4,
            self._stop_a_worker: 3,
            self._drain_a_runner: 2,
            self._add_rows: 6,
            self._delete_rows: 4,
            self._set_finished_rows_back: 5,
            self._set_running_rows_back: 4,
            self._pause_the_job: 1,
        }
        if self.server is not None and time.monotonic() >= self.restart_at:
            chances[self._restart_the_server] = 4
        return self.random.choices(list(chances), weights=list(chances.values()))[0]

    def _kill_a_runner(self) -> None:
        one = self.random.choice(self.runners)
        self.expected_exits.add(one.process.pid)
        one.kill()

    def _drain_a_runner(self) -> None:
        one = self.random.choice(self.runners)
        self.expected_exits.add(one.process.pid)
        one.signal(signal.SIGTERM)

    def _kill_a_worker(self) -> None:
        if workers := self.random.choice(self.runners).workers():
            self.random.choice(workers).kill()

    def _stop_a_runner(self) -> None:
        self._stop(psutil.Process(self.random.choice(self.runners).process.pid), 1.5 * LEASE)

    def _stop_a_worker(self) -> None:
        if workers := self.random.choice(self.runners).workers():
            self._stop(self.random.choice(workers), 1.0)

    def _stop(self, process: psutil.Process, longest: float) -> None:
        process.suspend()
        # On a thread: this one may come to wait for a lock that the stopped process holds.
        timer = threading.Timer(self.random.uniform(0.05, longest), _continue, (process,))
        timer.start()
        self.timers.append(timer)

    def _restart_the_server(self) -> None:
        assert self.server is not None
        sudden = signal.SIGQUIT if self.server.kind == "postgresql" else signal.SIGKILL
        self.server.restart(self.random.choice([None, sudden]))
        self.restart_at = time.monotonic() + 3.0

    def _add_rows(self) -> None:
        first, count = self.last_key + 1, self.random.randint(10, 60)
        self.last_key += count
        values = ", ".join(f"({key}, 'video {key}', 'PENDING')" for key in range(first, first + count))
        self.site.place.sql(f"INSERT INTO video (id, content, status) VALUES {values}")

    def _delete_rows(self) -> None:
        self.site.place.sql(f"DELETE FROM video WHERE id IN ({self._some_keys(5)})")

    def _set_finished_rows_back(self) -> None:
        self.site.place.sql(
            f"UPDATE video SET status = 'PENDING' WHERE status IN ('DONE', 'FAILED') AND id IN ({self._some_keys(30)})"
        )

    def _set_running_rows_back(self) -> None:
        found = [row[0] for row in self.site.place.sql("SELECT id FROM video WHERE status = 'DOING'")]
        if found:
            keys = ", ".join(map(str, self.random.sample(found, min(3, len(found)))))
            self.site.place.sql(f"UPDATE video SET status = 'PENDING' WHERE status = 'DOING' AND id IN ({keys})")

    def _pause_the_job(self) -> None:
        assert self.site.table is not None
        self.site.table.pause()
        self.paused_until = time.monotonic() + 0.5

    def _some_keys(self, count: int) -> str:
        return ", ".join(str(self.random.randint(1, self.last_key)) for _ in range(count))

    # ---- keeping it going

    def _tidy_up(self, at_the_end: bool = False) -> None:
        if self.paused_until is not None and (time.monotonic() >= self.paused_until or at_the_end):
            assert self.site.table is not None
            self.site.table.resume()
            self.paused_until = None
        self._fill_up()

    def _fill_up(self) -> None:
        for one in [one for one in self.runners if not one.alive]:
            self.runners.remove(one)
            self._judge_exit(one)
        while len(self.runners) < self.size:
            pace = {"lease": LEASE, "grace": 2.0, "halt": 0}
            self.runners.append(self.site.start(seconds=0.003, pace=pace, retry=ENDLESS, forever=True, poll=0.2))

    def _judge_exit(self, one: Running) -> None:
        code = one.process.returncode
        expected = one.process.pid in self.expected_exits
        if expected and code in (0, 3, KILLED_BY_US):
            return
        if expected and code == -signal.SIGTERM and _was_deaf(one):
            return
        if code == 4 and (expected or not one.events("RunStarted")):
            return  # the server was away when it began, or when it was asked to stop
        self.verdict.wrong.append(f"a runner ended by itself with exit code {code}:\n{one.story()}")

    def _settle(self) -> None:
        """Leaves everybody in peace until all rows are done, ends the runners, and checks the books."""
        site, verdict = self.site, self.verdict
        for timer in self.timers:
            timer.join()
        self._tidy_up(at_the_end=True)

        def all_done() -> bool:
            self._fill_up()
            return set(site.statuses()) <= {"DONE"}

        if not self._wait(all_done, SETTLES_IN):
            verdict.wrong.append(f"rows are left: {dict(site.statuses())}\n{self.runners[0].story()}")
        for one in self.runners:
            self.expected_exits.add(one.process.pid)
            one.signal(signal.SIGTERM)
        for one in self.runners:
            code = one.ends_with(30)
            if code != 0 and not (code == -signal.SIGTERM and _was_deaf(one)):
                verdict.wrong.append(f"a runner that was asked to drain ended with {code}:\n{one.story()}")
        try:
            site.check()
        except AssertionError as error:
            verdict.wrong.append(str(error))
        workers = [event["pid"] for one in site.runs for event in one.events("WorkerStarting")]
        if not self._wait(lambda: not any(map(_lives, workers)), 5.0):
            verdict.wrong.append(f"workers outlived their runners: {[pid for pid in workers if _lives(pid)]}")
        verdict.rows = self.last_key
        verdict.claims = int(site.place.value("SELECT coalesce(sum(size), 0) FROM pooltable_video_claims"))

    @staticmethod
    def _wait(condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def _was_deaf(one: Running) -> bool:
    """It was asked to stop before it could listen, or once more when its run had ended: the signal ends it then."""
    return one.told("RunStarted") == one.told("RunEnded")


def _continue(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()


def _lives(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "python" in process.name()
    except psutil.NoSuchProcess:
        return False


@contextmanager
def site_on(database: str, folder: Path) -> Iterator[tuple[Site, Server | None]]:
    """An empty database of that kind. Raises Missing where its server cannot be had."""
    if database == "sqlite":
        with site_at(sqlite_place(folder), folder) as site:
            yield site, None
        return
    with running(STURDY[DATABASES[database]]) as server:
        server.make_empty()
        with site_at(Place(server.kind, server.url), folder) as site:
            yield site, server


def chaos(database: str, folder: Path, *, seconds: float, seed: int, runners: int = 3, rows: int = 500) -> Verdict:
    with site_on(database, folder) as (site, server):
        return Chaos(site, server, seed, runners, rows).run(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="for each database, before it is left in peace")
    parser.add_argument("--seed", type=int, help="chosen and printed when not given")
    parser.add_argument("--database", choices=[*DATABASES, "all"], default="all")
    parser.add_argument("--runners", type=int, default=3)
    parser.add_argument("--rows", type=int, default=500, help="at the beginning")
    parser.add_argument("--quick", action="store_true", help="20 seconds for each database")
    asked = parser.parse_args()
    seed = random.randrange(2**31) if asked.seed is None else asked.seed
    seconds = 20.0 if asked.quick else 60 * asked.minutes
    print(f"seed {seed}", flush=True)
    wrong = False
    for database in DATABASES if asked.database == "all" else [asked.database]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                verdict = chaos(
                    database, Path(folder), seconds=seconds, seed=seed, runners=asked.runners, rows=asked.rows
                )
            except Missing as missing:
                print(f"{database}: not tried, {missing}", file=sys.stderr)
                continue
            print(verdict, flush=True)
            wrong = wrong or bool(verdict.wrong)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
