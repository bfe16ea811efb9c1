"""What the pages say about servers and services works: each is done from top to bottom."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pooltable import TaskTable
from tests.docs.blocks import REPOSITORY, Block, assert_printed, blocks_of, run
from tests.on_servers.sturdy import SturdyMariaDB, SturdyPostgreSQL
from tests.servers import Server

HOW_TO = REPOSITORY / "docs" / "how-to"
REASONS = {f"needs a {kind} server, so the tests of the servers run it" for kind in ("PostgreSQL", "MariaDB")}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("sturdy", ["postgresql"], indirect=True)
@pytest.mark.parametrize("page", ["several-machines.md", "deploy-postgresql.md"])
def test_what_the_page_says_works_on_a_server(
    page: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(server, SturdyPostgreSQL)
    for name, value in (("PGHOST", server.folder), ("PGUSER", "test"), ("PGDATABASE", "videos")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PATH", str(server.bin), prepend=":")
    with server.connect() as connection:
        connection.execute("CREATE DATABASE videos")
    try:
        output = None
        for block in blocks_of(HOW_TO / page):
            output = do(block, output, tmp_path)
    finally:
        with server.connect() as connection:
            connection.execute("DROP DATABASE videos WITH (FORCE)")
            connection.execute("DROP ROLE IF EXISTS video_runner")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("sturdy", ["mariadb"], indirect=True)
def test_what_the_page_about_mysql_says_works(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(server, SturdyMariaDB)
    if shutil.which("mariadb") is None:
        pytest.skip("the client mariadb is not here: install mariadb-client")
    url = f"mysql://{{}}@localhost/videos?unix_socket={server.socket}"
    monkeypatch.setenv("OWNER_URL", url.format("root"))
    monkeypatch.setenv("RUNNER_URL", url.format("video_runner:secret"))
    (tmp_path / "my.cnf").write_text(f"[client]\nsocket = {server.socket}\nuser = root\n")
    monkeypatch.setenv("MYSQL_HOME", str(tmp_path))
    connection = server.connect()
    cursor = connection.cursor()
    cursor.execute("CREATE DATABASE videos")
    try:
        output = None
        for block in blocks_of(HOW_TO / "deploy-mysql.md"):
            output = do(block, output, tmp_path)
    finally:
        cursor.execute("DROP DATABASE videos")
        cursor.execute("DROP USER IF EXISTS video_runner@localhost")
        connection.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sturdy", ["postgresql"], indirect=True)
def test_the_migration_of_the_page_makes_the_index_beside_writers(server: Server, tmp_path: Path) -> None:
    with server.connect() as connection:
        connection.execute(
            "CREATE TABLE video (id serial PRIMARY KEY, content text, caption text, facts json, status text)"
        )
    titled = {block.title: block.text for block in blocks_of(HOW_TO / "sqlalchemy.md") if block.title}
    for title, text in titled.items():
        target = tmp_path / title
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace('"sqlite:///videos.db"', repr(server.url)))
    program = [sys.executable, "-m", "alembic", "upgrade", "head"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    with server.connect() as connection:
        found = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'pooltable_video_claim'"
        ).fetchall()
    assert len(found) == 1
    assert TaskTable(server.url, "video").look().index_sql is None


def do(block: Block, output: str | None, folder: Path) -> str | None:
    if block.title is not None:
        (folder / block.title).write_text(block.text)
    elif block.orders.get("not run") in REASONS:
        return run(replace(block, orders={}), folder)
    elif block.language == "text" and output is not None:
        assert_printed(block, output)
    return None


@pytest.mark.parametrize("page", ["deploy-systemd.md", "service.md"])
def test_the_unit_of_the_page_is_right_for_systemd(page: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: install systemd")
    (block,) = [block for block in blocks_of(HOW_TO / page) if str(block.title).endswith(".service")]
    # Where the page's own program is, only the reader knows.
    lines = ["ExecStart=/usr/bin/env" if line.startswith("ExecStart=") else line for line in block.text.splitlines()]
    unit = tmp_path / str(block.title)
    unit.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
