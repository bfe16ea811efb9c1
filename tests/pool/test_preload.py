"""Modules that are imported once, in a fork server, for all workers of a pool."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from pooltable import Pool, PoolExecutor, SettingError, TaskTable, Workers, WorkerStartError, run
from tests.pool.helpers import alive, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork server")

HEAVY = """
import os
with open({told!r}, "a") as file:
    print(os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ.get("FLAVOUR"), file=file)
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which the module `heavy` writes whenever it is imported somewhere."""
    path = tmp_path / "told"
    (tmp_path / "heavy.py").write_text(HEAVY.format(told=str(path)))
    monkeypatch.syspath_prepend(str(tmp_path))
    return path


def origin() -> tuple[int, bool]:
    return os.getppid(), "heavy" in sys.modules


def test_modules_are_imported_once_after_the_thread_variables_and_end_with_the_last_pool(told: Path) -> None:
    with Pool(2, threads=3, preload=["heavy"], context="forkserver") as first:
        assert {imported for _, imported in first.starmap(origin, [()] * 8, 1)} == {True}
        server = int(told.read_text().split()[0])
        assert told.read_text() == f"{server} 3 None\n"
        with PoolExecutor(2, threads=3, preload="heavy", mp_context="forkserver") as second:
            assert second.submit(origin).result(20) == (server, True)
        assert alive(server)
        assert first.apply(origin) == (server, True)
    first.join()
    until(lambda: not alive(server))
    assert len(told.read_text().splitlines()) == 1


def test_each_environment_has_its_own_fork_server(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = []
    pools = []
    for flavour in ("sweet", "sour"):
        monkeypatch.setenv("FLAVOUR", flavour)
        pools.append(Pool(1, preload="heavy", context="forkserver"))
        servers.append(pools[-1].apply(origin)[0])
    assert [line.split()[2] for line in told.read_text().splitlines()] == ["sweet", "sour"]
    assert len(set(servers)) == 2
    for pool in pools:
        pool.close()
        pool.join()
    until(lambda: not any(map(alive, servers)))


def test_a_fork_server_ends_with_a_pool_that_is_dropped_or_whose_workers_cannot_start(tmp_path: Path) -> None:
    pool = Pool(2, preload="os.path,no_such_module", context="forkserver")
    server = pool._engine._floor.staff._birth.server
    pid = server._forkserver_pid
    with pytest.raises(WorkerStartError, match="preload cannot import no_such_module: ModuleNotFoundError"):
        pool.apply(origin)
    pool.close()
    del pool
    until(lambda: not alive(pid))


@pytest.mark.parametrize("with_devices", [True, False])
def test_a_device_that_a_module_has_started_is_refused_beside_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_devices: bool
) -> None:
    (tmp_path / "torch.py").write_text("class cuda:\n    is_initialized = staticmethod(lambda: True)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Pool(1, preload="torch", devices="cpu" if with_devices else None, context="forkserver") as pool:
        if with_devices:
            with pytest.raises(WorkerStartError, match="has started a CUDA device, which then works in no worker"):
                pool.apply(origin)
        else:
            pool.apply(origin)
    pool.join()


def test_preload_is_refused_where_it_cannot_work() -> None:
    for method in ("spawn", "fork"):
        with pytest.raises(ValueError, match="preload needs the start method forkserver"):
            Pool(1, preload="os", context=method)
    for name in ("no such", "a-b", "os;sys", "__main__", ""):
        with pytest.raises(ValueError, match="preload"):
            Pool(1, preload=name, context="forkserver")


def mission(row: Any) -> str:
    return f"{os.getppid()} {'heavy' in sys.modules}"


def test_a_run_over_a_table_can_preload(told: Path, tmp_path: Path) -> None:
    database = tmp_path / "rows.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE video (id INTEGER PRIMARY KEY, status TEXT DEFAULT 'PENDING', said TEXT)")
        connection.executemany("INSERT INTO video (id) VALUES (?)", [(number,) for number in range(20)])
    workers = Workers(preload="heavy", context="forkserver", threads=1)
    summary = run(mission, TaskTable(f"sqlite:///{database}", "video", write=("said",)), processes=2, workers=workers)
    assert summary.done == 20
    with sqlite3.connect(database) as connection:
        said = {text for (text,) in connection.execute("SELECT said FROM video")}
    connection.close()
    server = int(told.read_text().split()[0])
    assert said == {f"{server} True"}
    assert not alive(server)
    with pytest.raises(SettingError, match="preload needs the start method forkserver"):
        run(mission, TaskTable(f"sqlite:///{database}", "video"), workers=Workers(preload="heavy", context="spawn"))
