"""Runs as separate processes over the table `video` of one database, and what is known of them afterwards.

site = Site(place, folder)
site.fill(100)                          100 PENDING rows; every change of a status is kept in the table `audit`
running = site.start(processes=2)       a process of its own; `running.events()` tells what happened in it
site.check()                            the invariants over rows, entries, the audit, and what the tasks noted
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from pooltable import TaskTable
from pooltable.table.states import MOVES
from tests.on_servers.missions import GATE, NOTES, SECONDS, caption_of
from tests.table.invariants import check_invariants
from tests.table.places import Place

ROOT = Path(__file__).parents[2]

# Every write to a row as (status before, status after); for one row in the order in which they were made.
AUDIT = {
    "sqlite": (
        "CREATE TABLE audit (no INTEGER PRIMARY KEY AUTOINCREMENT, id INTEGER, was TEXT, becomes TEXT)",
        (
            "CREATE TRIGGER audited AFTER UPDATE ON video BEGIN"
            " INSERT INTO audit (id, was, becomes) VALUES (old.id, old.status, new.status); END"
        ),
    ),
    "postgresql": (
        "CREATE TABLE audit (no bigserial PRIMARY KEY, id integer, was text, becomes text)",
        (
            "CREATE FUNCTION audit_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO audit (id, was, becomes) VALUES (old.id, old.status, new.status); RETURN NULL; END $$"
        ),
        "CREATE TRIGGER audited AFTER UPDATE ON video FOR EACH ROW EXECUTE FUNCTION audit_it()",
    ),
    "mariadb": (
        "CREATE TABLE audit (no BIGINT AUTO_INCREMENT PRIMARY KEY, id INTEGER, was VARCHAR(20), becomes VARCHAR(20))",
        (
            "CREATE TRIGGER audited AFTER UPDATE ON video FOR EACH ROW"
            " INSERT INTO audit (id, was, becomes) VALUES (old.id, old.status, new.status)"
        ),
    ),
}
LEGAL = {(before.value.upper(), after.value.upper()) for before, after in MOVES}


class Site:
    """One database with the table `video`, the folder in which its runs leave their traces, and those runs."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.folder = folder
        self.notes_file = folder / "notes"
        self.gate = folder / "gate"
        self.runs: list[Running] = []
        self.table: TaskTable | None = None

    # ---- rows

    def fill(self, count: int, *, audit: bool = True) -> TaskTable:
        self.table = self.place.video(count, write=("caption",))
        self.table.prepare()
        self.table.create_index()
        if audit:
            self.place.script(*AUDIT[self.place.kind])
        return self.table

    def statuses(self) -> Counter[str]:
        return Counter(dict(self.place.sql("SELECT status, count(*) FROM video GROUP BY status")))

    def done(self) -> int:
        return self.statuses()["DONE"]

    # ---- the gate that tasks wait at

    def close_gate(self) -> None:
        self.gate.touch()

    def open_gate(self) -> None:
        self.gate.unlink(missing_ok=True)

    # ---- runs

    def start(
        self,
        *,
        url: str | None = None,
        seconds: float = 0.0,
        pace: dict[str, Any] | None = None,
        retry: dict[str, Any] | None = None,
        **options: Any,
    ) -> Running:
        """`run(...)` in a process of its own; its tasks take so many `seconds`."""
        options.setdefault("processes", 2)
        running = Running(self, url or self.place.url, seconds, pace or {}, retry or {}, options)
        self.runs.append(running)
        return running

    def close(self) -> None:
        self.open_gate()
        for running in self.runs:
            running.close()

    # ---- what tasks noted

    def notes(self) -> list[list[str]]:
        text = self.notes_file.read_text() if self.notes_file.exists() else ""
        return [line.split() for line in text.splitlines()]

    def starts(self) -> list[tuple[int, int]]:
        """(key, attempt) of every time that the task was begun."""
        return [(int(note[1]), int(note[2])) for note in self.notes() if note[0] == "start"]

    def running_tasks(self) -> list[int]:
        """The keys of tasks that were begun and have not ended, in workers that live."""
        open_: dict[tuple[str, ...], int] = {}
        for what, *about in self.notes():
            if what == "start":
                open_[tuple(about)] = int(about[0])
            else:
                open_.pop(tuple(about), None)
        return [key for about, key in open_.items() if psutil.pid_exists(int(about[3]))]

    def overlaps(self) -> list[int]:
        """Keys of rows that ran twice at a time, by the notes' order."""
        busy: Counter[int] = Counter()
        found = []
        for what, key, *_ in self.notes():
            busy[int(key)] += 1 if what == "start" else -1
            if busy[int(key)] > 1:
                found.append(int(key))
        return found

    # ---- what must hold

    def check(self, *, all_done: bool = True) -> None:
        """Raises AssertionError where anything was lost, written twice, or run without a claim."""
        assert self.table is not None
        check_invariants(self.table)
        # A row that begins afresh, after somebody has set it back, counts its attempts from 1 again, in a new round.
        begun = Counter(
            (int(key), round_, int(attempt)) for what, key, attempt, round_, _ in self.notes() if what == "start"
        )
        twice = [claim for claim, count in begun.items() if count > 1]
        assert not twice, f"{len(twice)} claims were run more than once, such as {twice[:5]}"
        # Rows without an entry were claimed once in their round, or given back before they were started.
        entries = self.place.sql(
            "SELECT id, coalesce(attempt, 1), round FROM video LEFT JOIN pooltable_video_entry USING (id)"
        )
        attempts = {key: attempt for key, attempt, _ in entries}
        latest = {key: round_ for key, _, round_ in entries}
        unknown = [
            (key, round_, attempt)
            for key, round_, attempt in begun
            if key in attempts and latest[key] in (None, round_) and attempt > attempts[key]
        ]
        assert not unknown, f"{len(unknown)} runs without a claim, such as {unknown[:5]}"
        self._check_audit(attempts)
        rows = self.place.sql("SELECT id, content, caption FROM video WHERE status = 'DONE'")
        wrong = [row for row in rows if row[2] != caption_of(row[1])]
        assert not wrong, f"DONE without its result: {wrong[:5]}"
        if all_done:
            statuses = self.statuses()
            assert set(statuses) == {"DONE"}, statuses

    def _check_audit(self, attempts: dict[Any, Any]) -> None:
        history: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
        for key, was, becomes in self.place.sql("SELECT id, was, becomes FROM audit ORDER BY no"):
            history[key].append((was, becomes))
        now = dict(self.place.sql("SELECT id, status FROM video"))
        for key, moves in history.items():
            assert not set(moves) - LEGAL, f"row {key}: {moves}"
            afters = [after for _, after in moves]
            assert [before for before, _ in moves] == ["PENDING", *afters[:-1]], f"row {key}: {moves}"
            assert now.get(key, afters[-1]) == afters[-1], f"row {key}: {moves}, but now {now[key]}"
            claims = sum(after == "DOING" for after in afters)
            # A claim that was given back before it was started does not count as an attempt.
            if key in attempts:
                assert claims >= attempts[key], f"row {key}: {claims} claims, attempt {attempts[key]}"


class Running:
    """One run in a process of its own."""

    def __init__(
        self,
        site: Site,
        url: str,
        seconds: float,
        pace: dict[str, Any],
        retry: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        name = f"run-{len(site.runs)}"
        self.journal = site.folder / f"{name}.events"
        self.output = site.folder / f"{name}.output"
        asked = {"url": url, "events": str(self.journal), "pace": pace, "retry": retry, "options": options}
        environment = {NOTES: str(site.notes_file), GATE: str(site.gate), SECONDS: str(seconds)}
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.on_servers.launch", json.dumps(asked)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment},
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def events(self, what: str | None = None) -> list[dict[str, Any]]:
        if not self.journal.exists():
            return []
        # The last line may still be on its way.
        lines = self.journal.read_text().split("\n")[:-1]
        found = [json.loads(line) for line in lines]
        return [event for event in found if what in (None, event["event"])]

    def told(self, what: str, **facts: Any) -> bool:
        """Whether such an event has happened."""
        return any(all(event[name] == value for name, value in facts.items()) for event in self.events(what))

    def workers(self) -> list[psutil.Process]:
        """The worker processes that are ready."""
        ready = [event["pid"] for event in self.events("WorkerReady")]
        gone = {event["pid"] for event in self.events("WorkerEnded")}
        return [psutil.Process(pid) for pid in ready if pid not in gone and psutil.pid_exists(pid)]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def ends_with(self, seconds: float = 25.0) -> int:
        """The exit code, once it has ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {seconds} s:\n{self.story()}") from None

    def story(self) -> str:
        """The end of what it printed and told, for a failure's message."""
        told = [json.dumps(event)[:200] for event in self.events()][-15:]
        return "\n".join([self.output.read_text()[-2000:], *told])

    def close(self) -> None:
        """Ends it if it still runs, and removes what it could not remove itself."""
        if self.alive:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        if self.process.returncode != -signal.SIGKILL:
            return
        # The next run does that, too; but maybe there was none since its workers have ended.
        for folder in Path(tempfile.gettempdir()).glob(f"pooltable-*-{self.process.pid}-*"):
            shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition: Callable[[], Any], seconds: float = 20.0, *, about: Running | None = None) -> Any:
    """What the condition gave, once it gave something; fails when it does not in so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain" + (f":\n{about.story()}" if about else ""))
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def site_at(place: Place, folder: Path) -> Iterator[Site]:
    """A site whose runs are ended, whatever happens."""
    site = Site(place, folder)
    try:
        yield site
    finally:
        site.close()
        place.close()
