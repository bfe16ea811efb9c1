"""The commands around a run: init, add, status, failures, show, logs, retry, pause, resume, release, config, demo."""

from __future__ import annotations

import json
import os
import re
import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest


def status(folder: Any, *options: str) -> dict[str, Any]:
    done = folder.run("status", "--json", *options)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# ---- init


def test_init_makes_the_side_tables_and_writes_the_settings_down(folder: Any) -> None:
    folder.make_hosts()
    (folder.path / "pooltable.toml").unlink()
    done = folder.run("init", "--db", "sqlite:///work.db", "--table", "host", "--write", "caption")
    assert done.returncode == 0
    assert "4 rows wait" in done.stdout
    assert tomllib.loads((folder.path / "pooltable.toml").read_text()) == {
        "db": "sqlite:///work.db",
        "table": "host",
        "write": ["caption"],
    }
    assert len(folder.sql("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'pooltable%'")) == 4
    assert folder.run("run", "app:mission").returncode == 0


def test_init_takes_the_only_table_and_asks_for_one_of_many(folder: Any) -> None:
    folder.make_hosts()
    (folder.path / "pooltable.toml").unlink()
    assert "table host" in folder.run("init", "--db", "work.db").stdout
    (folder.path / "pooltable.toml").unlink()
    folder.sql("CREATE TABLE other (id INTEGER PRIMARY KEY)")
    line = folder.run("init", "--db", "work.db").line
    assert all(part in line for part in ("host", "other", "--table"))


def test_init_print_shows_the_sql_and_changes_nothing(hosts: Any) -> None:
    done = hosts.run("init", "--print")
    assert done.returncode == 0
    assert "CREATE TABLE" in done.stdout
    assert hosts.sql("SELECT name FROM sqlite_master WHERE name LIKE 'pooltable%'") == []
    hosts.sql("BEGIN")
    for statement in done.stdout.split(";\n"):
        hosts.sql(statement)


def test_init_tells_programs_what_it_found_and_did(hosts: Any) -> None:
    hosts.sql("UPDATE host SET status = 'NEW' WHERE id = 1")
    found = json.loads(hosts.run("init", "--json", "--job", "captions", "--index").stdout)
    assert (found["job"], found["table"], found["key"], found["pending"]) == ("captions", "host", ["id"], 3)
    assert {"word": "NEW", "rows": 1, "left_alone": True} in found["words"]
    assert "CREATE INDEX" in found["index_made"]
    assert "wrote pooltable.toml" in found["settings"][0]
    assert "CREATE TABLE" in json.loads(hosts.run("init", "--print", "--json").stdout)["sql"]


def test_init_index_makes_the_index(hosts: Any) -> None:
    before = len(hosts.sql("SELECT 1 FROM sqlite_master WHERE type = 'index' AND tbl_name = 'host'"))
    assert hosts.run("init", "--index").returncode == 0
    assert len(hosts.sql("SELECT 1 FROM sqlite_master WHERE type = 'index' AND tbl_name = 'host'")) == before + 1


def test_init_again_keeps_what_the_file_says_and_adds_what_is_new(hosts: Any) -> None:
    file = hosts.path / "pooltable.toml"
    file.write_text("# by hand\n" + file.read_text() + "poll = 5.0 # quick")
    assert "says all this already" in hosts.run("init").stdout
    assert hosts.run("init", "--job", "captions", "--table", "host").returncode == 0
    text = file.read_text()
    assert text.startswith("# by hand\n")
    assert "poll = 5.0 # quick\n" in text
    assert tomllib.loads(text)["job"] == "captions"
    assert tomllib.loads(text)["write"] == ["caption"]


def test_a_relative_file_is_written_as_the_file_of_settings_reads_it(hosts: Any) -> None:
    (hosts.path / "pooltable.toml").unlink()
    elsewhere = hosts.path / "conf" / "pooltable.toml"
    elsewhere.parent.mkdir()
    for given, written in (("work.db", "../work.db"), ("sqlite:///work.db", "sqlite:///../work.db")):
        elsewhere.write_text("")
        done = hosts.run("init", "--config", elsewhere, "--db", given, "--table", "host", "--write", "caption")
        assert done.returncode == 0, done.stderr
        assert tomllib.loads(elsewhere.read_text())["db"] == written
        assert status(hosts, "--config", str(elsewhere))["pending"] == 4
        hosts.environment["POOLTABLE_CONFIG"] = "conf/pooltable.toml"
        assert status(hosts)["pending"] == 4
        del hosts.environment["POOLTABLE_CONFIG"]


def test_init_leaves_pyproject_to_its_owner(hosts: Any) -> None:
    (hosts.path / "pooltable.toml").unlink()
    (hosts.path / "pyproject.toml").write_text('[tool.pooltable]\ndb = "work.db"\ntable = "host"\n')
    done = hosts.run("init", "--write", "caption")
    assert 'write = ["caption"]' in done.stdout
    assert not (hosts.path / "pooltable.toml").exists()


def make_null_hosts(folder: Any) -> None:
    """Three hosts that wait as NULL, and one as new."""
    folder.sql("CREATE TABLE host (id INTEGER PRIMARY KEY, name TEXT, caption TEXT, status TEXT)")
    folder.sql("INSERT INTO host (name, status) VALUES ('a', NULL), ('b', NULL), ('c', NULL), ('d', 'new')")


HOST = ("--db", "work.db", "--table", "host", "--write", "caption")


@pytest.mark.parametrize("way", ["flag", "variable", "file"])
def test_null_is_a_word_however_it_is_given(folder: Any, way: str) -> None:
    make_null_hosts(folder)
    if way == "variable":
        folder.environment["POOLTABLE_PENDING"] = "NULL"
    if way == "file":
        (folder.path / "pooltable.toml").write_text('pending = "NULL"\n')
    given = ("--pending", "NULL") if way == "flag" else ()
    done = folder.run("init", *HOST, *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 rows wait; status holds NULL (3), new (1)" in done.stdout
    assert "left alone: new (1)" in done.stdout
    assert tomllib.loads((folder.path / "pooltable.toml").read_text())["pending"] == "NULL"
    folder.environment.pop("POOLTABLE_PENDING", None)  # another shell
    assert folder.run("run", "app:mission").returncode == 0
    assert folder.sql("SELECT status, count(*) FROM host GROUP BY 1 ORDER BY 1") == [("DONE", 3), ("new", 1)]


def test_init_makes_nothing_where_rows_wait_under_none_of_the_words(folder: Any) -> None:
    make_null_hosts(folder)
    for given in ((), ("--pending", "null")):
        done = folder.run("init", *HOST, *given)
        assert done.returncode == 2
        assert all(part in done.line for part in ("holds NULL and 'new'", "--pending")), done.line
    assert not (folder.path / "pooltable.toml").exists()
    assert folder.sql("SELECT name FROM sqlite_master WHERE name LIKE 'pooltable%'") == []


def test_a_job_takes_other_words_before_its_first_run_by_itself_and_later_with_again(folder: Any) -> None:
    make_null_hosts(folder)
    assert folder.run("init", *HOST, "--pending", "new").returncode == 0
    assert folder.run("run", "app:mission", "--pending", "NULL", "--max-rows", "1").returncode == 0
    refused = folder.run("init")
    assert (refused.returncode, "pooltable init --again" in refused.line) == (2, True)
    done = folder.run("init", "--again", "--index")
    assert done.returncode == 0
    assert "the job host changes: words NULL, DOING, DONE, FAILED -> new, DOING, DONE, FAILED" in done.stdout
    assert "left alone: NULL (2)" in done.stdout
    assert folder.run("run", "app:mission").returncode == 0
    assert folder.sql("SELECT name FROM host WHERE status = 'DONE' ORDER BY 1") == [("a",), ("d",)]
    assert folder.run("init", "--index").returncode == 0, "what is set up already is not refused when all is done"


# ---- add


def test_add_makes_a_table_of_arguments_when_asked(folder: Any) -> None:
    done = folder.run("add", "--db", "new.db", "--table", "host", "--create", "-c", "name", "web1", "web 2", "-é")
    assert done.returncode == 2, "an argument with a dash is an option"
    done = folder.run("add", "--db", "new.db", "--table", "host", "--create", "-c", "name", "web1", "--", "-é")
    assert (done.returncode, done.stdout) == (0, "added 2 rows to host\n")
    assert status(folder, "--db", "new.db", "--table", "host")["pending"] == 2
    done = folder.run("run", "app:nothing", "--db", "new.db", "--table", "host", "-p", "1")
    assert done.returncode == 0, done.stderr


def test_add_makes_a_status_column_for_null(folder: Any) -> None:
    options = ("--db", "new.db", "--table", "host", "--pending", "NULL")
    assert folder.run("add", *options, "--create", "-c", "name", "web1").returncode == 0
    assert status(folder, *options)["pending"] == 1


def test_add_without_create_makes_nothing(folder: Any) -> None:
    done = folder.run("add", "--db", "new.db", "--table", "host", "-c", "name", "web1")
    assert done.returncode == 2
    assert not (folder.path / "new.db").exists()


def test_add_takes_files(hosts: Any) -> None:
    for name in ("in/a.mp4", "in/deep/b c.mp4", "in/d.txt"):
        (hosts.path / name).parent.mkdir(parents=True, exist_ok=True)
        (hosts.path / name).touch()
    assert hosts.run("add", "--files", "in/**/*.mp4", "-c", "name").stdout == "added 2 rows to host\n"
    assert hosts.sql("SELECT name FROM host WHERE id > 4") == [("in/a.mp4",), ("in/deep/b c.mp4",)]


def test_add_takes_csv_with_the_types_of_the_columns(folder: Any) -> None:
    (folder.path / "in.csv").write_text('\ufeffid,name,size,zip\n7,"a, ""b""\nc",1.5,007\n8,é,2,008\n')
    options = ("--db", "new.db", "--table", "thing")
    assert folder.run("add", "--csv", "in.csv", "--create", *options).returncode == 0
    (folder.path / "more.csv").write_text("id,name,size\n9,,\n")
    assert folder.run("add", "--csv", "more.csv", *options).returncode == 0
    rows = json.loads(folder.run("show", "7", *options, "--json").stdout)["row"]
    assert rows == {"id": 7, "name": 'a, "b"\nc', "size": 1.5, "zip": "007", "status": "PENDING"}
    assert status(folder, *options)["total"] == 3


def test_add_takes_json_lines_from_stdin(hosts: Any) -> None:
    lines = '{"name": "web5"}\n\n{"name": "web6", "status": "DONE"}\n'
    assert hosts.run("add", "--jsonl", "-", "--json", stdin=lines).stdout == '{\n  "added": 2\n}\n'
    assert hosts.sql("SELECT name, status FROM host WHERE id > 4") == [("web5", "PENDING"), ("web6", "DONE")]


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("x.csv", "id,name\nseven,a\n", ["x.csv, line 2", "'seven'", "'id'"]),
        ("x.csv", "id,name\n7\n", ["x.csv, line 2", "1 value for 2 columns"]),
        ("x.csv", "id,nme\n7,a\n", ["x.csv, line 2", "'nme'"]),
        ("x.csv", "", ["x.csv", "empty"]),
        ("x.jsonl", '{"name": "a"}\n[1]\n', ["x.jsonl, line 2", "JSON object"]),
        ("x.jsonl", '{"name": "a"}\n{"name"\n', ["x.jsonl, line 2", "not JSON"]),
    ],
)
def test_add_refuses_all_when_one_line_is_bad(hosts: Any, name: str, text: str, parts: list[str]) -> None:
    (hosts.path / name).write_text(text)
    done = hosts.run("add", "--csv" if name.endswith("csv") else "--jsonl", name)
    assert done.returncode == 2
    assert [part for part in parts if part not in done.line] == [], done.line
    assert status(hosts)["total"] == 4


# ---- looking


def test_status_failures_show_and_logs_tell_the_same_story(hosts: Any) -> None:
    assert status(hosts)["pending"] == 4
    hosts.run("run", "app:picky", "--quiet")
    found = status(hosts)
    assert (found["done"], found["failed"], found["total"], found["paused"]) == (2, 2, 4, False)
    assert "FAILED" in hosts.run("status").stdout
    entries = json.loads(hosts.run("failures", "--json").stdout)
    assert sorted(entry["key"] for entry in entries) == [[2], [4]]
    assert {(entry["kind"], entry["attempt"]) for entry in entries} == {("ValueError", 1)}
    ago = [datetime.now(UTC) - datetime.fromisoformat(entry["finished_at"]) for entry in entries]
    assert all(0 <= past.total_seconds() < 60 for past in ago), "ISO 8601, with the zone"
    assert json.loads(hosts.run("failures", "--json", "-n", "1").stdout)[0]["key"] in ([2], [4])
    assert json.loads(hosts.run("failures", "--json", "--kind", "KeyError").stdout) == []
    shown = hosts.run("show", "2")
    assert "web2" in shown.stdout
    assert shown.stdout.count("ValueError: row 2 is even") == 1
    logs = hosts.run("logs", "2").stdout
    assert "looking at web2" in logs
    assert "WARNING app: an even one" in logs
    assert "app.py" in logs
    assert json.loads(hosts.run("logs", "2", "--json").stdout)["log"].startswith("looking at web2")
    assert "never claimed" not in hosts.run("show", "1").stdout
    assert hosts.run("logs", "1").stdout == ""


def test_show_has_the_status_and_what_was_written_also_of_a_row_that_was_never_claimed(hosts: Any) -> None:
    words = ("--pending", "NEW", "--done", "READY")
    hosts.sql("UPDATE host SET status = CASE id WHEN 3 THEN 'OTHER' WHEN 4 THEN 'DOING' ELSE 'NEW' END")
    shown = hosts.run("show", "2", *words).stdout
    assert re.findall(r"^(?:caption|status):.*", shown, re.MULTILINE) == [
        "status:         NEW (PENDING)",
        "caption:        NULL",
    ]
    assert "it was never claimed" in shown
    assert re.search(r"^status: +OTHER \(no word of this job\)$", hosts.run("show", "3", *words).stdout, re.MULTILINE)
    assert re.search(r"^status: +DOING$", hosts.run("show", "4", *words).stdout, re.MULTILINE)
    hosts.run("run", "app:mission", "--quiet", *words)
    shown = hosts.run("show", "2", *words).stdout
    assert re.findall(r"^(?:caption|status):.*", shown, re.MULTILINE) == [
        "status:         READY (DONE)",
        "caption:        WEB2",
    ]
    found = json.loads(hosts.run("show", "2", *words, "--json").stdout)
    assert found["row"] == {"id": 2, "name": "web2", "status": "READY", "caption": "WEB2"}
    assert found["status"] == "done"
    hosts.sql("DELETE FROM host WHERE id = 2")
    assert json.loads(hosts.run("show", "2", *words, "--json").stdout)["status"] == "missing"
    assert "the row is gone" in hosts.run("show", "2", *words).stdout


def test_status_tells_whether_a_runner_that_holds_rows_is_alive_dead_or_silent(hosts: Any) -> None:
    process = hosts.start("run", "app:waiting", "-p", "2")
    try:
        while status(hosts)["doing"] < 2:
            assert process.poll() is None
        (run,) = status(hosts)["open"]
        assert re.search(rf"runner {run} holds \d rows; its lease has \d+ s left\n", hosts.run("status").stdout)
    finally:
        process.kill()
        process.communicate()
    held = status(hosts)["doing"]
    back = "the next run takes them back, and so does `pooltable release`"
    assert f"runner {run} holds {held} rows and is dead: {back}\n" in hosts.run("status").stdout
    # As if it had run on another host, where nobody can see its process.
    hosts.sql("UPDATE pooltable_runner SET boot_id = 'another'")
    assert f"runner {run} holds {held} rows; its lease has" in hosts.run("status").stdout
    hosts.sql("UPDATE pooltable_runner SET expires_at = expires_at - 3600")
    silent = rf"runner {run} holds {held} rows and has been silent since its lease ran out \d+ min \d+ s ago: {back}\n"
    assert re.search(silent, hosts.run("status").stdout)
    (told,) = status(hosts)["runners"]
    assert (told["runner"], told["rows"], told["gone"], told["left"] < -3000) == (run, held, False, True)
    (hosts.path / "go").touch()
    assert hosts.run("run", "app:waiting", "--quiet", "--drop-results").returncode == 0
    assert status(hosts)["runners"] == []


def test_a_table_is_shown_with_its_schema_where_that_was_given(hosts: Any) -> None:
    named = ("--table", "main.host")
    assert hosts.run("status", *named).stdout.startswith("main.host in work.db\n")
    done = hosts.run("run", "app:mission", *named)
    assert "4 rows wait in table main.host; up to 2 workers" in done.stderr
    assert (done.returncode, status(hosts)["done"]) == (0, 4)
    assert "'main.host'" in hosts.run("show", "99", *named).line
    assert hosts.run("status").stdout.startswith("host in work.db\n")


def test_a_look_makes_no_side_tables(hosts: Any) -> None:
    for command in (["status"], ["failures"], ["show", "1"], ["logs", "1"]):
        assert hosts.run(*command).returncode == 0
    assert hosts.sql("SELECT name FROM sqlite_master WHERE name LIKE 'pooltable%'") == []


def test_composite_keys_are_written_with_commas_or_as_json(folder: Any) -> None:
    folder.sql("CREATE TABLE host (zone TEXT, number INTEGER, name TEXT, status TEXT, PRIMARY KEY (zone, number))")
    folder.sql("INSERT INTO host VALUES ('eu', 1, 'a', 'PENDING'), ('u,s', 2, 'b', 'PENDING')")
    (folder.path / "pooltable.toml").write_text('db = "work.db"\ntable = "host"\n')
    folder.run("run", "app:hopeless", "--quiet")
    assert json.loads(folder.run("show", "eu,1", "--json").stdout)["entry"]["key"] == ["eu", 1]
    assert json.loads(folder.run("show", '["u,s", 2]', "--json").stdout)["row"]["name"] == "b"
    assert folder.run("retry", "eu,1", '["u,s", 2]').stdout == "2 rows wait again\n"


def test_values_that_no_terminal_likes_are_shown_all_the_same(hosts: Any) -> None:
    hosts.sql("UPDATE host SET name = ? WHERE id = 1", (b"\xff\x00binary",))
    hosts.sql("UPDATE host SET name = ? WHERE id = 2", ("x\x1b[2J" * 5000,))
    assert "binary" in hosts.run("show", "1").stdout
    assert hosts.run("show", "1", "--json").returncode == 0
    assert "\x1b[2J" not in hosts.run("show", "2").stdout


def test_show_has_values_as_people_write_them(folder: Any) -> None:
    folder.sql("CREATE TABLE host (id INTEGER PRIMARY KEY, at DATETIME, price DECIMAL(8, 2), status TEXT)")
    folder.sql("INSERT INTO host VALUES (1, '2024-01-01 12:00:00', 1.5, 'PENDING')")
    shown = folder.run("show", "1", "--db", "work.db", "--table", "host").stdout
    assert "2024-01-01 12:00:00\n" in shown
    assert "1.5\n" in shown
    assert "(" not in shown


# ---- changing


def test_retry_takes_all_that_are_done_or_all_that_are_finished(hosts: Any) -> None:
    hosts.run("run", "app:picky")
    assert hosts.run("retry", "--done").stdout == "2 rows wait again\n"
    assert hosts.sql("SELECT id FROM host WHERE status = 'PENDING' ORDER BY id") == [(1,), (3,)]
    assert "no row is DONE; nothing was changed" in hosts.run("retry", "--done").line
    hosts.run("run", "app:picky")
    assert hosts.run("retry", "--all").stdout == "4 rows wait again\n"
    assert hosts.sql("SELECT DISTINCT status FROM host") == [("PENDING",)]
    assert "leave out --done and --all" in hosts.run("retry", "--all", "--kind", "ValueError").line


def test_retry_by_key_by_kind_and_all(hosts: Any) -> None:
    hosts.run("run", "app:picky", "--quiet")
    assert hosts.run("retry", "2", "1").stdout == "2 rows wait again\n"
    assert "1 of the keys" in hosts.run("retry", "4", "2").stdout
    hosts.run("run", "app:picky", "--quiet")
    assert hosts.run("retry", "--kind", "ValueError").stdout == "2 rows wait again\n"
    hosts.run("run", "app:picky", "--quiet")
    assert hosts.run("retry", "--failed").stdout == "2 rows wait again\n"
    assert status(hosts)["pending"] == 2


def test_a_kind_needs_neither_its_module_nor_its_case(hosts: Any) -> None:
    (hosts.path / "own.py").write_text(
        "class TooLarge(Exception): pass\n"
        "def mission(row):\n    raise TooLarge(row.name) if row.id < 3 else ValueError(row.name)\n"
    )
    hosts.run("run", "own:mission", "--quiet")
    found = json.loads(hosts.run("failures", "--kind", "toolarge", "--json").stdout)
    assert sorted(entry["key"] for entry in found) == [[1], [2]]
    assert "did you mean ValueError?" in hosts.run("failures", "--kind", "valueeror").stdout
    assert hosts.run("retry", "--kind", "TooLarge").stdout == "2 rows wait again\n"
    assert hosts.run("retry", "--kind", "own.toolarge").returncode == 1
    assert hosts.run("retry", "--kind", "valueerror").stdout == "2 rows wait again\n"


@pytest.mark.parametrize(
    ("command", "parts", "printed"),
    [
        (
            ["retry", "--kind", "KeyErorr", "--json"],
            ["'KeyErorr'", "they failed with ValueError (2)"],
            '{"requeued":0}',
        ),
        (["retry", "--kind", "valuerror"], ["'valuerror'", "did you mean ValueError? Nothing was changed"], ""),
        (["retry", "99"], ["99 is no finished row"], ""),
        (["retry", "98", "99"], ["none of the 2 keys"], ""),
        (["retry", "--run", "zzz"], ["no row is FAILED of run 'zzz'"], ""),
        (["release"], ["no row is held by a runner that died", "1 run", "--foreign"], ""),
        (["release", "--foreign", "--where", "id = 1"], ["no row is held"], ""),
    ],
)
def test_what_finds_nothing_to_change_says_so_and_ends_with_1(
    hosts: Any, command: list[str], parts: list[str], printed: str
) -> None:
    hosts.run("run", "app:picky", "--quiet")
    hosts.sql("INSERT INTO host VALUES (5, 'web5', NULL, 'DOING')")
    done = hosts.run(*command)
    assert (done.returncode, "".join(done.stdout.split())) == (1, printed)
    assert [part for part in parts if part not in done.line] == [], done.line
    quiet = hosts.run(*command, "--quiet-if-none")
    assert (quiet.returncode, quiet.stderr) == (0, "")


def test_a_paused_job_is_not_claimed_until_it_is_resumed(hosts: Any) -> None:
    assert "paused" in hosts.run("pause").stdout
    assert json.loads(hosts.run("pause", "--json").stdout) == {"job": "host", "paused": True}
    assert status(hosts)["paused"] is True
    assert "paused" in hosts.run("status").stdout
    process = hosts.start("run", "app:mission")
    try:
        assert "4 rows wait" in process.stderr.readline()
        assert "paused" in process.stderr.readline()
        assert status(hosts)["pending"] == 4
        assert json.loads(hosts.run("resume", "--json").stdout) == {"job": "host", "paused": False}
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()
    assert status(hosts)["done"] == 4


def test_release_gives_back_what_nobody_works_on(hosts: Any) -> None:
    hosts.sql("UPDATE host SET status = 'DOING' WHERE id = 1")
    assert "release --foreign" in hosts.run("status").stdout
    assert hosts.run("release", "--foreign", "--json").stdout == '{\n  "released": 1\n}\n'
    assert status(hosts)["pending"] == 4


# ---- settings, demo, help


def test_config_says_where_each_setting_came_from_and_shows_no_password(hosts: Any) -> None:
    hosts.environment["POOLTABLE_POLL"] = "4"
    done = hosts.run("config", "--json", "--db", "postgresql://me:s3cret@host/shop", "--grace", "3")
    found = json.loads(done.stdout)
    assert found["db"] == {"value": "postgresql://me:***@host/shop", "from": "--db"}
    assert found["poll"] == {"value": 4.0, "from": "POOLTABLE_POLL"}
    assert found["table"] == {"value": "host", "from": "pooltable.toml"}
    assert found["halt"] == {"value": 20, "from": "default"}
    assert "s3cret" not in hosts.run("config", "--db", "postgresql://me:s3cret@host/shop").stdout


def test_without_a_word_the_help_is_shown(folder: Any) -> None:
    done = folder.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == folder.run("--help").stdout


def test_completion_tells_a_shell_the_options(folder: Any) -> None:
    folder.environment |= {
        "_POOLTABLE_COMPLETE": "complete_bash",
        "COMP_WORDS": "pooltable run --time",
        "COMP_CWORD": "2",
    }
    done = folder.run()
    assert (done.returncode, done.stdout.split()) == (0, ["--time-limit"]), done.stderr
    folder.environment["_POOLTABLE_COMPLETE"] = "source_bash"
    assert "_POOLTABLE_COMPLETE=complete_bash" in folder.run().stdout


def test_the_command_line_starts_fast(folder: Any) -> None:
    heavy = "import sys; sys.argv[1:] = ['--version']\ntry:\n    from pooltable.cli import main; main()\n"
    heavy += "finally:\n    print({'rich', 'sqlalchemy', 'cloudpickle', 'psutil'} & set(sys.modules))"
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[1] == "set()"
    before = os.times()
    assert folder.run_fresh("--version").returncode == 0
    after = os.times()
    # Processor time, which says the same on a busy machine.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5
