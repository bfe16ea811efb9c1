"""doctor, prune and init --index, as a user starts them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.test_commands import status


def findings(folder: Any, *options: str) -> dict[str, dict[str, str]]:
    done = folder.run("doctor", "--json", *options)
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["errors"] else 0), done.stderr
    return {finding["what"]: finding for finding in told["findings"]}


def test_doctor_says_each_thing_in_a_line_with_its_remedy_and_changes_nothing(hosts: Any) -> None:
    hosts.sql("UPDATE host SET status = 'DOING' WHERE id = 1")
    done = hosts.run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines, last = done.stdout.splitlines()
    assert first == "host in work.db"
    assert {line.split()[0] for line in lines} == {"ok", "warning"}
    assert all(" -> " in line for line in lines if line.startswith("warning"))
    assert any("pooltable release --foreign" in line for line in lines)
    assert last == "no errors, 2 warnings"
    assert hosts.sql("SELECT name FROM sqlite_master WHERE name LIKE 'pooltable%'") == []


def test_doctor_ends_with_1_when_a_run_would_not_work(hosts: Any) -> None:
    assert findings(hosts, "--pending", "NEW")["status words"]["level"] == "error"
    assert hosts.run("doctor", "--pending", "NEW").returncode == 1


def test_what_doctor_advises_for_the_journal_mode_is_a_command_that_works(hosts: Any) -> None:
    import shlex

    program, file, pragma = shlex.split(findings(hosts)["journal mode"]["remedy"])
    assert (program, file) == ("sqlite3", "work.db")
    hosts.sql(pragma)
    assert findings(hosts)["journal mode"]["level"] == "ok"


def test_doctor_does_not_wait_for_a_database_that_never_answers(hosts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from pooltable import DatabaseUnavailable
    from pooltable.cli import doctor

    silent = threading.Event()

    class Table:
        def findings(self) -> list[Any]:
            silent.wait()
            return []

    monkeypatch.setattr(doctor, "PATIENCE", 0.1)
    try:
        with pytest.raises(DatabaseUnavailable, match="has not answered"):
            doctor._findings(Table())  # type: ignore[arg-type]
    finally:
        silent.set()


def test_prune_forgets_claims_and_rows_that_finished_long_ago_or_are_gone(hosts: Any) -> None:
    hosts.run("run", "app:picky", "--quiet", "-p", "1")
    (said,) = hosts.run("prune").stdout.splitlines()
    assert said == "removed 0 claims and 0 entries older than 30d, 0 of rows that are gone, 0 runners"
    hosts.sql("UPDATE pooltable_host_entry SET finished_at = finished_at - 2 * 86400 WHERE id < 3")
    hosts.sql("UPDATE pooltable_host_claims SET closed_at = closed_at - 2 * 86400")
    ((claims,),) = hosts.sql("SELECT count(*) FROM pooltable_host_claims")
    hosts.sql("DELETE FROM host WHERE id = 4")
    dry = hosts.run("prune", "--older-than", "1d", "--dry-run")
    wanted = f"{claims - 1} claim{'s' if claims != 2 else ''} and 1 entry older than 1d, 1 of rows that are gone"
    assert dry.stdout == f"would remove {wanted}, 0 runners\n"
    done = hosts.run("prune", "--older-than", "36h", "--json")
    assert json.loads(done.stdout) == {"old": 1, "gone": 1, "runners": 0, "claims": claims - 1, "dry_run": False}
    assert hosts.sql("SELECT id FROM pooltable_host_entry") == []
    assert status(hosts)["total"] == 3


def test_prune_makes_no_side_tables(hosts: Any) -> None:
    assert hosts.run("prune", "--older-than", "0s").returncode == 0
    assert hosts.sql("SELECT name FROM sqlite_master WHERE name LIKE 'pooltable%'") == []


@pytest.mark.parametrize("time", ["30", "d", "-3d", "3 years", ""])
def test_a_time_that_is_none_is_refused(hosts: Any, time: str) -> None:
    done = hosts.run("prune", f"--older-than={time}")
    assert done.returncode == 2
    assert "30d" in done.line


def test_init_index_makes_it_once(hosts: Any) -> None:
    assert "made the index: CREATE INDEX" in hosts.run("init", "--index").stdout
    assert "is there already" in hosts.run("init", "--index").stdout
    assert "pooltable_host_claim" in findings(hosts)["index"]["detail"]


def test_init_says_what_it_waits_for_when_the_index_takes_long(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from pooltable.cli import init

    said = threading.Event()

    class Table:
        kind = "postgresql"

        def create_index(self) -> str:
            assert said.wait(20)
            return "CREATE INDEX"

    def complain(text: str) -> None:
        print(text)
        said.set()

    monkeypatch.setattr(init, "SAY_AFTER", 0.01)
    monkeypatch.setattr(init, "complain", complain)
    assert init._make_index(Table()) == "CREATE INDEX"  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "still making the index" in out
    assert "others can write meanwhile" in out


@pytest.mark.parametrize("option", ["--notify", "--no-notify"])
def test_init_refuses_notify_on_another_database_than_postgresql_and_makes_nothing(hosts: Any, option: str) -> None:
    done = hosts.run("init", option)
    assert (done.returncode, done.stdout) == (2, "")
    assert "only PostgreSQL has NOTIFY; SQLite's runners are woken by each commit anyway" in done.stderr
    assert hosts.sql("SELECT name FROM sqlite_master WHERE name LIKE 'pooltable%'") == []
