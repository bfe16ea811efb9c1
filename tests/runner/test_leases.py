"""Runners beside each other: stopped, killed, busy in their own thread; nobody runs a row twice at once."""

from __future__ import annotations

import signal
import time

import pytest

from pooltable import Pace, TaskTable, events, run
from pooltable.table.lease import Lease
from tests.runner import missions
from tests.runner.videos import wait_until


def table(videos, **options):
    return TaskTable(videos.url, "video", **{"write": ("caption",), **options})


def holder(videos, key):
    return videos.entry(key)["runner"]


def test_a_runner_that_was_stopped_past_its_lease_loses_its_rows_to_another_and_goes_on(videos, service):
    gate = videos.folder / "gate"
    videos.add(gate)
    stopped = service("gated", "processes=1, pace=Pace(lease=1.0), forever=True, poll=0.1, listeners=[print]")
    wait_until(lambda: videos.notes())
    first = holder(videos, 1)
    stopped.signal(signal.SIGSTOP)
    other = service("gated", "processes=1, pace=Pace(lease=1.0), forever=True, poll=0.1")
    wait_until(lambda: holder(videos, 1) != first)
    wait_until(lambda: len(videos.notes()) == 2)
    gate.touch()
    wait_until(lambda: videos.statuses() == {"DONE": 1})
    other.signal(signal.SIGTERM)
    assert other.wait() == 0
    second = videos.entry(1)
    # The first worker was not stopped, and its answer lies there: it comes too late.
    wait_until(lambda: len([line for line in videos.notes() if line.startswith("end")]) == 2)
    stopped.signal(signal.SIGCONT)
    wait_until(lambda: "LeaseLapsed" in stopped.text())
    videos.add(gate)
    wait_until(lambda: videos.statuses() == {"DONE": 2})
    stopped.signal(signal.SIGTERM)
    assert stopped.wait() == 0
    assert videos.entry(1) == second
    assert (second["attempt"], second["rescued"], second["fails"], second["lost"]) == (2, 1, 0, 0)


def test_a_runner_that_was_stopped_past_its_lease_begins_no_row_that_another_has_taken(videos, service):
    gate = videos.folder / "gate"
    videos.add("sleep:0.03", "sleep:0.03", f"gate:{gate}", "ok")
    stopped = service("by_content", "processes=1, pace=Pace(lease=1.0), listeners=[print]")
    # The last row is claimed as well, and waits for the worker that runs the one before it.
    wait_until(lambda: len(videos.notes()) == 3 and videos.status(4) == "DOING")
    first = holder(videos, 4)
    stopped.signal(signal.SIGSTOP)
    other = service("by_content", "processes=2, pace=Pace(lease=1.0), forever=True, poll=0.1")
    wait_until(lambda: videos.status(4) == "DONE" and holder(videos, 3) != first)
    gate.touch()
    wait_until(lambda: videos.statuses() == {"DONE": 4})
    other.signal(signal.SIGTERM)
    assert other.wait() == 0
    stopped.signal(signal.SIGCONT)
    assert stopped.wait() == 0
    assert "LeaseLapsed" in stopped.text()
    assert [line.split()[:2] for line in videos.notes() if line.split()[0] == "4"] == [["4", "2"]]
    assert videos.statuses() == {"DONE": 4}


def test_rows_whose_lease_ran_out_between_their_claim_and_their_start_are_not_begun(videos, monkeypatch):
    videos.add("ok")
    read = Lease.read

    def read_late(lease, claims):
        """As when this process is stopped after its claim, and another runner takes the row and runs it meanwhile."""
        rows = read(lease, claims)
        videos.sql("UPDATE pooltable_video_claims SET ended = 't', left_open = 0, closed_at = 1.0")
        videos.sql("UPDATE video SET status = 'DONE'")
        lapsed = time.monotonic() + 0.4
        wait_until(lambda: time.monotonic() > lapsed)
        return rows

    monkeypatch.setattr(Lease, "read", read_late)
    summary = run(missions.by_content, table(videos), processes=1, pace=Pace(lease=0.3))
    assert videos.notes() == []
    assert (summary.done, videos.statuses()) == (0, {"DONE": 1})


def test_two_runners_that_were_both_stopped_past_their_leases_rob_nobody(videos, service):
    gate = videos.folder / "gate"
    videos.add(gate, gate)
    options = "processes=1, pace=Pace(lease=1.0), listeners=[print]"
    both = [service("gated", options), service("gated", options)]
    wait_until(lambda: len(videos.notes()) == 2)
    for running in both:
        running.signal(signal.SIGSTOP)
    wait_until(lambda: videos.sql("SELECT count(*) FROM pooltable_runner WHERE expires_at < ?", time.time()) == [(2,)])
    for running in both:
        running.signal(signal.SIGCONT)
    wait_until(
        lambda: videos.sql("SELECT count(*) FROM pooltable_runner WHERE expires_at > ?", time.time() + 0.3) == [(2,)]
    )
    gate.touch()
    assert [running.wait() for running in both] == [0, 0]
    assert videos.statuses() == {"DONE": 2}
    assert {(videos.entry(key)["attempt"], videos.entry(key)["rescued"]) for key in (1, 2)} == {(1, 0)}


@pytest.mark.parametrize("waiting", ["forever=True", "forever=False"])
def test_a_runner_that_waits_takes_the_rows_of_a_killed_one_at_once(videos, service, waiting):
    gate = videos.folder / "gate"
    videos.add(gate)
    first = service("gated", "processes=1")
    wait_until(lambda: videos.notes())
    videos.add("later:2")  # what the second waits for, while the first lives
    # It is told that the process has ended: its next look would be after half a minute.
    second = service("by_content", f"processes=1, poll=30.0, {waiting}")
    wait_until(lambda: any(" later:2 " in line for line in videos.notes()))
    videos.sql("UPDATE video SET content = 'ok' WHERE id = 1")
    first.signal(signal.SIGKILL)
    first.wait()
    killed = time.monotonic()
    wait_until(lambda: videos.status(1) == "DONE")
    assert time.monotonic() - killed < 15
    wait_until(lambda: videos.statuses() == {"DONE": 2})
    second.signal(signal.SIGTERM)
    second.wait()
    run(missions.nothing, table(videos), processes=1)  # which clears away what the killed one left


def test_a_runner_that_was_killed_and_started_again_finishes_at_once(videos, service):
    videos.add(videos.folder / "gate", "ok")
    first = service("gated", "processes=1")
    wait_until(lambda: videos.notes())
    first.signal(signal.SIGKILL)
    first.wait()
    videos.sql("UPDATE video SET content = 'ok'")
    began = time.monotonic()
    assert run(missions.by_content, table(videos), processes=1).done == 2
    assert time.monotonic() - began < 15  # and not after the lease of 30 s


def test_a_row_that_runs_long_in_the_runners_own_thread_is_taken_by_nobody(videos, service):
    gate = videos.folder / "gate"
    videos.add(gate)
    here = service("gated", "processes=0, pace=Pace(lease=0.5)")
    wait_until(lambda: videos.notes())
    seen = []
    videos.add("later:2")  # which keeps the other one waiting for four leases
    run(missions.by_content, table(videos), processes=1, pace=Pace(lease=0.5), listeners=[seen.append])
    assert not [event for event in seen if isinstance(event, events.RowsRescued)]
    assert len([line for line in videos.notes() if line.startswith("start")]) == 1
    gate.touch()
    assert here.wait() == 0
    assert (videos.status(1), videos.entry(1)["attempt"]) == ("DONE", 1)


def test_rows_whose_claim_was_lost_are_ended_and_their_answers_ignored(videos, service):
    gate = videos.folder / "gate"
    videos.add(gate)
    running = service("gated", "processes=1, pace=Pace(lease=1.0), listeners=[print]")
    wait_until(lambda: videos.notes())
    running.signal(signal.SIGSTOP)
    # As another host's runner would have done meanwhile.
    wait_until(lambda: videos.sql("SELECT count(*) FROM pooltable_runner WHERE expires_at < ?", time.time()) == [(1,)])
    videos.sql("UPDATE pooltable_video_claims SET ended = 't', left_open = 0, closed_at = 1.0")
    videos.sql("UPDATE video SET status = 'PENDING'")
    running.signal(signal.SIGCONT)
    wait_until(lambda: "LeaseLapsed" in running.text())
    wait_until(lambda: len(videos.notes()) == 2)
    gate.touch()
    assert running.wait() == 0
    assert videos.status(1) == "DONE"
