"""The other queues: which of them can be had here, and how many jobs a second they do.

A peer runs in its own programs, and three commands are all that is known of it: fill a queue, work on it, tell how
many are done (_peers.py, _graphile.mjs). Its database is one of the sites', a file of its own, or a Redis server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import _peers
from benchmarks._sites import PATIENCE, Site
from tests.servers import Missing, Server, running

PEER_SCRIPT = Path(_peers.__file__)
NODE_SCRIPT = PEER_SCRIPT.with_name("_graphile.mjs")

IN_PYTHON = {
    "pgqueuer": "PostgreSQL",
    "procrastinate": "PostgreSQL",
    "huey": "SQLite",
    "litequeue": "SQLite",
    "celery": "Redis",
    "dramatiq": "Redis",
}


class SyncedRedis(Server):
    """It answers a write when that is in its log and the log is synced, for all that came in meanwhile at once."""

    kind = "redis"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        daemon = shutil.which("redis-server")
        if daemon is None:
            raise Missing("Redis is not here: install redis-server")
        self.daemon = daemon
        self.socket = folder / "socket"

    def command(self) -> list[str]:
        return [
            *(self.daemon, "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "777"),
            *("--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        ]

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def connect(self) -> socket.socket:
        """A connection over which it has answered."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(str(self.socket))
        self._ask(connection, "PING")
        return connection

    def make_empty(self) -> None:
        with self.connect() as connection:
            self._ask(connection, "FLUSHALL")

    def _ask(self, connection: socket.socket, command: str) -> None:
        connection.sendall(f"{command}\r\n".encode())
        answer = connection.recv(4096).decode()
        if not answer.startswith("+"):
            raise ConnectionError(f"{command}: {answer}")


@dataclass
class Place:
    """Where a queue is kept: the kind of database, its URL as the peers want it, and what empties it.

    The version is that of a server which only peers use; the sites tell theirs.
    """

    database: str
    url: str
    make_empty: Callable[[], None]
    version: str = ""


@dataclass
class Peer:
    """Another queue: the program that knows it, how many of it work at once, and where it is kept."""

    name: str
    version: str
    program: list[str]
    at_once: int
    place: Place
    folder: Path

    @property
    def about(self) -> str:
        """The versions, in words."""
        return f"{self.name} {self.version}" + (f" on {self.place.version}" if self.place.version else "")

    def _command(self, role: str, *rest: str) -> list[str]:
        return [*self.program, role, self.place.url, *rest]

    def fill(self, count: int, kind: str) -> None:
        self.place.make_empty()
        subprocess.run(self._command("fill", str(count), kind), check=True, timeout=PATIENCE)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Its workers, while the block runs."""
        log = (self.folder / "peer.log").open("ab")
        programs = [
            subprocess.Popen(self._command("work"), stdout=log, stderr=log, start_new_session=True)
            for _ in range(self.at_once)
        ]
        try:
            yield
        finally:
            for one in programs:
                # With its own children: they are all in its session.
                os.killpg(one.pid, signal.SIGKILL)
                one.wait(10)
            log.close()

    def rate(self, rows: int, kind: str) -> float:
        """From the start of the first job to the first look at which all of them were done."""
        self.fill(rows, kind)
        notes = Path(os.environ["BENCH_NOTES"])
        notes.unlink(missing_ok=True)
        counter = subprocess.Popen(
            self._command("done", str(rows)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert counter.stdin is not None
        assert counter.stdout is not None
        deadline = time.monotonic() + PATIENCE
        try:
            with self.working():
                while True:
                    print(file=counter.stdin, flush=True)
                    count = int(counter.stdout.readline())
                    now = time.time()
                    if count >= rows or time.monotonic() > deadline:
                        break
                    time.sleep(0.05)
        finally:
            counter.kill()
            counter.wait()
        if count < rows:
            print(f"{self.name}: {count} of {rows} after {PATIENCE:g} s", file=sys.stderr)
        return count / (now - min(float(line) for line in notes.read_text().split()))


@contextlib.contextmanager
def peers(python: str | None, node: Path | None, found: dict[str, Site]) -> Iterator[list[Peer]]:
    """Those that an interpreter and a folder of npm have; what cannot be had is left out, and that is said."""
    wanted: list[tuple[str, str, int, list[str]]] = []
    if python is not None:
        for name, database in IN_PYTHON.items():
            wanted.append((name, database, _peers.PEERS[name].programs, [python, str(PEER_SCRIPT), name]))
    if node is not None:
        wanted.append(("graphile-worker", "PostgreSQL", 2, ["node", str(NODE_SCRIPT), str(node.resolve())]))
    with contextlib.ExitStack() as stack:
        places = Places(found, stack)
        had = []
        for name, database, at_once, program in wanted:
            try:
                version = _version(program)
                had.append(Peer(name, version, program, at_once, places.of(name, database), places.folder))
            except Missing as missing:
                print(f"{name} is left out: {missing}", file=sys.stderr)
        yield had


class Places:
    """Finds a place for each queue, and starts Redis for the first that wants it."""

    def __init__(self, found: dict[str, Site], stack: contextlib.ExitStack) -> None:
        self.found, self.stack = found, stack
        self.folder = found["SQLite"].folder
        self.redis: Server | None = None

    def of(self, name: str, database: str) -> Place:
        if database == "SQLite":
            return Place(database, str(self.folder / f"{name}.db"), lambda: self._unlink(f"{name}.db*"))
        if database == "Redis":
            if self.redis is None:
                self.redis = self.stack.enter_context(running(SyncedRedis))
            told = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True, timeout=60)
            version = f"Redis {told.stdout.partition('v=')[2].partition(' ')[0]}"
            return Place(database, self.redis.url, self.redis.make_empty, version)
        if database not in self.found:
            raise Missing(f"{database} is not here")
        server = self.found[database].server
        assert server is not None
        return Place(database, f"postgresql://test@/postgres?host={server.folder}", server.make_empty)

    def _unlink(self, pattern: str) -> None:
        for path in self.folder.glob(pattern):
            path.unlink()


def _version(program: list[str]) -> str:
    """What the peer calls its version; Missing if it is not installed."""
    try:
        done = subprocess.run([*program, "version"], capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        raise Missing(str(error)) from None
    if done.returncode:
        raise Missing(done.stderr.strip().rpartition("\n")[2])
    return done.stdout.strip()
