"""The words and levels of log lines."""

from __future__ import annotations

import json
import logging
import re
import typing
from collections.abc import Iterator

import pytest

from pooltable import events, logs
from pooltable.errors import WorkerStartError
from pooltable.events import RowEnd, RowNotWritten, RowsFinished, Summary, WorkerLogged, WorkerPrinted

SUMMARY = Summary("ab12", 10, 2, 1, 0, 0, 0, 3, 0, 75.0, 4.25, {"ValueError": 2}, 3, "stopped")


@pytest.fixture
def heard() -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logs.log.addHandler(handler)
    logs.log.setLevel(logging.DEBUG)
    yield records
    logs.log.removeHandler(handler)
    logs.log.setLevel(logging.NOTSET)


def end(how: events.End, **facts: object) -> RowsFinished:
    row = RowEnd(key=(42,), attempt=2, end=how, worker=3, seconds=0.31, **facts)  # type: ignore[arg-type]
    return RowsFinished((row,), 0.01)


@pytest.mark.parametrize(
    ("event", "level", "text"),
    [
        (end("done"), "DEBUG", "row 42 done in 0.31 s (worker 3, attempt 2)"),
        (end("failed", reason="E: x"), "ERROR", "row 42 failed after 0.31 s (worker 3, attempt 2): E: x"),
        (
            end("retry", kind="E", pause=1.0),
            "WARNING",
            "row 42 failed after 0.31 s (worker 3, attempt 2) and is tried again in 1 s: E",
        ),
        (end("later", pause=90.0), "INFO", "row 42 is put off for 90 s (worker 3, attempt 2)"),
        (end("released"), "INFO", "row 42 is given back (worker 3, attempt 2)"),
    ],
)
def test_an_end_is_told_with_row_worker_and_attempt(
    heard: list[logging.LogRecord], event: RowsFinished, level: str, text: str
) -> None:
    logs.Logs()(event)
    assert [(record.levelname, record.getMessage()) for record in heard] == [(level, text)]
    assert (heard[0].__dict__["worker"], heard[0].__dict__["key"], heard[0].__dict__["attempt"]) == (3, (42,), 2)


def test_every_event_has_words_that_are_one_line(heard: list[logging.LogRecord]) -> None:
    told: list[events.Event] = [
        events.RunStarted("job", "video", "ab12", 1, 4, 100),
        events.Waiting(3, 12.0),
        events.Waiting(0, None),
        events.Paused(True),
        events.Paused(False),
        *(events.Stopping(step, "SIGTERM", 2, 8.0) for step in ("drain", "now", "leave")),
        events.Halted("ValueError", 20, "x", None),
        events.Halted("ValueError", 20, "x", 60.0),
        events.RunEnded(SUMMARY),
        events.WorkerStarting(1, 11),
        events.WorkerReady(1, 11, 0.5),
        *(
            events.WorkerEnded(1, 11, -9, why)
            for why in ("lost", "start failed", "recycled", "idle", "killed", "stopped")
        ),
        events.WorkersBroken(OSError("no model")),
        events.RowsClaimed(3, 0.01),
        *(RowNotWritten((1, "a"), 1, why, "more") for why in typing.get_args(events.NotWritten)),
        events.RowsRescued(3, 1, ("ab", "cd")),
        events.EndsForgotten(2, 1),
        events.DatabaseAway("gone"),
        events.DatabaseBack(3.0),
        events.LeaseLapsed(3.0, 1, 2),
        *(events.Noticed(what, 3, "x") for what in [*logs.NOTICES, "something new"]),
    ]
    listener = logs.Logs()
    for event in told:
        before = len(heard)
        listener(event)
        assert len(heard) == before + 1, event
        assert "\n" not in heard[-1].getMessage()
        assert "{" not in heard[-1].getMessage()


def test_what_is_told_of_one_row_is_told_of_one(heard: list[logging.LogRecord]) -> None:
    listener = logs.Logs()
    for event in (
        events.RowsClaimed(1, 0.01),
        events.Waiting(1, 3.0),
        events.Stopping("drain", "SIGTERM", 1, 8.0),
        events.Stopping("now", "SIGTERM", 1, 0.0),
        events.RowsRescued(1, 1, ("ab",)),
        events.EndsForgotten(1, 0),
        *(events.Noticed(what, 1, "x") for what in logs.NOTICES if what != "large columns"),
    ):
        listener(event)
    told = [record.getMessage() for record in heard]
    assert [text for text in told if re.search(r"\b1 (running )?(rows|wait|are)\b", text)] == []
    assert "claimed 1 row in 0.01 s" in told
    assert "1 row waits again that a runner that is gone held (ab); 1 is FAILED, for that was the last try" in told


def test_a_worker_that_dies_with_its_row_is_told_by_the_row(heard: list[logging.LogRecord]) -> None:
    listener = logs.Logs()
    listener(events.WorkerEnded(1, 11, -11, "lost", running=True))
    listener(events.WorkerEnded(2, 12, -11, "lost"))
    assert [record.levelno for record in heard] == [logging.DEBUG, logging.WARNING]


def test_a_traceback_of_a_worker_that_could_not_start_is_told_whole(heard: list[logging.LogRecord]) -> None:
    logs.Logs()(events.WorkerEnded(1, 11, 1, "start failed", "Traceback\n  line\nOSError: no model\n"))
    assert heard[0].getMessage().endswith("OSError: no model")


def test_workers_that_all_fail_to_start_alike_tell_it_once(heard: list[logging.LogRecord]) -> None:
    listener = logs.Logs()
    for worker, error in ((0, "no model"), (1, "no model"), (0, "no device"), (1, "no model")):
        listener(events.WorkerEnded(worker, 11, 1, "start failed", f"Traceback\n  line\nOSError: {error}\n"))
    listener(events.WorkersBroken(WorkerStartError("no worker can be started: OSError: no model")))
    listener(events.WorkerEnded(1, 12, -15, "killed"))
    loud = [record.getMessage().splitlines()[-1] for record in heard if record.levelno > logging.INFO]
    assert loud == ["OSError: no model", "OSError: no device"]
    assert "no worker can be started: OSError: no model" in [record.getMessage() for record in heard]


def test_a_worker_that_was_still_starting_when_the_run_ended_is_no_accident(heard: list[logging.LogRecord]) -> None:
    listener = logs.Logs()
    for event in (events.WorkerStarting(0, 11), events.WorkerStarting(1, 12), events.WorkerReady(1, 12, 0.5)):
        listener(event)
    listener(events.WorkerEnded(0, 11, -15, "killed"))
    assert all(record.levelno < logging.WARNING for record in heard)
    listener(events.WorkerEnded(1, 12, -9, "killed", "it sent what no worker sends"))
    assert heard[-1].levelno == logging.WARNING


def test_a_workers_record_is_logged_again_under_its_own_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    record = {"name": "my.model", "levelno": 40, "levelname": "ERROR", "msg": "100% wrong", "args": None, "lineno": 7}
    logs.Logs()(WorkerLogged(3, 11, (42,), {**record, "exc_text": "Traceback ..."}))
    logs.Logs()(WorkerLogged(3, 11, (42,), {**record, "levelno": 10, "levelname": "DEBUG"}))
    (heard,) = caplog.records
    assert (heard.name, heard.getMessage(), heard.__dict__["worker"], heard.__dict__["key"]) == (
        "my.model", "100% wrong", 3, (42,),
    )  # fmt: skip
    plain = logs.PlainFormatter().format(heard)
    assert plain.split(" ", 1)[1] == "worker 3 row 42 ERROR my.model: 100% wrong\nTraceback ..."
    found = json.loads(logs.JsonFormatter().format(heard))
    assert (found["message"], found["worker"], found["key"], found["exception"]) == (
        "100% wrong", 3, [42], "Traceback ...",
    )  # fmt: skip


def test_prints_go_to_stderr_where_nobody_set_up_logging(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = WorkerPrinted(3, 11, (1, "a"), "one\n  two\n\n")
    caplog.set_level(logging.WARNING, "pooltable.output")
    logs.Logs()(printed)
    assert capsys.readouterr().err == "worker 3 row 1,a: one\nworker 3 row 1,a:   two\n"
    caplog.set_level(logging.INFO, "pooltable.output")
    logs.Logs()(printed)
    assert [record.getMessage() for record in caplog.records] == ["one", "  two"]
    assert capsys.readouterr().err == ""


def test_a_sentence_of_ours_is_harmless_wherever_it_goes_and_exact_in_json(heard: list[logging.LogRecord]) -> None:
    logs.Logs()(
        RowsFinished((RowEnd(("a\x1b[2J\nb",), 1, "failed", 0, 0.1, "E", "E: \x1b]0;title\x07\u202e\x9bbad"),), 0.1)
    )
    assert heard[0].getMessage() == "row a b failed after 0.1 s (worker 0, attempt 1): E: bad"
    assert logs.PlainFormatter().format(heard[0]).endswith(": E: bad")
    found = json.loads(logs.JsonFormatter().format(heard[0]))
    assert found["message"].endswith("E: \x1b]0;title\x07\u202e\x9bbad")
    assert found["key"] == ["a\x1b[2J\nb"]


def test_a_workers_record_is_printed_harmless_where_nobody_set_up_logging(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    record = {"name": "my.model", "levelno": 40, "levelname": "ERROR", "msg": "a\x1b[31m\x1b[2J\u202eb", "args": None}
    logs.Logs()(WorkerLogged(3, 11, (42,), record))
    assert capfd.readouterr().err == "ab\n"


def test_a_plain_line_of_a_log_has_no_colours_unless_it_goes_to_a_terminal() -> None:
    record = logging.makeLogRecord({"name": "my", "levelname": "INFO", "msg": "\x1b[31mred\x1b[0m\x1b[2J\ntwo"})
    assert logs.PlainFormatter().format(record).endswith("INFO my: red\ntwo")
    assert logs.PlainFormatter(colours=True).format(record).endswith("INFO my: \x1b[31mred\x1b[0m\ntwo\x1b[0m")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"), (0.0042, "0.0042 s"), (0.31, "0.31 s"), (9.94, "9.9 s"), (9.96, "10 s"), (119.4, "119 s"),
        (200, "3 min 20 s"), (7199.6, "2 h 00 min"), (7500, "2 h 05 min"),
    ],
)  # fmt: skip
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert logs.seconds_text(seconds) == text


def test_the_summary_is_one_line_with_all_that_is_not_zero() -> None:
    assert logs.summary_text(SUMMARY) == (
        "10 done, 2 failed, 1 tried again, 3 left; 75 s, 4.25 rows/s; failures: 2 ValueError"
    )
