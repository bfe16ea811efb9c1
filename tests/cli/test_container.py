"""As process 1 of a PID namespace, which is what the command of a container is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.docs.blocks import REPOSITORY, blocks_of

PAGE = REPOSITORY / "docs" / "how-to" / "deploy-container.md"
APP = """
import os, subprocess, time

def leaves_an_orphan(row):
    subprocess.Popen(["sh", "-c", "(sleep 0.2; touch gone) &"], start_new_session=True).wait()

def slow(row):
    open("slow", "w").close()
    time.sleep(60)
"""
ALONE = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, timeout=20).returncode == 0


@pytest.fixture
def start(hosts: Any) -> Iterator[Callable[..., psutil.Process]]:
    """Starts `pooltable ARGUMENTS` as process 1 of a namespace; what it gives is that process, seen from outside."""
    if not may_unshare():
        pytest.skip("a PID namespace may not be made here: run as root, or allow user namespaces")
    (hosts.path / "app.py").write_text(APP)
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> psutil.Process:
        command = [*ALONE, sys.executable, "-m", "pooltable", *arguments]
        started.append(subprocess.Popen(command, cwd=hosts.path, stdin=subprocess.DEVNULL))
        outside = psutil.Process(started[0].pid)
        wait_until(outside.children)
        return outside.children()[0]

    start.ended = lambda: started[0].wait(30)  # type: ignore[attr-defined]
    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_what_tasks_leave_behind_is_waited_for_and_sigterm_drains(hosts: Any, start: Any) -> None:
    first = start("run", "app:leaves_an_orphan", "--forever", "--quiet")
    wait_until((hosts.path / "gone").exists)
    wait_until(lambda: hosts.sql("SELECT count(*) FROM host WHERE status = 'DONE'") == [(4,)])
    wait_until(
        lambda: (
            not [one for one in first.children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]
            and len(first.children()) == 1
        )
    )
    first.send_signal(signal.SIGTERM)
    assert start.ended() == 0


def test_rows_that_outlast_the_grace_wait_again(hosts: Any, start: Any) -> None:
    first = start("run", "app:slow", "--forever", "--quiet", "--grace", "0.2")
    wait_until((hosts.path / "slow").exists)
    first.send_signal(signal.SIGTERM)
    assert start.ended() == 3, "stopped with work left"
    assert hosts.sql("SELECT DISTINCT status FROM host") == [("PENDING",)]


def test_the_exit_code_is_that_of_the_command(start: Any) -> None:
    start("run", "app:nowhere")
    assert start.ended() == 2


def test_the_files_for_a_container_say_the_same_times(tmp_path: Any) -> None:
    files = {block.title: block.text for block in blocks_of(PAGE)}
    grace = int(re.search(r'"--grace", "(\d+)"', files["Dockerfile"])[1])  # type: ignore[index]
    period = int(re.search(r"stop_grace_period: (\d+)s", files["compose.yaml"])[1])  # type: ignore[index]
    assert period > grace
    (tmp_path / "pooltable.toml").write_text(files["pooltable.toml"])
    done = subprocess.run(
        [sys.executable, "-m", "pooltable", "config", "--json"],
        cwd=tmp_path,
        env={**os.environ, "DATABASE_URL": "postgresql://me@db/videos"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout)["table"] == {"value": "video", "from": "pooltable.toml"}
