"""What a worker finds in its environment: that of the program when the pool was made, its threads, its device."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pooltable import Pool, SettingError, Workers
from pooltable.pool import devices
from tests.pool.calls import of_this_worker, seen_at_import, variable, variable_of_a_child, where
from tests.pool.conftest import MakePool
from tests.pool.helpers import exit_with


def test_workers_have_the_environment_of_when_their_pool_was_made(
    pool: MakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "asks_at_import.py").write_text("import os\nSEEN = os.environ.get('TOKEN'), os.environ.get('OLD')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OLD", "old")
    monkeypatch.setenv("TOKEN", "first")
    first = pool(1)
    monkeypatch.setenv("TOKEN", "second")
    monkeypatch.delenv("OLD")
    second = pool(1)
    assert first.map(variable, ["TOKEN", "OLD"]) == ["first", "old"]
    assert second.map(variable, ["TOKEN", "OLD"]) == ["second", None]
    assert second.apply(variable_of_a_child, ("TOKEN",)) == "second"
    assert second.apply(seen_at_import, ("asks_at_import",)) == ("second", None)
    # Who takes the place of a worker has what that one had.
    monkeypatch.setenv("TOKEN", "third")
    with pytest.raises(Exception, match="exit code 3"):
        first.apply(exit_with, (3,))
    assert first.map(variable, ["TOKEN", "OLD"]) == ["first", "old"]


def test_workers_look_for_modules_where_the_program_does(
    pool: MakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "only_here.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    p = pool(1)
    assert p.apply(where, ("only_here",)) == str(tmp_path / "only_here.py")
    assert p.apply(variable_of_a_child, ("PYTHONPATH",)) == str(tmp_path)


# ---- threads

LIBRARY = """
told = []

def {name}(threads):
    told.append(threads)
"""
_TELL = {"torch": "set_num_threads", "cv2": "setNumThreads", "threadpoolctl": "threadpool_limits"}


def import_libraries() -> None:
    for library in _TELL:
        sys.modules.pop(library, None)  # with fork, what other tests have imported is there already
        __import__(library)


def told_to_libraries() -> list[list[int]]:
    return [sys.modules[library].told for library in _TELL]


def test_libraries_are_told_their_threads_after_the_initializer(
    pool: MakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for library, name in _TELL.items():
        (tmp_path / f"{library}.py").write_text(LIBRARY.format(name=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert pool(1, import_libraries, threads=3).apply(told_to_libraries) == [[3], [3], [3]]


# ---- devices


def test_each_worker_sees_one_device_of_those_that_the_program_sees(
    pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-0815,7")
    p = pool(3, devices="cuda:1,cuda:2,cpu")
    assert {tuple(one) for one in p.starmap(of_this_worker, [()] * 60, 1)} <= {
        ("GPU-0815", "cuda:0"),
        ("7", "cuda:0"),
        ("", "cpu"),
    }
    assert {worker.index for worker in p.stats().workers} == {0, 1, 2}


def test_auto_is_every_device_and_as_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,-1,5")
    with Pool(devices="auto", context="spawn") as pool:
        assert len(pool._pool) == 2
        assert set(pool.starmap(of_this_worker, [()] * 20, 1)) <= {("2", "cuda:0"), ("3", "cuda:0")}
    pool.join()
    assert Workers(devices="auto").count() == 2
    with pytest.raises(SettingError, match="there are cuda:0, cuda:1"):
        Workers(devices="cuda:2").count()


@pytest.mark.parametrize(
    ("count", "wanted", "words"),
    [
        (0, "auto", "finds no CUDA device on this machine"),
        (0, "cuda", "no device 'cuda' on this machine: there is none"),
        (2, "cuda:0,cuda:2", "no device 'cuda:2' on this machine: there are cuda:0, cuda:1"),
        (1, ["cuda:1"], "no device 'cuda:1' on this machine: there is only cuda:0"),
        (1, "CUDA 0", "a device is named like"),
        (1, "", "must name devices"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, count: int, wanted: Any, words: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_count", lambda: count)
    with pytest.raises(ValueError, match=words):
        Pool(1, devices=wanted)


def test_devices_are_counted_by_their_nodes_or_else_by_the_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nodes = ["nvidiactl", "nvidia3", "nvidia-uvm", "null", "nvidia7"]
    monkeypatch.setattr(devices.os, "listdir", lambda _: nodes)
    assert devices.cuda_devices() == ["0", "1"]
    nodes.clear()
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'GPU 0: one'\n")
    command.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert devices.cuda_devices() == ["0"]
    command.write_text("#!/bin/sh\nexit 9\n")
    assert devices.cuda_devices() == []
