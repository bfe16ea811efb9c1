"""Kills one worker with SIGKILL in the middle of one row, once in the life of a folder.

    worker                                          the demonstration
    decode the clip
    "I am in the middle"  --- the notice, a file -->  notes which attempt it kills, then os.kill(pid, SIGKILL)
    wait for what comes

The row waits for its killer, so nothing depends on timing. Once the kill is noted, no later attempt waits: the row goes
through on the attempt after it, whatever becomes of the runner meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pooltable.demo import mission
from pooltable.events import Event, WorkerEnded, WorkerReady

ROW = 7  # whose worker is killed
PATIENCE = 30.0  # seconds that the row waits for its killer, so that it ends even when there is none
LOOK_EVERY = 0.02

_folder: Path | None = None


@dataclass(frozen=True)
class Kill:
    """The worker `pid` was killed while it ran `row` for the `attempt`-th time."""

    row: int
    attempt: int
    pid: int


def kill_in(folder: Path) -> Kill | None:
    """The kill that happened in this folder, in this run or an earlier one."""
    return _read(folder / "killed.json")


def _read(path: Path) -> Kill | None:
    try:
        return Kill(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def _write(path: Path, kill: Kill) -> None:
    # By renaming: who reads it finds all of it or nothing.
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(json.dumps(asdict(kill)))
    os.replace(part, path)


# ---- in the worker


def load_model(folder: str, threads: int = 1) -> None:
    """The initializer of the workers: the model, and where the notice goes."""
    global _folder
    _folder = Path(folder)
    mission.load_model(threads)


def mission_with_accident(row: tuple[int, str]) -> str:
    """The mission, except that one row's worker is killed between decoding and reading."""
    number, content = row
    pictures = mission.frames(content)
    if number == ROW and _folder is not None and kill_in(_folder) is None:
        _wait_for_the_killer(_folder)
    return mission.captions(pictures)


def _wait_for_the_killer(folder: Path) -> None:
    from pooltable import current

    _write(_notice(folder), Kill(ROW, current().attempt, os.getpid()))
    time.sleep(PATIENCE)
    raise RuntimeError(f"nobody killed this worker within {PATIENCE:g} s")


def _notice(folder: Path) -> Path:
    return folder / "in-the-middle.json"


# ---- in the demonstration


class Killer:
    """Kills the worker that waits for it; a context manager around the run, and a listener of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._workers: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pooltable-demo-killer", daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __call__(self, event: Event) -> None:
        match event:
            case WorkerReady(pid=pid):
                self._workers.add(pid)
            case WorkerEnded(pid=pid):
                self._workers.discard(pid)

    def _watch(self) -> None:
        while kill_in(self._folder) is None and not self._over.wait(LOOK_EVERY):
            notice = _read(_notice(self._folder))
            # A notice may be left over from a run that is gone, and its number may be anybody's by now.
            if notice is not None and notice.pid in self._workers:
                _write(self._folder / "killed.json", notice)
                os.kill(notice.pid, signal.SIGKILL)
