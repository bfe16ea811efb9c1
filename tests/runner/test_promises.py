"""What a run promises of itself: when ends are written, who runs what, when it is over, what waiting costs."""

from __future__ import annotations

import signal
import statistics
import threading
import time

import psutil
import pytest

from pooltable import MappingError, Pace, Retry, Runner, TaskTable, UsageError, Workers, events, run
from tests.runner import missions
from tests.runner.videos import wait_until


def table(videos, **options):
    return TaskTable(videos.url, "video", **{"write": ("caption",), **options})


def run_aside(runner):
    """Run it on a thread; `.result()` joins, and gives the summary or raises."""
    found = []

    def work():
        try:
            found.append(runner.run())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def result(seconds=30.0):
        thread.join(seconds)
        assert not thread.is_alive(), "the run did not end"
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    return result


# ---- ends


@pytest.mark.alone
def test_an_end_is_written_within_50_milliseconds_of_its_task(videos):
    videos.add(*["sleep:0.05"] * 30)
    written = {}

    def task(row):
        time.sleep(0.05)
        return f"{time.time()}"

    def note(event):
        if isinstance(event, events.RowsFinished):
            written.update((row.key[0], time.time()) for row in event.rows)

    run(task, table(videos), processes=2, listeners=[note])
    late = [written[key] - float(ended) for key, ended in videos.sql("SELECT id, caption FROM video")]
    assert len(late) == 30
    # Of most: one may meet a moment in which the machine does something else.
    assert statistics.quantiles(late, n=4)[2] < 0.05


@pytest.mark.parametrize("error", sorted(missions.POOL_ERRORS))
@pytest.mark.parametrize("processes", [0, 1])
@pytest.mark.timeout(20)
def test_an_error_of_a_pool_inside_the_task_is_a_failure_of_its_row(videos, processes, error):
    videos.add(error)
    summary = run(missions.raise_as_pools_do, table(videos), processes=processes)
    assert (summary.failed, summary.lost, summary.released) == (1, 0, 0)
    entry = videos.entry(1)
    assert (entry["attempt"], entry["fails"]) == (1, 1)
    assert error in entry["kind"]


@pytest.mark.timeout(20)
def test_a_keyboard_interrupt_that_nobody_asked_for_fails_the_row_in_this_process(videos):
    videos.add("interrupt", "ok")
    summary = run(missions.by_content, table(videos), processes=0)
    assert (summary.done, summary.failed) == (1, 1)


# ---- workers


@pytest.mark.timeout(40)
def test_a_worker_that_cannot_start_is_not_tried_again_and_again_while_another_works(videos):
    videos.add(*["sleep:0.1"] * 30)
    summary = run(
        missions.by_content, table(videos), processes=2, initializer=missions.only_the_first_can_start, listeners=[]
    )
    assert summary.done == 30
    assert sum(line == "start 1" for line in videos.notes()) <= 8


def test_a_run_does_not_wait_for_a_worker_that_is_still_starting(videos):
    videos.add("ok", "ok")
    began = time.monotonic()
    summary = run(
        missions.by_content,
        table(videos),
        processes=2,
        initializer=missions.hang_in_all_but_the_first,
        pace=Pace(grace=60),
    )
    assert summary.done == 2
    assert time.monotonic() - began < 30


def test_a_stop_while_workers_start_needs_no_worker(videos):
    videos.add("ok")
    runner = Runner(missions.by_content, table(videos), processes=1, initializer=missions.hang, pace=Pace(grace=60))
    result = run_aside(runner)
    wait_until(lambda: videos.notes())
    runner.stop()
    assert result().exit_code == 3
    assert videos.statuses() == {"PENDING": 1}
    assert videos.sql("SELECT count(*) FROM pooltable_video_claims") == [(0,)]


def test_an_idle_worker_that_dies_is_replaced(videos):
    ready = []
    service = Runner(
        missions.by_content,
        table(videos),
        processes=1,
        forever=True,
        poll=0.1,
        listeners=[lambda event: ready.append(event.pid) if isinstance(event, events.WorkerReady) else None],
    )
    result = run_aside(service)
    wait_until(lambda: ready)
    psutil.Process(ready[0]).send_signal(signal.SIGKILL)
    wait_until(lambda: len(ready) == 2)
    videos.add("ok")
    wait_until(lambda: videos.statuses() == {"DONE": 1})
    service.stop()
    assert (result().done, result().lost) == (1, 0)


def test_workers_that_were_let_go_come_back_with_the_next_row(videos):
    seen = []
    service = Runner(
        missions.by_content,
        table(videos),
        processes=1,
        forever=True,
        poll=0.1,
        workers=Workers(idle_timeout=0.3),
        listeners=[seen.append],
    )
    result = run_aside(service)
    wait_until(lambda: any(isinstance(event, events.WorkerEnded) and event.why == "idle" for event in seen))
    started = sum(isinstance(event, events.WorkerStarting) for event in seen)
    shown = sum(isinstance(event, events.Progressed) for event in seen)
    wait_until(lambda: sum(isinstance(event, events.Progressed) for event in seen) >= shown + 2)
    assert sum(isinstance(event, events.WorkerStarting) for event in seen) == started == 1
    videos.add("ok")
    wait_until(lambda: videos.statuses() == {"DONE": 1})
    service.stop()
    assert result().exit_code == 0


def test_a_worker_that_fails_row_after_row_while_others_succeed_is_replaced(videos):
    videos.add(*range(400))
    seen = []
    summary = run(
        missions.sick_at_first,
        table(videos),
        processes=2,
        retry=Retry(fails=20, pause=0.01),
        pace=Pace(halt=0),
        listeners=[seen.append],
    )
    assert summary.done == 400
    assert [event.why for event in seen if isinstance(event, events.WorkerEnded)].count("recycled") == 1
    assert 10 <= summary.retried <= 40


def test_a_worker_whose_device_is_ruined_is_replaced_at_once(videos):
    videos.add("ruin", *["ok"] * 5)
    summary = run(missions.ruined_device, table(videos), processes=1)
    assert (summary.done, summary.failed) == (5, 1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_rows_run_under_every_start_method(videos, method):
    videos.add("ok", "killonce", "raise", "stubborn:60", "ok")
    summary = run(
        missions.by_content, table(videos), processes=2, time_limit=1.0, workers=Workers(context=method), listeners=[]
    )
    assert (summary.done, summary.failed, summary.lost) == (3, 2, 1)


# ---- the end of a run


def test_rows_of_other_live_runners_are_counted_and_not_waited_for(videos, service):
    gate = videos.folder / "gate"
    videos.add(gate)
    other = service("gated", "processes=1")
    wait_until(lambda: videos.notes())
    videos.add("ok", "ok")
    summary = run(missions.by_content, table(videos), processes=1)
    assert (summary.elsewhere, summary.left, summary.exit_code) == (1, 0, 0)
    gate.touch()
    assert other.wait() == 0
    assert videos.statuses() == {"DONE": 3}


def test_a_runner_runs_once(videos):
    videos.add("ok")
    runner = Runner(missions.by_content, table(videos), processes=0)
    assert runner.run().done == 1
    with pytest.raises(UsageError, match="once"):
        runner.run()


def test_a_runner_that_was_stopped_before_it_ran_claims_nothing(videos):
    videos.add("ok")
    runner = Runner(missions.by_content, table(videos), processes=1)
    runner.stop()
    summary = runner.run()
    assert (summary.done, summary.left, summary.exit_code) == (0, 1, 3)
    assert videos.sql("SELECT count(*) FROM pooltable_video_claims") == [(0,)]


def test_a_paused_job_waits_and_goes_on(videos):
    videos.add("ok", "ok")
    job = table(videos)
    job.prepare()
    job.pause()
    seen = []
    result = run_aside(Runner(missions.by_content, job, processes=1, poll=0.1, listeners=[seen.append]))
    wait_until(lambda: any(event == events.Paused(True) for event in seen))
    assert videos.statuses() == {"PENDING": 2}
    job.resume()
    assert result().done == 2


def test_a_halt_lets_nothing_run_that_was_claimed_beside_it(videos):
    videos.add(*["raise"] * 2000)
    seen = []
    summary = run(missions.by_content, table(videos), processes=1, pace=Pace(halt=100), listeners=[seen.append])
    assert summary.exit_code == 6
    halted = next(i for i, event in enumerate(seen) if isinstance(event, events.Halted))
    after = {key[0] for event in seen[halted:] if isinstance(event, events.RowsClaimed) for key in event.keys}
    assert not after & {int(line.split()[0]) for line in videos.notes()}


def test_a_service_that_halted_rests_even_when_new_rows_come(videos, monkeypatch):
    monkeypatch.setattr("pooltable.loop.HALT_SECONDS", 2.0)
    videos.add(*["raise"] * 5)
    at = {}

    def listen(event):
        if isinstance(event, events.Halted):
            at["halted"] = time.monotonic()
            videos.add("ok")
        elif isinstance(event, events.RowsClaimed) and "halted" in at:
            at.setdefault("claimed", time.monotonic())

    service = Runner(
        missions.by_content,
        table(videos),
        processes=1,
        forever=True,
        poll=0.1,
        pace=Pace(halt=5),
        listeners=[listen],
    )
    result = run_aside(service)
    wait_until(lambda: "DONE" in videos.statuses())
    service.stop()
    result()
    assert at["claimed"] - at["halted"] > 1.8


# ---- waiting


def seconds_of_processor(pid, seconds=1.5):
    """What a process uses in some seconds; the length of the measurement, not a wait for something."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system


@pytest.mark.parametrize(
    "options",
    [
        "processes=1, max_rows=1",
        "processes=2, workers=Workers(idle_timeout=0.2), forever=True",
        "processes=2, forever=True",
        "processes=1, pace=Pace(halt=0)",
    ],
)
def test_a_runner_that_waits_for_a_long_row_leaves_the_processor_alone(videos, service, options):
    gate = videos.folder / "gate"
    videos.add(gate)
    running = service("gated", options + ", listeners=[print]")
    wait_until(lambda: videos.notes())
    if "idle_timeout" in options:
        wait_until(lambda: "why='idle'" in running.text())
    assert seconds_of_processor(running.process.pid) < 0.3
    gate.touch()
    wait_until(lambda: videos.statuses() == {"DONE": 1})
    running.signal(signal.SIGTERM)
    running.wait()


def test_a_service_with_nothing_to_do_leaves_the_processor_alone(videos, service):
    running = service("caption", "processes=1, forever=True, workers=Workers(idle_timeout=0.2), listeners=[print]")
    wait_until(lambda: "why='idle'" in running.text())
    assert seconds_of_processor(running.process.pid) < 0.15
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


# ---- callbacks and listeners


def test_a_callback_that_never_returns_holds_up_no_row_and_not_the_second_stop(videos):
    videos.add(*["ok"] * 30)
    never = threading.Event()
    runner = Runner(missions.by_content, table(videos), processes=1, callback=lambda row, value: never.wait())
    result = run_aside(runner)
    wait_until(lambda: videos.statuses() == {"DONE": 30})
    runner.stop()
    runner.stop()
    try:
        assert result().done == 30
    finally:
        never.set()


def test_a_listener_that_never_returns_does_not_keep_a_run_from_its_end(videos):
    videos.add("ok")
    never = threading.Event()
    try:
        assert run(missions.by_content, table(videos), processes=0, listeners=[lambda event: never.wait()]).done == 1
    finally:
        never.set()


def test_a_callback_that_exits_ends_neither_the_callbacks_nor_the_run(videos):
    videos.add("ok", "ok", "ok")
    seen = []

    def callback(row, value):
        seen.append(row.id)
        raise SystemExit(3)

    assert run(missions.by_content, table(videos), processes=0, callback=callback).done == 3
    assert sorted(seen) == [1, 2, 3]


def test_a_callback_may_stop_the_run(videos):
    videos.add(*["sleep:0.05"] * 100)
    runner = Runner(missions.by_content, table(videos), processes=1, callback=lambda row, value: runner.stop())
    summary = runner.run()
    assert 1 <= summary.done < 100
    assert summary.exit_code == 3


def test_what_a_callback_starts_can_be_ended_by_a_signal(videos):
    import subprocess

    videos.add("ok")
    codes = []

    def callback(row, value):
        child = subprocess.Popen(["sleep", "30"])
        child.terminate()
        try:
            codes.append(child.wait(5))
        finally:
            child.kill()
            child.wait()

    run(missions.by_content, table(videos), processes=0, callback=callback)
    assert codes == [-signal.SIGTERM]


def test_two_runs_in_one_process_do_not_mix_their_tasks(videos):
    videos.sql("CREATE TABLE other(id INTEGER PRIMARY KEY, content TEXT, status TEXT, caption TEXT)")
    videos.add(*range(60))
    videos.sql("INSERT INTO other(content, status) SELECT content, 'PENDING' FROM video")

    def slowly(word):
        def task(row):
            time.sleep(0.002)
            return word

        return task

    others = TaskTable(videos.url, "other", write=("caption",))
    result = run_aside(Runner(slowly("other"), others, processes=0))
    run(slowly("video"), table(videos), processes=0)
    assert result().done == 60
    assert videos.sql("SELECT DISTINCT caption FROM video") == [("video",)]
    assert videos.sql("SELECT DISTINCT caption FROM other") == [("other",)]


def test_memory_may_be_given_as_text(videos):
    videos.add("ok")
    assert run(missions.by_content, table(videos), processes=1, workers=Workers(memory="1GB")).done == 1


@pytest.mark.parametrize("bad", [{"lease": 0}, {"grace": -1}, {"halt": -1}, {"db_wait": -1}, {"lease": "long"}])
def test_a_pace_that_makes_no_sense_is_refused_by_name(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Pace(**bad)


def test_a_setting_of_workers_that_makes_no_sense_is_refused_before_anything_is_claimed(videos):
    videos.add("ok")
    with pytest.raises(UsageError, match="maxtasksperchild"):
        run(missions.by_content, table(videos), processes=1, workers=Workers(maxtasksperchild=0))
    assert videos.statuses() == {"PENDING": 1}


def test_a_row_whose_key_was_changed_while_it_ran_is_counted_as_left(videos, service):
    gate = videos.folder / "gate"
    videos.add(f"gate:{gate}", "ok")
    running = service("by_content", "processes=2")
    wait_until(lambda: len(videos.notes()) == 2 and videos.status(2) == "DONE")
    videos.sql("UPDATE video SET id = 101 WHERE id = 1")
    gate.touch()
    assert running.wait() == 3
    assert "left=1" in running.text()
    assert "1 row is left as running" in running.text()
    assert "pooltable release --foreign" in running.text()
    assert TaskTable(videos.url, "video").release(foreign=True) == 1
    assert run(missions.nothing, TaskTable(videos.url, "video"), processes=1).exit_code == 0
    assert videos.statuses() == {"DONE": 2}


def test_rows_whose_claims_were_removed_while_they_ran_are_counted_as_left(videos, service):
    gate = videos.folder / "gate"
    videos.add(f"gate:{gate}", f"gate:{gate}", "ok")
    running = service("by_content", "processes=2")
    wait_until(lambda: len(videos.notes()) == 2)
    videos.sql("DELETE FROM pooltable_video_claims")
    gate.touch()
    assert running.wait() == 3
    assert videos.statuses() == {"DOING": 2, "DONE": 1}
    assert "left=2" in running.text()


def test_a_row_that_was_deleted_while_it_ran_is_not_left(videos, service):
    gate = videos.folder / "gate"
    videos.add(f"gate:{gate}", "ok")
    running = service("by_content", "processes=2")
    wait_until(lambda: len(videos.notes()) == 2)
    videos.sql("DELETE FROM video WHERE id = 1")
    gate.touch()
    assert running.wait() == 0


def test_rows_with_null_for_a_key_are_counted_as_left(videos, caplog):
    videos.sql("CREATE TABLE page(name TEXT PRIMARY KEY, content TEXT, status TEXT DEFAULT 'PENDING')")
    videos.sql("INSERT INTO page(name, content) VALUES ('a', 'ok'), (NULL, 'ok'), (NULL, 'ok')")
    pages = TaskTable(videos.url, "page", columns=["content"])
    summary = run(missions.nothing, pages, processes=1)
    assert (summary.done, summary.left, summary.exit_code) == (1, 2, 3)
    assert "2 rows wait with NULL in the key" in caplog.text
    assert [f.level for f in pages.findings() if f.what == "rows without a key"] == ["warning"]


def test_a_row_that_would_get_null_for_a_key_is_not_added(videos):
    videos.sql("CREATE TABLE page(name TEXT PRIMARY KEY, content TEXT, status TEXT)")
    videos.sql("CREATE TABLE made(name TEXT PRIMARY KEY DEFAULT (hex(randomblob(8))), content TEXT, status TEXT)")
    videos.sql("INSERT INTO page VALUES (NULL, 'old', 'PENDING')")
    with pytest.raises(MappingError, match="2 of 3 rows would have NULL for the key name"):
        TaskTable(videos.url, "page").add([{"name": "a"}, {"content": "b"}, {"name": None, "content": "c"}])
    assert videos.sql("SELECT content FROM page") == [("old",)]
    assert TaskTable(videos.url, "page").add([{"name": "a"}]) == 1
    assert TaskTable(videos.url, "made").add([{"content": "b"}]) == 1


@pytest.mark.parametrize("forever", ["forever=True", "forever=False"])
def test_a_row_that_comes_while_another_runs_gets_a_worker_also_after_idle_ones_were_let_go(videos, service, forever):
    gate = videos.folder / "gate"
    videos.add(f"gate:{gate}", "sleep:0.3")
    running = service(
        "by_content", f"processes=2, workers=Workers(idle_timeout=0.2), poll=0.2, {forever}, listeners=[print]"
    )
    wait_until(lambda: "WorkerEnded" in running.text())
    videos.add("ok", "later:0.5")
    wait_until(lambda: videos.status(3) == videos.status(4) == "DONE")
    assert videos.status(1) == "DOING"
    gate.touch()
    wait_until(lambda: videos.status(1) == "DONE")
    if forever == "forever=True":
        running.signal(signal.SIGTERM)
    assert running.wait() == 0
