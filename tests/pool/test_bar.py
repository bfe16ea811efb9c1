"""The progress of a map: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooltable import Pool
from pooltable.pool import bar
from tests.pool.conftest import MakePool
from tests.pool.helpers import nap

SCRIPT = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
from pooltable import Pool
from tests.pool.helpers import nap

if __name__ == "__main__":
    with Pool(2) as pool:
        print(len(pool.map(nap, [0.02] * 30, progress="naps [of 30]")))
"""


def naps(count: int) -> Iterator[float]:
    for _ in range(count):
        yield 0.01


def test_without_a_terminal_there_is_a_line_now_and_then(
    pool: MakePool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bar._Lines, "seconds", 0.1)
    p = pool(2)
    assert p.map(nap, [0.03] * 20, progress=True) == [None] * 20
    out, err = capfd.readouterr()
    *lines, last = err.splitlines()
    assert last.startswith("nap: 20/20 (100%) in ")
    assert lines
    assert all(line.startswith("nap: ") and "/20 (" in line for line in lines)
    assert any(line.endswith(" left") for line in lines)
    # How many there are is known at the end of a source that does not say; the last chunk is a short one.
    assert len(list(p.imap(nap, naps(31), 7, progress="in order"))) == 31
    assert capfd.readouterr().err.splitlines()[-1].startswith("in order: 31/31 (100%) in ")
    assert len(list(p.imap_unordered(nap, [0.01] * 20, progress="as they come"))) == 20
    assert capfd.readouterr().err.splitlines()[-1].startswith("as they come: 20/20 (100%) in ")
    assert p.starmap(nap, [(0.01, n) for n in range(10)], progress="pairs") == list(range(10))
    assert capfd.readouterr().err.splitlines()[-1].startswith("pairs: 10/10 (100%) in ")
    assert out == ""


def test_a_bar_ends_with_an_error_a_dropped_iterator_and_a_terminated_pool(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bar._Lines, "seconds", 10.0)
    with Pool(2) as pool:
        with pytest.raises(TypeError):
            pool.map(nap, ["not a number"] * 3, progress="wrong")
        values = pool.imap(nap, [0.01] * 2000, progress="dropped")
        next(values)
        del values
        monkeypatch.setattr(bar._Lines, "seconds", 0.1)
        left = pool.imap(nap, [60.0] * 4, progress="ended")
        pool.terminate()
        pool.join()
        with pytest.raises(Exception):  # noqa: B017 - the error is another test's business
            next(left)
    end = time.monotonic() + 10
    while any(thread.name == "pooltable-bar" for thread in bar.threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)
    shown = [line.partition(":")[0] for line in capfd.readouterr().err.splitlines()]
    assert list(dict.fromkeys(shown)) == ["wrong", "dropped", "ended"]


@pytest.mark.parametrize(
    ("missing", "shape"),
    [((), "━"), (("rich.progress",), "it/s"), (("rich.progress", "tqdm"), "100%")],
    ids=["rich", "tqdm", "lines"],
)
def test_on_a_terminal_there_is_a_bar_by_whatever_library_there_is(
    tmp_path: Path, missing: tuple[str, ...], shape: str
) -> None:
    script = tmp_path / "naps.py"
    script.write_text(SCRIPT)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, script, *missing], stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment
    )
    os.close(theirs)
    drawn = b""
    try:
        while part := os.read(ours, 4096):
            drawn += part
    except OSError:
        pass  # how a terminal says that nobody writes any more
    finally:
        os.close(ours)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "30\n")
    text = drawn.decode()
    assert "naps [of 30]" in text
    assert shape in text
    assert "30/30" in text
