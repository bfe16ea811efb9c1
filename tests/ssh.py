"""An ssh server on the loopback interface, for this user and with keys of its own; nothing of the system's is used."""

from __future__ import annotations

import getpass
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def find_sshd() -> str | None:
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


class Server:
    """`ssh` calls it: the hosts web1, web2 and so on are all this machine; `nobody` is refused, `away` is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.ssh = f"ssh -F {shlex.quote(str(folder / 'client'))}"
        for name in ("host", "user", "stranger"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True, timeout=20)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}")
        (folder / "server").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized\nPidFile {folder}/pid\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication yes\nPermitRootLogin yes\nMaxStartups 100\n"
        )
        common = (
            f"  HostName 127.0.0.1\n  User {getpass.getuser()}\n  UserKnownHostsFile {folder}/known\n"
            "  GlobalKnownHostsFile none\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        )
        (folder / "client").write_text(
            f"Host web*\n{common}  Port {self.port}\n  IdentityFile {folder}/user\n"
            f"Host nobody\n{common}  Port {self.port}\n  IdentityFile {folder}/stranger\n"
            f"Host unknown\n  UserKnownHostsFile none\n{common}  Port {self.port}\n  IdentityFile {folder}/user\n"
            f"Host away\n{common}  Port {_free_port()}\n"
        )
        sshd = find_sshd()
        assert sshd is not None
        if Path("/run").is_dir() and getpass.getuser() == "root":
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it locks itself in; absent while no service runs
        with (folder / "log").open("wb") as log:
            command = [sshd, "-D", "-e", "-f", str(folder / "server")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A running server; the test is skipped, and says so, where there is none to run."""
    if find_sshd() is None or shutil.which("ssh") is None:
        pytest.skip("NO SSH SERVER HERE: install openssh-server to run this test")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    running = Server(folder)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
