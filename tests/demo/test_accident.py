"""The killer kills the worker that waits for it, once, and nobody else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from pooltable.demo import accident
from pooltable.events import WorkerEnded, WorkerReady


@pytest.fixture
def process():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def notice(folder, pid, attempt=1):
    accident._write(accident._notice(folder), accident.Kill(accident.ROW, attempt, pid))


def test_the_worker_that_says_it_is_in_the_middle_is_killed_and_that_is_noted(tmp_path, process):
    with accident.Killer(tmp_path) as killer:
        killer(WorkerReady(0, process.pid, 1.0))
        notice(tmp_path, process.pid, attempt=3)
        assert process.wait(10) == -signal.SIGKILL
    assert accident.kill_in(tmp_path) == accident.Kill(accident.ROW, 3, process.pid)


@pytest.mark.parametrize("ended", [False, True], ids=["never ours", "ours no more"])
def test_a_notice_that_was_left_over_kills_nobody(tmp_path, process, ended):
    notice(tmp_path, process.pid)
    killer = accident.Killer(tmp_path)
    if ended:
        killer(WorkerReady(0, process.pid, 1.0))
        killer(WorkerEnded(0, process.pid, 0, "stopped"))
    with killer:
        time.sleep(5 * accident.LOOK_EVERY)
    assert process.poll() is None
    assert accident.kill_in(tmp_path) is None


def test_one_kill_is_enough_for_a_folder(tmp_path, process):
    accident._write(tmp_path / "killed.json", accident.Kill(accident.ROW, 1, 1))
    notice(tmp_path, process.pid)
    with accident.Killer(tmp_path) as killer:
        killer(WorkerReady(0, process.pid, 1.0))
        killer._thread.join(10)
        assert not killer._thread.is_alive()
    assert process.poll() is None
