"""What the pages say about servers and services works: each is done from top to bottom."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.docs.blocks import REPOSITORY, Block, assert_printed, blocks_of, run
from tests.on_servers.sturdy import SturdyPostgreSQL
from tests.servers import Server

HOW_TO = REPOSITORY / "docs" / "how-to"
REASON = "needs a PostgreSQL server, so the tests of the servers run it"


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


def do(block: Block, output: str | None, folder: Path) -> str | None:
    if block.title is not None:
        (folder / block.title).write_text(block.text)
    elif block.orders.get("not run") == REASON:
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
