"""The fenced blocks of a Markdown page, and how each of them is run.

    ```python title="app.py"      written to that file
    ```python                     run as a script
    ```sh                         run by bash, which stops at the first command that fails
    ```text                       right after one of these: what it printed; `...` stands for anything
    ```toml title="..."           written to that file; every other language without a title is only read

A comment in the line before a block changes this:

    <!-- not run: REASON -->      for the rare block that cannot run where tests run
    <!-- exit code: 1 -->         that is what it is expected to end with
    <!-- stopped at: WORDS -->    it never ends by itself: it gets SIGTERM when it has printed these words
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.prepared import Prepared

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds, for one block

SHELL = {"sh", "bash", "shell"}
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<info>.*)$")
_ORDER = re.compile(r"^\s*<!-- (?P<name>not run|exit code|stopped at): (?P<value>.+?) -->\s*$")
_TITLE = re.compile(r'\btitle="(?P<title>[^"]+)"')


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    title: str | None = None
    orders: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return self.title is None and "not run" not in self.orders and self.language in {*SHELL, "python"}

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def pages() -> list[Path]:
    """Every page that holds commands or snippets, without the generated ones."""
    written = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    return sorted(page for page in written if page.parent.name != "reference")


def blocks_of(page: Path) -> list[Block]:
    return list(_read(page))


def _read(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    number, orders = 0, {}
    while number < len(lines):
        if order := _ORDER.match(lines[number]):
            orders[order["name"]] = order["value"]
        elif opened := _FENCE.match(lines[number]):
            first = number + 1
            number = next(n for n in range(first, len(lines)) if lines[n].strip() == opened["fence"])
            text = "\n".join(line.removeprefix(opened["indent"]) for line in lines[first:number])
            language, _, rest = opened["info"].strip().partition(" ")
            title = _TITLE.search(rest)
            yield Block(page, first, language, text + "\n", title["title"] if title else None, orders)
            orders = {}
        elif lines[number].strip():
            orders = {}
        number += 1


def run_page(page: Path, folder: Path, prepared: Prepared | None = None) -> None:
    """Do what the page says, from top to bottom, in that folder; scripts and `pooltable` in prepared processes."""
    output: str | None = None
    for block in blocks_of(page):
        if block.title is not None:
            target = folder / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.runs:
            output = run(block, folder, prepared)
            continue
        elif block.language == "text" and output is not None:
            assert_printed(block, output)
        output = None


def run(block: Block, folder: Path, prepared: Prepared | None = None) -> str:
    """What the block printed on both streams; it must end as the page promises."""
    if block.language in SHELL:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    else:
        script = folder / f"snippet_{block.line}.py"
        script.write_text(block.text, encoding="utf-8")
        command = [sys.executable, script.name]
    environment = _environment(prepared)
    log = folder / f"output_{block.line}.txt"
    with log.open("wb") as sink:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": sink, "stderr": subprocess.STDOUT}
        process: subprocess.Popen[Any]
        if prepared is not None and block.language == "python":
            process = prepared.start([str(script)], folder, environment, **options)
        else:
            process = subprocess.Popen(command, cwd=folder, env=environment, **options)
    try:
        if words := block.orders.get("stopped at"):
            _wait_for(words, log, process)
            process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    output = log.read_text(encoding="utf-8", errors="replace")
    expected = int(block.orders.get("exit code", "0"))
    assert code == expected, f"{block} ended with {code}, not {expected}; it printed:\n{output}"
    return output


def _environment(prepared: Prepared | None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("POOLTABLE_")}
    first = [] if prepared is None else [str(prepared.bin)]
    own["PATH"] = os.pathsep.join([*first, str(Path(sys.executable).parent), own["PATH"]])
    own["COLUMNS"] = "120"
    return own


def _wait_for(words: str, log: Path, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while words not in log.read_text(encoding="utf-8", errors="replace"):
        assert process.poll() is None, f"it ended before it said {words!r}:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"it did not say {words!r} in {PATIENCE:g} s:\n{log.read_text()}"
        time.sleep(0.05)


def assert_printed(expected: Block, output: str) -> None:
    """The lines of `expected` stand in the output, one right after the other; `...` stands for anything."""
    pattern = re.escape(_plain(expected.text)).replace(re.escape("..."), ".*?")
    found = re.search(pattern, _plain(output), re.DOTALL)
    assert found, f"{expected} promises\n{expected.text}\nbut this was printed:\n{output}"


def _plain(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())
