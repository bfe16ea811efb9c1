"""What a worker prints and logs, against real processes."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pooltable.events import WorkerLogged, WorkerPrinted
from pooltable.pool import capture, captured
from pooltable.pool.capture import Reader

PRELUDE = """
import logging, os, subprocess, sys, time
from pooltable.pool import capture
from pooltable.pool.capture import begin, end, progress, rest
capture.install(sys.argv[1], 3)
def wait_for_a_line(): return sys.stdin.readline()
"""


class Worker:
    """A process that is a worker as far as the capture is concerned; `go()` lets it pass one `wait_for_a_line`."""

    def __init__(self, folder: Path, code: str, prelude: str = PRELUDE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", prelude + textwrap.dedent(code), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ended(self, seconds: float = 30) -> int:
        out, err = self.process.communicate(timeout=seconds)
        assert (out, err) == ("", ""), "it came out past the capture"
        return self.process.returncode


Start = Callable[..., Worker]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "capture").mkdir()
    return tmp_path / "capture"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    workers: list[Worker] = []

    def begin(code: str, prelude: str = PRELUDE) -> Worker:
        workers.append(Worker(folder, code, prelude))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


@pytest.fixture
def reader(folder: Path) -> Iterator[Reader]:
    reader = Reader(str(folder))
    yield reader
    reader.close()


def everything(reader: Reader, worker: Worker) -> list[Any]:
    events: list[Any] = list(reader.poll())
    reader.forget(worker.pid)
    return events + reader.poll()


def printed(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, WorkerPrinted))


def logged(events: list[Any]) -> list[str]:
    return [event.record["msg"] for event in events if isinstance(event, WorkerLogged)]


def on_disk(folder: Path) -> int:
    """How many bytes of the disk the files in `folder` take."""
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("that did not come true in time")


def test_prints_of_python_of_c_and_of_children_are_shown_with_the_worker_and_the_row(
    start: Start, reader: Reader
) -> None:
    worker = start("""
        begin((42,), 1)
        print("from Python"); print("on stderr", file=sys.stderr)
        os.write(1, b"from C\\n"); os.write(2, b"from C on 2\\n")
        subprocess.run(["sh", "-c", "echo from a child; echo child err >&2"])
        subprocess.run(["echo", "by file object"], stdout=sys.stdout)
        end()
    """)
    assert worker.ended() == 0
    events = everything(reader, worker)
    assert printed(events).splitlines() == [
        "from Python",
        "on stderr",
        "from C",
        "from C on 2",
        "from a child",
        "child err",
        "by file object",
    ]
    assert {(event.worker, event.pid, event.key) for event in events} == {(3, worker.pid, (42,))}


def test_each_row_gets_its_own_lines_however_many_ran_between_two_polls(start: Start, reader: Reader) -> None:
    worker = start("""
        for key in range(500):
            begin((key, "part"), 1)
            if key % 7 == 0:
                print("row", key)
            end()
        rest()
        print("no row")
    """)
    assert worker.ended() == 0
    lines = [(event.key, event.text) for event in everything(reader, worker)]
    assert lines == [*(((key, "part"), f"row {key}\n") for key in range(0, 500, 7)), (None, "no row\n")]


def test_what_too_many_rows_printed_is_shown_without_a_wrong_key(start: Start, reader: Reader) -> None:
    worker = start(f"""
        print("before"); begin((-1,), 1); print("first", flush=True); end()
        wait_for_a_line()
        for key in range({capture.SLOTS * 3}):
            begin((key,), 1); print("row", key); end()
    """)
    seen: list[Any] = []
    wait_until(lambda: seen.extend(reader.poll()) or "first" in printed(seen))
    worker.go()
    assert worker.ended() == 0
    seen += everything(reader, worker)
    shown = [(event.key, line) for event in seen for line in event.text.splitlines() if line.startswith("row")]
    assert len(shown) == capture.SLOTS * 3
    assert all(key in (None, (int(line.split()[1]),)) for key, line in shown)
    assert shown[-1][0] == (capture.SLOTS * 3 - 1,)


def test_records_come_with_worker_row_and_traceback(start: Start, reader: Reader) -> None:
    worker = start("""
        log = logging.getLogger("my.model")
        log.info("loading %s", "weights", extra={"step": "load", "thing": object})
        begin((7,), 2)
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("decode failed in %r", b"x")
        log.debug("too quiet")
        log.warning("wrong %d", "arguments")
        end()
    """)
    assert worker.ended() == 0
    events = everything(reader, worker)
    assert [type(event) for event in events] == [WorkerLogged] * 3
    first, second, third = events
    assert (first.key, first.record["msg"], first.record["step"]) == (None, "loading weights", "load")
    assert (second.key, second.worker, second.record["levelname"]) == ((7,), 3, "ERROR")
    assert second.record["exc_text"].startswith("Traceback")
    assert second.record["exc_text"].endswith("ZeroDivisionError: division by zero")
    assert (second.record["args"], second.record["exc_info"]) == (None, None)
    assert "wrong %d" in third.record["msg"]
    assert "TypeError" in third.record["msg"]


@pytest.mark.parametrize("configure", [
    "logging.basicConfig(level=logging.DEBUG)",
    "logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)",
    "for name in ('a', None): logging.getLogger(name).addHandler(logging.StreamHandler())",
    """
        import logging.config
        logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False,
            'handlers': {'h': {'class': 'logging.StreamHandler'}}, 'root': {'level': 'INFO', 'handlers': ['h']}})
    """,
    "from rich.logging import RichHandler; logging.basicConfig(handlers=[RichHandler()], level='INFO')",
    "",
])  # fmt: skip
def test_a_handler_of_the_user_never_shows_a_record_twice(start: Start, reader: Reader, configure: str) -> None:
    worker = start(f"""
        {configure}
        begin((1,), 1)
        logging.getLogger("a").warning("only once")
        logging.getLogger().info("and this")
        print("print")
        end()
    """)
    assert worker.ended() == 0
    events = everything(reader, worker)
    assert logged(events) == ["only once", "and this"]
    assert printed(events) == "print\n"


def test_a_file_handler_of_the_user_still_writes_its_file(start: Start, reader: Reader, tmp_path: Path) -> None:
    own = tmp_path / "own.log"
    worker = start(f"""
        logging.basicConfig(filename={str(own)!r}, level=logging.DEBUG, format="%(levelname)s %(message)s")
        logging.info("both"); logging.debug("file only")
    """)
    assert worker.ended() == 0
    assert own.read_text() == "INFO both\nDEBUG file only\n"
    assert logged(everything(reader, worker)) == ["both"]


def test_handlers_inherited_by_fork_do_not_repeat_what_the_parent_shows(start: Start, reader: Reader) -> None:
    worker = start("""
        import logging, os, sys
        logging.basicConfig(level=logging.INFO)
        child = os.fork()
        if child == 0:
            from pooltable.pool import capture
            capture.install(sys.argv[1], 0)
            logging.info("once"); sys.stdout.flush(); os._exit(0)
        os.waitpid(child, 0)
    """, prelude="")  # fmt: skip
    assert worker.ended() == 0
    events = reader.poll()
    assert (logged(events), printed(events)) == (["once"], "")


def test_a_crash_by_sigkill_keeps_everything(start: Start, reader: Reader) -> None:
    worker = start("""
        begin((1,), 1); print("good row"); end()
        begin(("doomed",), 4)
        print("line"); logging.error("record"); print("half a line", end="", flush=True)
        wait_for_a_line()
    """)
    events: list[Any] = []
    wait_until(lambda: events.extend(reader.poll()) or "half" in printed(events))
    worker.process.kill()
    assert worker.ended() == -signal.SIGKILL
    log = reader.log_of(worker.pid, ("doomed",), 4)
    assert re.fullmatch(r"line\n\d\d:\d\d:\d\d ERROR root: record\nhalf a line", log)
    assert reader.log_of(worker.pid, (1,), 1) == "good row\n"
    for pid, key, attempt in (worker.pid, (1,), 2), (worker.pid, (2,), 1), (1, (1,), 1):
        assert reader.log_of(pid, key, attempt) == ""


def test_a_forgotten_worker_leaves_no_file_and_its_last_words_come_with_the_next_poll(
    start: Start, reader: Reader, folder: Path
) -> None:
    worker = start("begin((1,), 1); os.write(1, b'last words'); os.kill(os.getpid(), 9)")
    worker.ended()
    assert reader.now()[0].key == (1,)
    reader.forget(worker.pid)
    assert [(event.key, event.text) for event in reader.poll()] == [((1,), "last words")]  # type: ignore[union-attr]
    assert list(folder.iterdir()) == []
    assert (reader.poll(), reader.now()) == ([], ())


def test_the_end_of_a_run_shows_what_is_left_and_leaves_no_file(start: Start, reader: Reader, folder: Path) -> None:
    worker = start("begin((1,), 1); os.write(1, b'half a line'); end()")
    assert worker.ended() == 0
    assert printed(reader.finish()) == "half a line"
    assert list(folder.iterdir()) == []


def test_now_says_what_each_worker_is_at_and_for_how_long(start: Start, reader: Reader) -> None:
    worker = start("wait_for_a_line(); begin((5, 'x'), 1); wait_for_a_line(); end(); rest(); wait_for_a_line()")
    idle = wait_until(reader.now)[0]
    assert (idle.worker, idle.pid, idle.key) == (3, worker.pid, None)
    worker.go()
    busy = wait_until(lambda: [doing for doing in reader.now() if doing.key])[0]
    assert busy.key == (5, "x")
    assert 0 <= busy.seconds < 10
    wait_until(lambda: reader.now()[0].seconds > busy.seconds)
    worker.go()
    wait_until(lambda: reader.now()[0].key is None)


def test_now_says_how_far_a_row_is_if_its_task_tells(start: Start, reader: Reader) -> None:
    worker = start(
        "begin((1,), 1); progress(3, 10); wait_for_a_line(); progress(7, 0); wait_for_a_line();"
        " begin((2,), 1); wait_for_a_line()"
    )
    wait_until(lambda: [(doing.done, doing.total) for doing in reader.now()] == [(3, 10)])
    worker.go()
    wait_until(lambda: [(doing.done, doing.total) for doing in reader.now()] == [(7, None)])
    worker.go()
    # The next row has told nothing yet.
    wait_until(lambda: [(doing.key, doing.done) for doing in reader.now()] == [((2,), None)])


def test_a_line_without_an_end_is_waited_for_but_not_for_ever(start: Start, reader: Reader) -> None:
    worker = start("""
        begin((1,), 1)
        os.write(1, b"whole\\nhal"); wait_for_a_line(); os.write(1, b"f\\n\\xe2\\x82"); wait_for_a_line()
    """)
    first = wait_until(reader.poll)
    assert printed(first) == "whole\n"
    worker.go()
    assert printed(wait_until(reader.poll)) in ("half\n", "hal")
    time.sleep(2 * captured.PATIENCE)
    assert "\\xe2" not in printed(reader.poll()), "half a character is not shown"


@pytest.mark.timeout(180)
def test_a_flood_is_capped_on_disk_and_in_memory_and_never_blocks(start: Start, reader: Reader, folder: Path) -> None:
    worker = start(f"""
        begin((1,), 1)
        print("the beginning")
        block = b"x" * 1023 + b"\\n"
        for _ in range({capture.FULL // capture.MIB + 36}):
            os.write(1, block * 1024)
        print("the end")
        end()
        wait_for_a_line()
    """)
    shown: list[str] = []

    def done() -> bool:
        for event in reader.poll():
            assert isinstance(event, WorkerPrinted)
            assert len(event.text) < 2 * captured.BURST
            shown.append(event.text)
        return "the end" in "".join(shown[-20:])

    wait_until(done, 50)
    assert on_disk(folder) < capture.TRIM + 4 * capture.MIB
    assert shown[0].startswith("the beginning\n")
    assert "left out" in "".join(shown)
    log = reader.log_of(worker.pid, (1,), 1)
    assert re.fullmatch(r"the beginning\nxxx.*left out.*xxx\nthe end\n", log, re.DOTALL)
    assert len(log) <= 16384 + 100


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("late", [0, 6])
@pytest.mark.parametrize("size", [10, 20])
def test_what_is_written_while_a_flood_is_freed_is_shown_and_kept(
    start: Start, reader: Reader, folder: Path, size: int, late: int, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In sizes of 256 KiB, on both sides of the limit.
    block = 256 * 1024
    monkeypatch.setattr(captured, "TRIM", 8 * block)
    worker = start(f"""
        begin((1,), 1)
        print("the beginning")
        block = (b"x" * 1023 + b"\\n") * {block // 1024}
        os.write(1, block * {size})
        wait_for_a_line()
        os.write(1, block * {late}); print("the end"); end()
        begin((2,), 1); print("the next row"); end(); rest()
        print("no row")
        wait_for_a_line()
    """)
    output = folder / f"3-{worker.pid}.out"
    flood = len("the beginning\n") + size * block
    wait_until(lambda: output.exists() and output.stat().st_size == flood, 50)
    free = captured.free
    freed = 0

    def freed_while_more_is_written(*args: int) -> None:
        nonlocal freed
        freed += 1
        if moment == "after":
            free(*args)
        if freed == 1:
            worker.go()
            written = flood + late * block + len("the end\nthe next row\nno row\n")
            wait_until(lambda: output.stat().st_size == written, 50)
        if moment == "before":
            free(*args)

    monkeypatch.setattr(captured, "free", freed_while_more_is_written)
    events: list[Any] = []
    wait_until(lambda: events.extend(reader.poll()) or "no row" in printed(events), 50)
    texts = {key: printed([event for event in events if event.key == key]) for key in ((1,), (2,), None)}
    assert re.fullmatch(r"the beginning\nxxx.*xxx\nthe end\n", texts[1,], re.DOTALL)
    assert (texts[2,], texts[None]) == ("the next row\n", "no row\n")
    log = reader.log_of(worker.pid, (1,), 1)
    assert re.fullmatch(r"the beginning\nxxx.*left out.*xxx\nthe end\n", log, re.DOTALL)
    assert reader.log_of(worker.pid, (2,), 1) == "the next row\n"
    reader.poll()
    assert on_disk(folder) < captured.TRIM + capture.SIZE + block


def test_no_line_is_lost_however_often_the_file_is_freed_while_it_is_written(
    start: Start, reader: Reader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "TRIM", 64 * 1024)
    monkeypatch.setattr(captured, "BURST", capture.FULL)  # nothing is left out
    lines = 40_000
    start(f"""
        for number in range({lines}):
            os.write(1, b"%1023d\\n" % number)
        wait_for_a_line()
    """)
    events: list[Any] = []
    wait_until(lambda: events.extend(reader.poll()) or printed(events[-1:]).endswith(f"{lines - 1}\n"), 50)
    assert [int(line) for line in printed(events).splitlines()] == list(range(lines))
    reader.poll()
    assert on_disk(folder) < 4 * capture.MIB


def test_of_many_floods_each_keeps_its_beginning_and_its_end(
    start: Start, reader: Reader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "TRIM", capture.MIB)
    rows = captured.ATTEMPTS_KEPT + 4
    worker = start(f"""
        for key in range({rows}):
            begin((key,), 1)
            print("the beginning of", key)
            for _ in range(2):
                os.write(1, (b"x" * 1023 + b"\\n") * 1024)
                wait_for_a_line()
            print("the end of", key)
            end()
        begin((-1,), 1)
        print("all done")
        wait_for_a_line()
    """)
    wait_until(reader.now)
    output = folder / f"3-{worker.pid}.out"
    for flood in range(1, 2 * rows + 1):
        wait_until(lambda size=flood * capture.MIB: output.stat().st_size > size)
        reader.poll()
        worker.go()
    wait_until(lambda: "all done" in printed(reader.poll()))
    for key in range(rows - captured.ATTEMPTS_KEPT + 1, rows):  # the last row is one of those kept
        log = reader.log_of(worker.pid, (key,), 1)
        assert re.fullmatch(rf"the beginning of {key}\nxxx.*left out.*xxx\nthe end of {key}\n", log, re.DOTALL)
        assert "\\x00" not in log
    assert reader.log_of(worker.pid, (0,), 1) == "\n[... 2.0 MiB left out ...]\n"
    assert on_disk(folder) < capture.MIB + (captured.ATTEMPTS_KEPT + 1) * 2 * captured.KEPT + capture.SIZE


def test_where_the_file_system_frees_nothing_a_worker_says_that_it_drops_what_is_too_much(
    start: Start, reader: Reader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(fd: int, begin: int, end: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(captured, "free", free)
    worker = start(f"""
        begin((1,), 1)
        print("the beginning")
        for _ in range({capture.FULL // capture.MIB + 8}):
            sys.stdout.write("y" * 1023 * 1024 + "\\n")
        end()
    """)
    shown: list[Any] = []
    wait_until(lambda: shown.extend(reader.poll()) or worker.process.poll() is not None, 50)
    shown += everything(reader, worker)
    assert printed(shown).startswith("the beginning\nyyy")
    assert "output is dropped here: 64 MiB wait to be read or cannot be freed" in printed(shown)
    assert "\\x00" not in printed(shown)


def test_prints_that_nobody_reads_stop_growing_by_themselves(start: Start, folder: Path) -> None:
    worker = start("""
        text = "y" * (1 << 20)
        for _ in range(200):
            print(text)
        begin((1,), 1)
    """)
    assert worker.ended(60) == 0
    assert max(path.stat().st_size for path in folder.iterdir()) < capture.FULL + 4 * capture.MIB


def test_many_records_are_bounded_per_poll_and_none_is_lost(start: Start, reader: Reader) -> None:
    worker = start("""
        begin((1,), 1)
        for number in range(5000):
            logging.info("%d", number)
    """)
    assert worker.ended(50) == 0
    events: list[Any] = []
    while found := reader.poll():
        assert len(found) < 5000
        events += found
    assert logged(events) == [str(number) for number in range(5000)]


def test_what_brief_rows_write_is_theirs_whichever_way_they_write_it(start: Start, reader: Reader) -> None:
    worker = start("""
        again = open("/dev/stdout", "a")
        begin((1,), 1); print("anew", file=again, flush=True); end(); rest()
        print("of nobody")
        begin((2,), 1); end()
        begin((3,), 1); sys.stdout.write("no end of line"); end()
        begin((4,), 1); os.write(2, b"from C\\n"); end()
    """)
    assert worker.ended() == 0
    assert [(event.key, event.text) for event in everything(reader, worker)] == [
        ((1,), "anew\n"), (None, "of nobody\n"), ((3,), "no end of line"), ((4,), "from C\n"),
    ]  # fmt: skip


def test_a_task_may_take_the_stream_under_stdout_for_one_of_its_own(start: Start, reader: Reader) -> None:
    worker = start("""
        import io
        begin((1,), 1); sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8"); print("mine"); end()
        begin((2,), 1); print("mine again", flush=True); end()
        begin((3,), 1); print("from stderr", file=sys.stderr); end()
    """)
    assert worker.ended() == 0
    shown = "".join(event.text for event in everything(reader, worker) if isinstance(event, WorkerPrinted))
    assert shown == "mine\nmine again\nfrom stderr\n"


@pytest.mark.parametrize(
    "end", ["end()", "time.sleep(0.005); end()", "end(); time.sleep(0.005)"], ids=["brief", "long", "rest"]
)
def test_a_task_that_closes_descriptors_takes_nothing_from_the_rows_after_it(
    start: Start, reader: Reader, tmp_path: Path, end: str
) -> None:
    other = tmp_path / "other"
    code = f"""
        begin((1,), 1); os.close(1); os.close(2); print("still shown"); end()
        begin((2,), 1); os.write(1, b"from C again\\n"); end()
        begin((3,), 1); sys.stdout.close(); end()
        begin((4,), 1); print("stdout is back"); sys.stdout = open(os.devnull, "w"); end()
        begin((5,), 1); sys.stdout = sys.__stdout__; os.closerange(0, 256); print("after closerange"); end()
        mine = [open({str(other)!r}, "a") for _ in range(120)]
        begin((6,), 1); print("numbers taken"); logging.info("record"); end()
    """
    worker = start(code.replace("end()", end))
    assert worker.ended() == 0
    events = everything(reader, worker)
    assert [(event.key, event.text) for event in events if isinstance(event, WorkerPrinted)] == [
        ((1,), "still shown\n"), ((2,), "from C again\n"), ((4,), "stdout is back\n"),
        ((5,), "after closerange\n"), ((6,), "numbers taken\n"),
    ]  # fmt: skip
    assert logged(events) == ["record"]
    assert other.read_text() == "", "a file of the user's got what was printed"


def test_invalid_utf8_nul_and_surrogates_become_text_that_a_database_takes(start: Start, reader: Reader) -> None:
    worker = start(r"""
        begin((1,), 1)
        os.write(1, b"\xff\x00 caf\xc3\xa9\n"); print("\ud800"); logging.error("\ud800 \0 é")
    """)
    assert worker.ended() == 0
    log = reader.log_of(worker.pid, (1,), 1)
    assert log.startswith("\\xff\\x00 café\n\\ud800\n")
    assert "\0" not in log
    assert printed(everything(reader, worker)) == "\\xff\\x00 café\n\\ud800\n"


def test_a_task_that_forks_and_a_changed_directory_do_no_harm(start: Start, reader: Reader) -> None:
    worker = start("""
        begin((1,), 1)
        os.chdir("/"); os.umask(0o777)
        child = os.fork()
        if child == 0:
            begin((99,), 9); print("child", flush=True); end(); os._exit(0)
        os.waitpid(child, 0)
        os.closerange(3, 256); print("parent")
    """)
    assert worker.ended() == 0
    assert [(event.key, event.text) for event in everything(reader, worker)] == [((1,), "child\nparent\n")]


@pytest.mark.parametrize("key", [("k" * 5000,), (b"k" * 5000, 1), tuple("k" * 300 for _ in range(60)), ("é" * 190,)])
def test_a_key_of_any_size_finds_its_log(start: Start, reader: Reader, key: tuple[Any, ...]) -> None:
    worker = start(f"begin({key!r}, 1); print('here'); logging.info('too'); end()")
    assert worker.ended() == 0
    assert reader.log_of(worker.pid, key, 1).startswith("here\n")
    assert all(isinstance(event.key, tuple) for event in reader.poll())


def test_begin_and_end_without_install_do_nothing() -> None:
    capture.begin((1,), 1)
    capture.end()


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    reader = Reader(str(tmp_path / "gone"))
    assert (reader.poll(), reader.now(), reader.log_of(1, (1,), 1)) == ([], (), "")
    reader.forget(1)


def test_the_worker_side_imports_nothing_heavy() -> None:
    code = "import sys, pooltable.pool.capture; print({'rich', 'typer', 'sqlalchemy', 'click'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.alone
def test_a_mark_costs_microseconds(start: Start, reader: Reader) -> None:
    worker = start("""
        started = time.perf_counter()
        for key in range(5000):
            begin((key,), 1); end()
        print(f"took {(time.perf_counter() - started) / 5000 * 1e6:.1f}")
    """)
    assert worker.ended() == 0
    took = float(printed(everything(reader, worker)).split()[1])
    assert took < 200, f"{took} microseconds for begin and end"


def test_what_goes_past_the_limit_on_the_size_of_files_is_dropped_and_no_row_fails(
    start: Start, reader: Reader
) -> None:
    worker = start("""
        import resource
        begin((1,), 1); print("within"); end()
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        begin((2,), 1); print("beyond"); end()
        begin((3,), 1); print("beyond", file=sys.stderr); end()
    """)
    assert worker.ended() == 0
    assert printed(everything(reader, worker)) == "within\nbey"
