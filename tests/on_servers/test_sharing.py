"""Whole runs on servers, alone and several at once: every row has one end, whoever is killed or stopped meanwhile."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import ExitStack

import psutil
import pytest

from pooltable import TaskTable
from tests.on_servers.runs import Site, wait_until

pytestmark = pytest.mark.timeout(30)


def test_every_row_is_done_with_its_result(site: Site) -> None:
    site.fill(200)
    running = site.start()
    assert running.ends_with() == 0
    assert "done=200, failed=0" in running.events("RunEnded")[0]["summary"]
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 201)}
    site.check()


@pytest.mark.parametrize("runners", [2, 3])
def test_runners_share_the_rows_and_none_runs_twice(site: Site, runners: int) -> None:
    site.fill(240)
    site.close_gate()
    runs = [site.start(processes=1, seconds=0.005) for _ in range(runners)]
    # All of them hold rows before the first one may end.
    wait_until(lambda: len(site.running_tasks()) == runners)
    site.open_gate()
    assert [one.ends_with() for one in runs] == [0] * runners
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 241)}
    done = [one.events("RunEnded")[0]["summary"] for one in runs]
    assert all("failed=0" in summary and "done=0" not in summary for summary in done), done
    site.check()


def test_runners_that_start_at_the_same_moment_make_the_side_tables_once(site: Site) -> None:
    site.place.video(30)
    site.table = site.place.tables[0]
    runs = [site.start(processes=1) for _ in range(4)]
    assert [one.ends_with() for one in runs] == [0] * 4
    assert site.statuses() == {"DONE": 30}


def test_a_killed_runners_rows_are_pending_again_at_once_on_the_same_host(site: Site) -> None:
    site.fill(20)
    site.close_gate()
    killed = site.start(pace={"lease": 300})
    wait_until(lambda: len(site.running_tasks()) == 2)
    held = site.statuses()["DOING"]
    killed.kill()
    # Its lease still has five minutes, so only the missing process can have told the next one.
    heir = site.start(pace={"lease": 300})
    wait_until(lambda: heir.told("RowsRescued", pending=held, failed=0), about=heir)
    site.open_gate()
    assert heir.ends_with() == 0
    assert sum(attempt == 2 for _, attempt in site.starts()) >= 2
    site.check()


def test_a_killed_runners_workers_end_with_it(site: Site) -> None:
    site.fill(4)
    site.close_gate()
    killed = site.start()
    wait_until(lambda: len(site.running_tasks()) == 2)
    workers = killed.workers()
    killed.kill()
    gone, alive = psutil.wait_procs(workers, timeout=3)
    assert len(gone) == 2
    assert not alive
    assert site.start(max_rows=1, processes=1).alive
    site.open_gate()
    site.runs[-1].ends_with()


def test_a_killed_worker_costs_its_row_one_attempt_and_no_other_row_anything(site: Site) -> None:
    site.fill(30)
    site.close_gate()
    running = site.start()
    wait_until(lambda: len(site.running_tasks()) == 2)
    victim = running.workers()[0]
    victim.kill()
    wait_until(lambda: running.told("WorkerEnded", pid=victim.pid, why="lost"), about=running)
    site.open_gate()
    assert running.ends_with() == 0
    assert site.place.sql("SELECT attempt, lost FROM pooltable_video_entry") == [(2, 1)]
    site.check()


def test_a_runner_stopped_past_its_lease_loses_its_rows_and_its_late_finish_is_fenced_out(site: Site) -> None:
    site.fill(2)
    site.close_gate()
    frozen = site.start(pace={"lease": 2})
    wait_until(lambda: len(site.running_tasks()) == 2)
    frozen.signal(signal.SIGSTOP)
    # A finite run would not wait for rows of a runner that lives.
    other = site.start(pace={"lease": 2}, forever=True, poll=0.2)
    wait_until(lambda: other.told("RowsRescued", pending=2), about=other)
    wait_until(lambda: sum(attempt == 2 for _, attempt in site.starts()) == 2, about=other)
    site.open_gate()
    wait_until(lambda: site.done() == 2, about=other)
    frozen.signal(signal.SIGCONT)
    assert frozen.ends_with() == 0
    # Either the beat told it first, or the finish itself was refused: its ends are nowhere.
    lapses, refused = frozen.events("LeaseLapsed"), frozen.events("RowNotWritten")
    assert lapses
    assert all(event["why"] == "fenced" for event in refused), refused
    assert not frozen.events("RowsFinished")
    assert sum(event["lost"] for event in lapses) + len(refused) >= 2
    other.signal(signal.SIGTERM)
    assert other.ends_with() == 0
    assert site.place.sql("SELECT DISTINCT attempt, rescued, ended FROM pooltable_video_entry") == [(2, 1, "done")]
    site.check()


def test_a_runner_stopped_for_less_than_its_lease_keeps_its_rows(site: Site) -> None:
    site.fill(2)
    site.close_gate()
    frozen = site.start(pace={"lease": 60})
    wait_until(lambda: len(site.running_tasks()) == 2)
    frozen.signal(signal.SIGSTOP)
    other = site.start(pace={"lease": 60})
    assert other.ends_with() == 0  # what a living runner holds is not waited for
    assert not other.events("RowsRescued")
    site.open_gate()
    frozen.signal(signal.SIGCONT)
    assert frozen.ends_with() == 0
    assert Counter(site.starts()) == {(1, 1): 1, (2, 1): 1}
    site.check()


def test_pause_and_resume_from_another_process(site: Site) -> None:
    table = site.fill(40)
    site.close_gate()
    running = site.start(forever=True, poll=0.2)
    wait_until(lambda: len(site.running_tasks()) == 2)
    TaskTable(site.place.url, "video", write=("caption",)).pause()
    held = site.statuses()["DOING"]
    site.open_gate()
    wait_until(lambda: running.told("Paused", paused=True), about=running)
    wait_until(lambda: site.done() == held, about=running)
    assert site.statuses() == {"DONE": held, "PENDING": 40 - held}
    table.resume()
    wait_until(lambda: site.done() == 40, about=running)
    running.signal(signal.SIGTERM)
    assert running.ends_with() == 0
    assert running.told("Paused", paused=False)
    site.check()


def test_rows_that_a_users_transaction_holds_are_left_to_it_and_done_afterwards(site: Site) -> None:
    site.fill(60)
    with ExitStack() as users:
        # One by one: MariaDB would lock the rows around a range as well.
        for key in range(1, 11):
            users.enter_context(site.place.holding(f"SELECT id FROM video WHERE id = {key} FOR UPDATE"))
        running = site.start(forever=True, poll=0.2)
        wait_until(lambda: site.done() == 50, about=running)
        assert site.statuses() == {"DONE": 50, "PENDING": 10}
    wait_until(lambda: site.done() == 60, about=running)
    running.signal(signal.SIGTERM)
    assert running.ends_with() == 0
    site.check()


def test_an_end_waits_for_a_row_that_a_user_locked_while_it_ran_and_holds_up_no_other(site: Site) -> None:
    site.fill(40)
    site.close_gate()
    running = site.start()
    mine = wait_until(lambda: site.running_tasks() if len(site.running_tasks()) == 2 else None)[0]
    with site.place.holding(f"SELECT id FROM video WHERE id = {mine} FOR UPDATE"):
        site.open_gate()
        wait_until(lambda: running.told("RowNotWritten", why="locked"), about=running)
        wait_until(lambda: site.done() == 39, about=running)
        assert running.alive
    assert running.ends_with() == 0
    assert Counter(site.starts()) == {(key, 1): 1 for key in range(1, 41)}
    site.check()


def test_rows_added_by_a_transaction_that_commits_late_are_found(site: Site) -> None:
    site.fill(20)
    running = site.start(forever=True, poll=0.2)
    with site.place.holding("INSERT INTO video (id, content, status) VALUES (-5, 'late', 'PENDING')"):
        site.place.sql("INSERT INTO video (id, content, status) VALUES (500, 'early', 'PENDING')")
        wait_until(lambda: site.done() == 21, about=running)
    wait_until(lambda: site.done() == 22, about=running)
    running.signal(signal.SIGTERM)
    assert running.ends_with() == 0
    site.check()
