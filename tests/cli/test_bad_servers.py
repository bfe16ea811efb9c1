"""Mistakes with database servers: one line on stderr with the remedy, and nothing is claimed."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from pooltable import TaskTable
from pooltable.errors import DatabaseError
from tests.servers import Server, mariadb_server as mariadb_server, postgresql_server as postgresql_server
from tests.table.places import Place


@pytest.fixture(params=["postgresql", "mariadb"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A server with the table `video`, and a role `guest` that may read it and no more."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    server.make_empty()
    place = Place(server.kind, server.url)
    place.video(3)
    on_postgresql = server.kind == "postgresql"
    if on_postgresql:
        place.script(
            "CREATE ROLE guest LOGIN", "GRANT USAGE ON SCHEMA public TO guest", "GRANT SELECT ON video TO guest"
        )
    else:
        place.script("CREATE USER guest@localhost IDENTIFIED BY 'pw'", "GRANT SELECT ON video TO guest@localhost")
    yield place
    place.script(*(["DROP OWNED BY guest", "DROP ROLE guest"] if on_postgresql else ["DROP USER guest@localhost"]))
    place.close()


def url(place: Place, user: str = "guest", password: str = "pw") -> str:
    return place.engine.url.set(username=user, password=password).render_as_string(hide_password=False)


def refused(folder: Any, place: Place, *arguments: str) -> tuple[int, str]:
    done = folder.run(*arguments, "--table", "video")
    assert set(place.statuses().values()) == {"PENDING"}
    return done.returncode, done.line


def test_a_role_without_rights_is_told_what_to_do_before_anything_is_claimed(folder: Any, place: Place) -> None:
    run = ("run", "app:mission", "--quiet", "--write", "caption", "--db", url(place))
    code, line = refused(folder, place, *run)
    assert (code, "pooltable init --print" in line) == (4, True), line
    place.table("video").prepare()
    role = "guest" if place.kind == "postgresql" else "guest@localhost"
    for name in ("job", "runner", "video_claims", "video_entry"):
        place.script(f"GRANT SELECT, INSERT, UPDATE, DELETE ON pooltable_{name} TO {role}")
    place.script(f"GRANT UPDATE (status) ON video TO {role}")
    code, line = refused(folder, place, *run)
    assert (code, "pooltable doctor" in line) == (4, True), line
    doctor = folder.run("doctor", "--table", "video", "--write", "caption", "--db", url(place)).stdout
    (remedy,) = [line.partition(" -> ")[2] for line in doctor.splitlines() if line.startswith("error")]
    place.script(remedy)
    assert folder.run(*run[:3], "--write", "caption", "--db", url(place), "--table", "video").returncode == 1
    assert set(place.statuses().values()) == {"FAILED"}, "the task wants a column that is not there"


def test_a_server_that_takes_no_writes_is_named(folder: Any, place: Place) -> None:
    place.table("video").prepare()
    place.script(
        "ALTER ROLE guest SET default_transaction_read_only = on"
        if place.kind == "postgresql"
        else "SET GLOBAL read_only = 1"
    )
    try:
        if place.kind == "postgresql":
            place.script("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
        else:
            place.script("GRANT ALL ON test.* TO guest@localhost")
        code, line = refused(folder, place, "run", "app:mission", "--quiet", "--db", url(place))
        assert (code, "takes no writes" in line, "pooltable doctor" in line) == (4, True, True), line
        assert "error    read only" in folder.run("doctor", "--table", "video", "--db", url(place)).stdout
    finally:
        if place.kind == "mariadb":
            place.script("SET GLOBAL read_only = 0")


def test_who_is_refused_by_the_server_is_told_so_without_a_password(folder: Any, place: Place) -> None:
    # The PostgreSQL of the tests trusts everybody that it knows.
    who = url(place, "nobody", "s3cret") if place.kind == "postgresql" else url(place, password="s3cret")
    code, line = refused(folder, place, "status", "--db", who)
    assert (code, "right user, password and database" in line, "s3cret" in line) == (4, True, False), line


@pytest.mark.parametrize("password", ["e", "p@:/#s"])
def test_a_password_is_never_shown_and_nothing_else_is_changed(folder: Any, place: Place, password: str) -> None:
    if place.kind == "mariadb":
        place.script(f"ALTER USER guest@localhost IDENTIFIED BY '{password}'", "GRANT ALL ON *.* TO guest@localhost")
    else:
        place.script("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest", "GRANT ALL ON SCHEMA public TO guest")
    right = url(place, password=password)
    done = folder.run("init", "--db", right, "--table", "video", "--write", "caption", "--job", password)
    assert (done.returncode, done.stderr, right in done.stdout) == (0, "", False)
    assert "guest:***@" in done.stdout
    assert f"pooltable's own tables are ready for job {password}\n" in done.stdout
    assert right not in (folder.path / "pooltable.toml").read_text()
    folder.environment["DATABASE_URL"] = right
    (folder.path / "app.py").write_text("def picky(row):\n    raise ValueError('the app crashes: ' + row.content)\n")
    ran = folder.run("run", "app:picky", "-p", "1")
    assert (ran.returncode, right in ran.stderr) == (1, False), ran.stderr
    assert "ValueError: the app crashes: video 1" in ran.stderr
    found = json.loads(folder.run("status", "--json").stdout)
    assert (found["job"], found["table"], found["failed"]) == (password, "video", 3)


@pytest.mark.parametrize("password", ["e", "app", "p@:/#s"])
def test_a_traceback_of_a_refused_connection_has_no_password(place: Place, password: str) -> None:
    who = url(place, "nobody", password)
    with pytest.raises(DatabaseError) as refused:
        TaskTable(who, "video").prepare()
    text = "".join(traceback.format_exception(refused.value))
    written = who.partition("//nobody:")[2].partition("@")[0]
    assert f"nobody:{written}@" not in text
    assert f"password={written}" not in text
    assert len(password) < 6 or password not in text


@pytest.mark.parametrize("database, extra", [("postgresql", "postgres"), ("mysql", "mysql"), ("mariadb", "mysql")])
def test_a_database_without_its_driver_says_what_to_install(tmp_path: Any, database: str, extra: str) -> None:
    script = (
        "import sys; sys.modules['psycopg'] = sys.modules['pymysql'] = None; from pooltable.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "status", "--db", f"{database}://me:s3cret@host/shop", "--table", "video"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"pip install 'pooltable[{extra}]'" in line
    assert "s3cret" not in line
