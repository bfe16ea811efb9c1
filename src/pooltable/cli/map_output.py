"""What `pooltable map` tells of each command that ended: its output on stdout, a line in the job log, when to halt.

All of it happens on the runner's thread for callbacks, one command after the other, after the row's end was written.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pooltable.arguments import HERE, Given, MappedCommandFailed, Ran, output_of
from pooltable.cli.show import at_plain, json_text, plain
from pooltable.errors import SettingError, TimeLimitExceeded, WorkerLost, describe

_HALT = re.compile(r"(?P<when>now|soon),(?P<what>fail|success|done)=(?P<count>[1-9]\d*)(?P<percent>%?)")
HEAD = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"


@dataclass(frozen=True)
class Halt:
    """When to stop: after `count` commands, or per cent of all, that failed, succeeded, or either (`what` "done")."""

    now: bool
    what: str
    count: int
    percent: bool

    def reached(self, succeeded: int, failed: int, total: int) -> bool:
        counted = {"fail": failed, "success": succeeded, "done": succeeded + failed}[self.what]
        return counted * 100 >= self.count * total if self.percent else counted >= self.count


def read_halt(text: str) -> Halt | int:
    """GNU parallel's words, or as in `run` the number of commands in a row that failed alike; 0: never.

    Raises SettingError.
    """
    if text == "never":
        return 0
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return int(text)
    found = _HALT.fullmatch(text)
    if found is None or (found["percent"] and int(found["count"]) > 100):
        raise SettingError(f"--halt: write a number, never, or (now|soon),(fail|success|done)=N or =N%, not {text!r}")
    return Halt(found["when"] == "now", found["what"], int(found["count"]), bool(found["percent"]))


class JobLog:
    """A file in the columns of GNU parallel's --joblog; later runs add to it."""

    def __init__(self, name: str) -> None:
        try:
            self._file = Path(name).open("a", encoding="utf-8", errors="surrogateescape", newline="\n", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise SettingError(f"--joblog: cannot write to {name!r}: {error.strerror}") from None
        if self._file.tell() == 0:
            self._write(HEAD)

    def write(self, given: Given, ran: Ran, size: int, code: int, number: int, command: str) -> None:
        line = (
            f"{given.seq}\t{given.host or HERE}\t{ran.started:.3f}\t{ran.seconds:10.3f}\t0\t{size}\t{code}\t{number}\t"
        )
        self._write(line + command.replace("\n", "\\n") + "\n")

    def close(self) -> None:
        with suppress(OSError):  # told when it was written
            self._file.close()

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise SettingError(f"--joblog: cannot write to {self._file.name!r}: {error.strerror}") from None


@dataclass(frozen=True)
class End:
    """How a command ended, in the terms of GNU parallel's job log: exit -1 where it was ended or never ran."""

    ran: Ran
    code: int
    signal: int


class Results:
    """Takes the ends of the commands; `order` is the seq of each in which output is to be printed, None: as it comes.

    `stop(now)` ends the run early.
    """

    def __init__(
        self,
        outputs: str,
        command: Callable[[Given], str],
        stop: Callable[[bool], object],
        complain: Callable[[str], object],
        *,
        total: int,
        order: Sequence[int] | None = None,
        tag: bool = False,
        as_json: bool = False,
        job_log: JobLog | None = None,
        halt: Halt | None = None,
    ) -> None:
        self.halted = False
        self.unwritable: OSError | None = None
        self._outputs = outputs
        self._command = command
        self._stop = stop
        self._complain = complain
        self._total = total
        self._order = list(order or ())[::-1]  # the next one comes last
        self._keeps_order = order is not None
        self._held: list[tuple[int, int, Given, End]] = []
        self._tag = tag
        self._as_json = as_json
        self._job_log = job_log
        self._halt = halt
        self._succeeded = self._failed = 0

    def done(self, row: Any, ran: Ran) -> None:
        """The callback for a row that is DONE."""
        self._succeeded += 1
        self._ended(row, End(ran, 0, 0))

    def failed(self, row: Any, error: BaseException) -> None:
        """The callback for a row that FAILED."""
        self._failed += 1
        given = _given(row)
        match error:
            case MappedCommandFailed(ran=Ran() as ran):
                code, number = max(0, error.exitcode), max(0, -error.exitcode)
                self._complain(describe(error).reason)
            case TimeLimitExceeded():
                ran, code, number = Ran(time.time() - error.seconds, error.seconds), -1, 15
                self._complain(f"ended after {error.seconds:g} s: {self._named(given)}")
            case _:
                number = max(0, -(error.exitcode or 0)) if isinstance(error, WorkerLost) else 0
                ran, code = Ran(time.time(), 0.0), -1
                self._complain(f"{describe(error).reason}: {self._named(given)}")
        self._ended(row, End(ran, code, number))

    def close(self) -> None:
        """Print what was held back for others that did not end."""
        while self._held and self.unwritable is None:
            self._print(*heapq.heappop(self._held)[1:])

    def _named(self, given: Given) -> str:
        return f"{given.host}: {self._command(given)}" if given.host else self._command(given)

    def _ended(self, row: Any, end: End) -> None:
        given = _given(row)
        size = 0
        with suppress(OSError):
            size = os.stat(output_of(self._outputs, row.id)).st_size
        if self._keeps_order:
            heapq.heappush(self._held, (given.seq, row.id, given, end))
            while self._held and self._order and self._held[0][0] <= self._order[-1]:
                if self._held[0][0] == self._order[-1]:
                    self._order.pop()
                self._print(*heapq.heappop(self._held)[1:])
        else:
            self._print(row.id, given, end)
        if self._halt is not None and not self.halted:
            self.halted = self._halt.reached(self._succeeded, self._failed, self._total)
            if self.halted:
                self._stop(self._halt.now)
        if self._job_log is not None:
            # Last, because it may raise, when the disk is full.
            self._job_log.write(given, end.ran, size, end.code, end.signal, self._command(given))

    def _print(self, id: int, given: Given, end: End) -> None:
        path = output_of(self._outputs, id)
        if self._as_json:
            self._print_json(path, given, end)
            return
        try:
            with open(path, "rb") as out:
                os.unlink(path)
                if self.unwritable is None and sys.stdout is not None:
                    _copy(out, sys.stdout.buffer, _tag_of(given) if self._tag else b"")
        except FileNotFoundError:
            pass  # it never began, or printed nothing
        except OSError as error:
            self._stop_writing(error)

    def _print_json(self, path: str, given: Given, end: End) -> None:
        """One line: what was run, how it ended, and what it printed."""
        try:
            printed = Path(path).read_bytes()
            os.unlink(path)
        except FileNotFoundError:
            printed = b""
        told = {
            "seq": given.seq,
            "host": given.host or HERE,
            "arguments": [plain(one) for one in given.arguments],
            "command": plain(self._command(given)),
            "exit": end.code,
            "signal": end.signal,
            "started": at_plain(end.ran.started),
            "seconds": round(end.ran.seconds, 6),
            "output": printed.decode("utf-8", "backslashreplace"),
        }
        if self.unwritable is not None or sys.stdout is None:
            return
        try:
            sys.stdout.write(json_text(told) + "\n")
            sys.stdout.flush()
        except OSError as error:
            self._stop_writing(error)

    def _stop_writing(self, error: OSError) -> None:
        """Nobody reads on, or the disk is full: to run more commands for that would be in vain."""
        self.unwritable = error
        self._stop(True)


def _given(row: Any) -> Given:
    return Given(row.seq, row.host, tuple(json.loads(row.arguments)))


def _tag_of(given: Given) -> bytes:
    return os.fsencode(" ".join([*([given.host] if given.host else []), *given.arguments])) + b"\t"


def _copy(out: IO[bytes], to: IO[bytes], tag: bytes) -> None:
    if tag:
        for line in out:
            to.write(tag + line)
    else:
        shutil.copyfileobj(out, to)
    to.flush()
