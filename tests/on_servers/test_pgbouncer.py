"""Runs behind PgBouncer in transaction mode, with fewer connections to the server than there are runners."""

from __future__ import annotations

import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooltable import TaskTable
from tests.on_servers.runs import Site
from tests.servers import Server

SETTINGS = """
[databases]
postgres = host={folder} dbname=postgres user=test

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
logfile =
pidfile =
"""


@pytest.fixture
def bouncer(server: Server) -> Iterator[str]:
    """The URL of the server behind PgBouncer."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not here: install pgbouncer")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = server.folder / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(folder=server.folder, port=port))
    as_user = {} if server.user is None else {"user": server.user, "group": pwd.getpwnam(server.user).pw_gid}
    with (server.folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "--quiet", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=server.folder,
            **as_user,  # type: ignore[call-overload]
        )
    try:
        wait_for_port(port, process, Path(log.name))
        yield f"postgresql+psycopg://test@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


@pytest.mark.parametrize("sturdy", ["postgresql"], indirect=True)
def test_three_runners_share_two_connections_of_pgbouncer_in_transaction_mode(site: Site, bouncer: str) -> None:
    site.fill(300)
    runs = [site.start(url=bouncer, seconds=0.005) for _ in range(3)]
    assert [one.ends_with() for one in runs] == [0, 0, 0]
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 301)}
    site.check()
    # Its checks, too, set nothing for a session.
    assert [one for one in TaskTable(bouncer, "video").findings() if one.level == "error"] == []
