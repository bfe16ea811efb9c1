"""`pooltable map --hosts`: the command on hosts, through the system's ssh and a real server on the loopback."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands_on_rows import gone, until
from tests.ssh import Server, server


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def on_hosts(folder: Any, sshd: Server, hosts: str, *arguments: str) -> Any:
    (folder.path / "hosts.txt").write_text(hosts)
    return folder.run("map", "--ssh", sshd.ssh, "--hosts", "hosts.txt", *arguments)


def test_the_command_runs_on_each_host_and_only_where_it_is_left(folder: Any, sshd: Server) -> None:
    command = ["-k", "--tag", "sh", "-c", "echo on ${SSH_CONNECTION:+another}; pwd; echo $POOLTABLE_ROW_ATTEMPT"]
    hosts = "web1  # the first\n\n# none\nweb2\n:\nweb1\n"
    done = on_hosts(folder, sshd, hosts, *command)
    assert done.returncode == 0, done.stderr
    there = str(Path.home())
    assert done.stdout.splitlines() == [
        *(f"web1\t{line}" for line in ("on another", there, "1")),
        *(f"web2\t{line}" for line in ("on another", there, "1")),
        *(f":\t{line}" for line in ("on", str(folder.path), "1")),
    ]
    again = on_hosts(folder, sshd, hosts + "web3\n", *command)
    assert [line.split("\t")[0] for line in again.stdout.splitlines()] == ["web3"] * 3


def test_arguments_are_quoted_for_the_shell_there(folder: Any, sshd: Server) -> None:
    hostile = ["a b", "$(touch pwned)", "`touch pwned`", "'; touch pwned #", 'x"y', "one\ntwo", "*", "~", "", "é"]
    script = "import sys, json; print(json.dumps(sys.argv[1:]))"
    done = on_hosts(folder, sshd, "web1\n", "-k", "python3", "-c", script, "{}", "$HOME", ":::", *hostile)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[text, "$HOME"] for text in hostile]
    assert not (Path.home() / "pwned").exists()

    shell = on_hosts(folder, sshd, "web1\n", "-k", "--shell", "printf '%s; ' {} | cat; echo", ":::", *hostile[:4])
    assert shell.stdout.splitlines() == [f"{text}; " for text in hostile[:4]]


def test_a_host_that_cannot_be_used_fails_by_name_and_the_others_go_on(folder: Any, sshd: Server) -> None:
    began = time.monotonic()
    done = on_hosts(folder, sshd, "away\nnobody\nweb1\nunknown\n", "--joblog", "log", "sh", "-c", "echo out; exit 3")
    assert time.monotonic() - began < 40
    assert done.returncode == 1
    assert done.stdout == "out\n"
    told = [line for line in done.stderr.splitlines() if line.startswith("pooltable: ")]
    for host, words in {
        "away": "Connection refused",
        "nobody": "Permission denied",
        "unknown": "Host key verification failed",
        "web1": "exit status 3",
    }.items():
        (line,) = [line for line in told if f" {host}: " in line]
        assert words in line
        assert ("ssh failed" in line) == (host != "web1")
    codes = {line.split("\t")[1]: line.split("\t")[6] for line in (folder.path / "log").read_text().splitlines()[1:]}
    assert codes == {"away": "255", "nobody": "255", "unknown": "255", "web1": "3"}


def test_what_runs_on_a_host_ends_at_the_time_limit(folder: Any, sshd: Server) -> None:
    pid = folder.path / "pid"
    script = f"sleep 87.5 & echo $! > {pid}; echo begun; sleep 87.5"
    done = on_hosts(folder, sshd, "web1\n", "--timeout", "2", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (1, "begun\n"), done.stderr
    assert gone(int(pid.read_text()))


def test_what_runs_on_a_host_ends_with_a_killed_run(folder: Any, sshd: Server) -> None:
    pid = folder.path / "pid"
    (folder.path / "hosts.txt").write_text("web1\n")
    script = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 87.5"
    process = folder.start("map", "--ssh", sshd.ssh, "--hosts", "hosts.txt", "sh", "-c", script)
    until(pid.exists)
    process.kill()
    process.communicate(timeout=20)
    assert gone(int(pid.read_text()))
    folder.run("map", "true", ":::", "a")  # the next run of any kind removes what a killed one left in its folder


@pytest.mark.parametrize("line", ["-oProxyCommand=touch pwned", "web1 web2", "we\x07b"])
def test_a_line_that_is_no_host_is_refused(folder: Any, line: str) -> None:
    (folder.path / "hosts.txt").write_text(f"web1\n{line}\n")
    done = folder.run("map", "--hosts", "hosts.txt", "uptime")
    assert done.returncode == 2
    assert "line 2" in done.line
    assert not (folder.path / "pwned").exists()
