"""A table of videos in a SQLite file, looked at with nothing but sqlite3, and what is remembered of its
rows; and a run over it in a process of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pooltable import TaskTable
from tests.prepared import Prepared
from tests.runner.missions import notes

ROOT = Path(__file__).parents[2]


class Videos:
    """The table `video(id, content, status, caption)` in a file, looked at with nothing but sqlite3."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "videos.db"
        self.url = f"sqlite:///{self.path}"
        self.sql("CREATE TABLE video(id INTEGER PRIMARY KEY, content TEXT, status TEXT, caption TEXT)")
        self.sql("PRAGMA journal_mode=WAL")

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def add(self, *contents: object) -> None:
        connection = sqlite3.connect(self.path, timeout=30)
        with connection:
            connection.executemany(
                "INSERT INTO video(content, status) VALUES(?, 'PENDING')", [(str(content),) for content in contents]
            )
        connection.close()

    def statuses(self) -> dict[str, int]:
        return dict(self.sql("SELECT status, count(*) FROM video GROUP BY status"))  # type: ignore[arg-type]

    def status(self, key: int) -> str:
        return str(self.sql("SELECT status FROM video WHERE id=?", key)[0][0])

    def entry(self, key: int) -> dict[str, Any]:
        found = TaskTable(self.url, "video").entry(key)
        return {} if found is None else asdict(found)

    def attempts(self) -> list[int]:
        """The attempt of each row, in the order of keys."""
        return [self.entry(key)["attempt"] for (key,) in self.sql("SELECT id FROM video ORDER BY id")]

    def held(self) -> int:
        """How many rows claims hold."""
        return int(self.sql("SELECT coalesce(sum(left_open), 0) FROM pooltable_video_claims")[0][0])

    def notes(self) -> list[str]:
        """What tasks have noted; its lines are whole, whoever writes."""
        return notes().read_text().splitlines() if notes().exists() else []


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for a condition and return what it gave; a test that waits in vain fails here."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.01)
    return found


def start_fresh(arguments: list[str], folder: Path, environment: dict[str, str], **options: Any) -> Any:
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, **options)


class Service:
    """`run(...)` in a process of its own."""

    def __init__(self, videos: Videos, task: str, options: str, prepared: Prepared | None = None) -> None:
        self.videos = videos
        function = task if "." in task else f"m.{task}"
        script = (
            "import sys\n"
            "from pooltable import Pace, Retry, TaskTable, Workers, run\n"
            "from tests.runner import hostile, missions as m\n"
            "if __name__ == '__main__':\n"
            "    sys.stdout.reconfigure(line_buffering=True)\n"
            f"    table = TaskTable({videos.url!r}, 'video', write=('caption',))\n"
            f"    summary = run({function}, table, {options})\n"
            "    print(summary, flush=True)\n"
            "    sys.exit(summary.exit_code)\n"
        )
        self.script = videos.folder / f"service{time.monotonic_ns()}.py"
        self.script.write_text(script)
        self.out = open(videos.folder / "service.out", "ab")  # noqa: SIM115
        start = prepared.start if prepared else start_fresh
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        self.process = start(
            [str(self.script)], ROOT, environment, stdout=self.out, stderr=self.out, start_new_session=True
        )

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        return self.process.wait(seconds)

    def text(self) -> str:
        return (self.videos.folder / "service.out").read_text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.out.close()
