"""Every mistake ends as one line on stderr that names the thing and the remedy, with its exit code and no traceback."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

TABLE = "CREATE TABLE host (id INTEGER PRIMARY KEY, name TEXT, status TEXT)"


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["status", "--table", "hosts"], ["'hosts'", "'host'"]),
        (["status", "--status", "state"], ["no column 'state'", "status"]),
        (["status", "--key", "nam"], ["no column 'nam'", "'name'"]),
        (["status", "--key", "name"], ["unique", "name"]),
        (["status", "--columns", "nam"], ["'nam'", "'name'"]),
        (["run", "app:mission", "--write", "captain"], ["'captain'", "'caption'"]),
        (["run", "app:mission", "--where", "nope = 1"], ["where", "nope"]),
        (["run", "app:mission", "--pending", "DONE"], ["pending", "done", "'DONE'"]),
        (["run", "app:mission", "--proceses", "3"], ["--proceses", "did you mean --processes"]),
        (["run", "app:mission", "--processes", "many"], ["--processes", "whole number", "'many'"]),
        (["run", "app:mission", "-p", "-3"], ["--processes", "0 or more"]),
        (["run", "app:mission", "-p"], ["-p needs a number", "pooltable run --help"]),
        (["run", "app:mission", "--memory"], ["--memory needs a size"]),
        (["run", "app:mission", "--table"], ["--table needs a value"]),
        (["tune", "app:mission", "--processes"], ["--processes needs a number"]),
        (["run", "app:mission", "--timeout", "3"], ["--timeout", "did you mean --time-limit"]),
        (["run", "app:mission", "--pause", "3"], ["--pause", "did you mean --retry-pause"]),
        (["run", "app:mission", "-j", "3"], ["-j", "did you mean -p"]),
        (["run", "app:mission", "--fails", "0"], ["--fails", "1 or more"]),
        (["run", "app:mission", "--memory", "lots"], ["memory", "lots"]),
        (["run", "app:mission", "--log", "no/such/folder/x.log"], ["--log", "no/such/folder/x.log"]),
        (["run"], ["app:mission", "--command", "pooltable run --help"]),
        (["run", "mission"], ["'mission'", "app:mission"]),
        (["run", "app.py:mission"], ["app:mission"]),
        (["run", "app:mision"], ["'mision'", "app:mission"]),
        (["run", "nap:mission"], ["no module 'nap'"]),
        (["run", "app:answer"], ["int"]),
        (["run", "app:later"], ["async def", "asyncio.run"]),
        (["run", "app:needs_two"], ["needs_two", "one row"]),
        (["run", "app:mission", "--initializer", "app:prepaer"], ["'prepaer'", "app:prepare"]),
        (["run", "app:mission", "-p", "0", "--time-limit", "3"], ["time_limit"]),
        (["statsu"], ["'statsu'", "did you mean status"]),
        (["show", "99"], ["'99'", "'host'"]),
        (["show", "abc"], ["abc", "id"]),
        (["show", "1,2"], ["1,2", "id"]),
        (["show", "[1, 2]"], ["id"]),
        (["logs", "99"], ["'99'"]),
        (["try", "app:mission", "99"], ["'99'"]),
        (["retry"], ["--failed"]),
        (["retry", "1", "--failed"], ["either"]),
        (["add"], ["--csv"]),
        (["add", "x", "--columns", "name,status"], ["--column", "name, status"]),
        (["add", "x", "-c", "nme"], ["'nme'", "name"]),
        (["add", "--files", "nothing-*.mp4", "-c", "name"], ["nothing-*.mp4"]),
        (["add", "--csv", "missing.csv"], ["missing.csv"]),
        (["map", "-j", "0", "echo", ":::", "a"], ["--processes (-p, -j) takes a whole number, 1 or more", "cores"]),
        (["map", "--fails", "x", "echo", ":::", "a"], ["--fails (--retries) takes a whole number, 1 or more"]),
        (["map", "--timeout", "x", "echo", ":::", "a"], ["--time-limit (--timeout) takes a number above 0"]),
        (["failures", "-n", "0"], ["--limit (-n) takes a whole number, 1 or more"]),
        (["add", "--create", "x", "--db", "postgresql://h/d", "-c", "a"], ["SQLite"]),
        (["status", "--db", "oracle://h/d"], ["oracle"]),
        (["status", "--db", "env:NO_SUCH_VARIABLE"], ["NO_SUCH_VARIABLE"]),
        (["status", "--config", "other.toml"], ["other.toml"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(hosts: Any, command: list[str], parts: list[str]) -> None:
    done = hosts.run(*command)
    assert done.returncode == 2, done.stderr
    assert done.line.startswith("pooltable: ")
    assert [part for part in parts if part not in done.line] == [], done.line
    assert done.stdout == ""
    assert {status for (status,) in hosts.sql("SELECT status FROM host")} == {"PENDING"}


def test_no_database_and_no_table_say_what_to_give(folder: Any) -> None:
    assert "--db" in folder.run("status").line
    assert "--table" in folder.run("status", "--db", "x.db").line


@pytest.mark.parametrize("command", [["status"], ["run", "app:mission"], ["failures"], ["retry", "--failed"]])
def test_a_database_that_is_not_there_is_not_made(folder: Any, command: list[str]) -> None:
    done = folder.run(*command, "--db", "missing.db", "--table", "host")
    assert (done.returncode, "missing.db" in done.line) == (2, True)
    assert not (folder.path / "missing.db").exists()


def test_a_file_that_is_no_database_is_named(folder: Any) -> None:
    (folder.path / "app.db").write_text("this is text and nothing else, " * 100)
    done = folder.run("status", "--db", "app.db", "--table", "host")
    assert done.returncode in (2, 4)
    assert "app.db" in done.line
    assert "not a database" in done.line


def test_a_server_that_is_not_there_is_exit_4_without_its_password(folder: Any) -> None:
    done = folder.run("status", "--db", "postgresql://me:s3cret@127.0.0.1:1/shop", "--table", "host")
    assert done.returncode == 4
    assert "127.0.0.1" in done.line
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize(
    "url, parts",
    [
        ("sqlite://v.db", ["sqlite:///v.db"]),
        ("postgresql://host:abc/shop", ["the port", "postgresql://USER:PASSWORD@HOST:5432/NAME"]),
        ("postgresql://me:se cret@host:abc/shop", ["the port", "postgresql://USER:PASSWORD@HOST:5432/NAME"]),
        ("mysql://me:s@cret@host/shop", ["%40", "%2F", "%3A"]),
        ("postgresql://me:s:cret@host/shop", ["%40", "%2F", "%3A"]),
        ("mysql://host/shop?nonsense=1", ["nonsense"]),
        ("mysql://host/shop?connect_timeout=soon", ["soon"]),
        ("mysql://host/shop?ssl_ca=missing.pem", ["missing.pem"]),
        ("postgresql://a..b/shop", ["a..b"]),
        ("sqlite:///work.db?timeout=soon", ["soon"]),
    ],
)
def test_a_malformed_url_is_one_line(hosts: Any, url: str, parts: list[str]) -> None:
    done = hosts.run("status", "--db", url, "--table", "host")
    assert done.returncode == 2
    assert [part for part in parts if part not in done.line] == [], done.line
    assert "cret" not in done.line


def test_a_malformed_url_makes_no_table(folder: Any) -> None:
    done = folder.run("add", "--create", "-c", "name", "--table", "host", "--db", "mysql://me@host:abc/shop", "x")
    assert (done.returncode, "the port" in done.line) == (2, True)


def test_a_url_in_the_wrong_place_is_told_without_its_password(hosts: Any) -> None:
    for command in ("status", "run"):
        line = hosts.run(command, "postgresql://me:s3cret@host/shop").line
        assert "s3cret" not in line, line


def test_a_read_only_database_is_exit_4_and_can_still_be_looked_at(hosts: Any) -> None:
    url = f"sqlite:///file:{hosts.path}/work.db?mode=ro&uri=true"
    done = hosts.run("run", "app:mission", "--db", url)
    assert (done.returncode, "takes no writes" in done.line) == (4, True), done.stderr
    assert hosts.run("status", "--db", url).returncode == 0


def test_a_table_without_a_key_is_refused_with_advice(folder: Any) -> None:
    folder.sql("CREATE TABLE host (name TEXT, status TEXT)")
    done = folder.run("run", "app:mission", "--db", "work.db", "--table", "host")
    assert (done.returncode, "primary key" in done.line) == (2, True)


def test_a_table_without_a_status_column_is_refused_with_advice(folder: Any) -> None:
    folder.sql("CREATE TABLE host (id INTEGER PRIMARY KEY, state TEXT)")
    done = folder.run("run", "app:mission", "--db", "work.db", "--table", "host")
    assert (done.returncode, "no column 'status'" in done.line) == (2, True)
    assert "'state'" in done.line


def test_status_words_that_are_none_of_ours_are_told(folder: Any) -> None:
    folder.sql(TABLE)
    folder.sql("INSERT INTO host (status) VALUES ('NEW'), (NULL), ('OLD')")
    done = folder.run("run", "app:mission", "--db", "work.db", "--table", "host")
    assert done.returncode == 2
    assert all(part in done.line for part in ("host.status", "NEW", "NULL", "OLD", "--pending")), done.line


def test_a_module_that_fails_on_import_is_named_with_its_line(hosts: Any) -> None:
    (hosts.path / "bad.py").write_text("import os\n\nopen('missing file')\n")
    done = hosts.run("run", "bad:mission")
    assert done.returncode == 2
    assert "bad.py:3" in done.line
    (hosts.path / "worse.py").write_text("def mission(row:\n")
    assert "worse.py:1" in hosts.run("run", "worse:mission").line
    (hosts.path / "needy.py").write_text("import no_such_package\n")
    assert "no_such_package" in hosts.run("run", "needy:mission").line


def test_a_setting_with_a_slip_in_its_name_is_named_with_its_line(hosts: Any) -> None:
    with (hosts.path / "pooltable.toml").open("a") as file:
        file.write("proceses = 3\n")
    done = hosts.run("status")
    assert done.returncode == 2
    assert "pooltable.toml, line 5" in done.line
    assert "did you mean 'processes'" in done.line


def test_a_variable_with_a_slip_in_its_name_is_named(hosts: Any) -> None:
    hosts.environment["POOLTABLE_PROCESES"] = "3"
    assert "did you mean POOLTABLE_PROCESSES" in hosts.run("status").line


def test_a_script_without_the_main_guard_gets_one_clear_error(hosts: Any) -> None:
    script = hosts.path / "script.py"
    script.write_text(
        "from pooltable import TaskTable, run\n"
        "def mission(row):\n    return row.name\n"
        "run(mission, TaskTable('sqlite:///work.db', 'host', write=('caption',)), processes=1)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=hosts.path, capture_output=True, text=True, timeout=50)
    assert done.returncode != 0
    last = done.stderr.rstrip().splitlines()[-1]
    assert "script.py" in done.stderr
    assert "__main__" in last or "__main__" in done.stderr
    assert hosts.sql("SELECT DISTINCT status FROM host") == [("PENDING",)]


def test_an_initializer_that_raises_is_exit_5_and_costs_no_row_anything(hosts: Any) -> None:
    done = hosts.run("run", "app:mission", "--initializer", "app:broken_start")
    assert done.returncode == 5
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith("pooltable: ")
    assert "no such model file" in done.stderr
    assert hosts.sql("SELECT DISTINCT status FROM host") == [("PENDING",)]
