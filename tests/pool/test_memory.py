"""Sizes of memory, and a pool that starts no more workers than there is memory for."""

from __future__ import annotations

import logging
import mmap
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pooltable import Pool, Workers, cgroups
from pooltable.errors import SettingError
from pooltable.events import Event, WorkersCapped
from pooltable.pool import memory, staff
from pooltable.pool.local import LocalEngine
from tests.pool.conftest import MakePool
from tests.pool.helpers import double, pid_of, until

MIB = 1 << 20
_kept: list[bytes] = []


def load_something_large(path: str) -> None:
    """Takes 100 MiB; all but the first to come wait until the first was ready."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        until(lambda: Path(path + ".go").exists(), 20)
    _kept.append(os.urandom(MIB) * 100)


def test_the_first_workers_size_caps_how_many_there_are(
    pool: MakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(staff, "available_memory", lambda: 130 * MIB)
    with caplog.at_level(logging.WARNING, "pooltable"):
        p = pool(4, load_something_large, (str(tmp_path / "first"),))
        until(lambda: p._engine._floor.ledger.size < 4)
        (tmp_path / "first.go").touch()
        assert p.map(double, range(100), 1) == [2 * number for number in range(100)]
        until(lambda: len(p.stats().workers) == 2)
        until(lambda: p._engine.ready == 2)
    (record,) = [record for record in caplog.records if record.name.startswith("pooltable")]
    assert "2 workers are started and not 4" in record.getMessage()


def test_with_enough_memory_all_workers_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    engine = LocalEngine(3, min_processes=3, listener=events.append)
    engine.start(3)
    until(lambda: engine.ready == 3)
    engine.close()
    assert engine.join(20)
    assert not [event for event in events if isinstance(event, WorkersCapped)]


def own_and_shared(path: str, size: int) -> None:
    """So much for itself, and the file's pages, which another process has as well."""
    with open(path, "r+b") as file:
        _mappings.append(mmap.mmap(file.fileno(), 0))
    for at in range(0, len(_mappings[-1]), mmap.PAGESIZE):
        _mappings[-1][at] = 1
    _kept.append(os.urandom(MIB) * (size // MIB))


_mappings: list[mmap.mmap] = []


def test_memory_that_is_shared_hides_nothing_of_what_a_worker_has_for_itself(pool: MakePool) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.truncate(300 * MIB)
        file.flush()
        with mmap.mmap(file.fileno(), 0) as mapping:
            for at in range(0, len(mapping), mmap.PAGESIZE):
                mapping[at] = 1
            p = pool(1, memory=100 * MIB)
            p.apply(own_and_shared, (file.name, 50 * MIB))
            first = p.apply(pid_of)
            assert p.stats().workers[0].memory < 100 * MIB
            p.apply(own_and_shared, (file.name, 150 * MIB))
            until(lambda: p.apply(pid_of) != first)


def test_a_limit_holds_where_shared_memory_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(path: str) -> str:
        if path.endswith("smaps_rollup"):
            raise PermissionError(path)
        return Path(path).read_text()

    monkeypatch.setattr(memory, "read", hidden)
    size = memory.own_memory(os.getpid())
    assert size is not None
    assert memory.over_limit(os.getpid(), size // 2) is not None
    assert memory.over_limit(os.getpid(), 2 * size) is None


def spoil_imports() -> int:
    sys.path.clear()
    sys.meta_path.clear()
    for name in [name for name in sys.modules if name.startswith("pooltable.")]:
        del sys.modules[name]
    return os.getpid()


def test_a_worker_that_can_import_nothing_any_more_is_weighed_all_the_same(pool: MakePool) -> None:
    p = pool(1, memory="1GB")
    assert p.apply(spoil_imports) == p.apply(pid_of)


@pytest.mark.parametrize(
    ("wanted", "limits"),
    [
        (None, (None, None)),
        (1000, (1000, None)),
        ("4GB", (4 * 10**9, None)),
        ("512MiB", (512 * MIB, None)),
        ((1000, "1.5 GiB"), (1000, 1536 * MIB)),
        ((None, "1G"), (None, 10**9)),
        ("400MB,600MB", (400 * 10**6, 600 * 10**6)),
        (("400MB", "600MB"), (400 * 10**6, 600 * 10**6)),
    ],
)
def test_a_size_is_a_number_of_bytes_or_a_text(wanted: Any, limits: tuple[int | None, int | None]) -> None:
    assert memory.limits_of(wanted) == limits


@pytest.mark.parametrize("wrong", ["lots", "", "4 cats", "-1GB", 0, -1, True, "1.2.3GB", [1], (1, 2, 3), ("1GB", "x")])
def test_what_is_no_size_is_refused_when_the_pool_is_made(wrong: Any) -> None:
    with pytest.raises(ValueError, match="memory must be a size such as"):
        Pool(1, memory=wrong)
    if isinstance(wrong, str) and wrong:
        with pytest.raises(SettingError, match="a size such as 4GB"):
            Workers(memory=wrong)


def test_the_memory_that_is_left_is_that_of_the_tightest_control_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = memory.available_memory()
    assert machine is not None
    assert machine > 0
    group = tmp_path / "outer" / "inner"
    group.mkdir(parents=True)
    for folder, limit in ((group, "max"), (group.parent, str(300 * MIB))):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(f"{250 * MIB}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {20 * MIB}\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/outer/inner\n")
    monkeypatch.setattr(cgroups, "ROOT", str(tmp_path))
    monkeypatch.setattr(cgroups, "OWN", str(own))
    assert memory.available_memory() == 70 * MIB
