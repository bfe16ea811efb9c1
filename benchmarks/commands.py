"""Many short commands: `pooltable map` against xargs and GNU parallel, as whole programs from start to end.

The variants take turns, each several times, and the median counts. What each costs for one command more is the slope
between a small and a large number of commands: the start of the program is not in it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import _report


def variants(processes: int) -> dict[str, list[str]]:
    """The command lines, by name; each reads arguments from stdin, a line each."""
    found = {
        "xargs": ["xargs", f"-P{processes}", "-n1", "true"],
        "pooltable map": [sys.executable, "-m", "pooltable", "map", "-q", "-j", str(processes), "true"],
        "GNU parallel": ["parallel", f"-j{processes}", "true"],
    }
    return {name: command for name, command in found.items() if shutil.which(command[0])}


def seconds_of(command: list[str], count: int) -> float:
    """How long the command takes for so many arguments, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given = "".join(f"{number}\n" for number in range(count)).encode()
        started = time.perf_counter()
        subprocess.run(command, input=given, cwd=folder, check=True, timeout=300)
        seconds = time.perf_counter() - started
        if any(Path(folder).glob("*.db-wal")):
            raise SystemExit("the run left its database open")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000], help="numbers of commands")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--without", nargs="*", default=[], metavar="NAME", help="leave these out, such as 'GNU parallel'"
    )
    parser.add_argument("--quick", action="store_true", help="a small number, to see that it works")
    asked = parser.parse_args()
    counts = [20, 40] if asked.quick else sorted(asked.counts)
    rounds = 1 if asked.quick else asked.rounds
    commands = {name: command for name, command in variants(asked.processes).items() if name not in asked.without}
    taken: dict[str, list[list[float]]] = {name: [[] for _ in counts] for name in commands}
    for _ in range(rounds):
        for place, count in enumerate(counts):
            for name, command in commands.items():
                taken[name][place].append(seconds_of(command, count))
    medians = {name: [_report.median(seconds) for seconds in all_of] for name, all_of in taken.items()}
    rows = []
    for name, seconds in medians.items():
        slope = (seconds[-1] - seconds[0]) / (counts[-1] - counts[0]) * 1e3
        rows.append([name, *seconds, seconds[-1] / medians["xargs"][-1], slope])
    table = _report.Table(
        f"Seconds for so many times `true`, {asked.processes} at once",
        ["", *(f"{count:,}" for count in counts), f"of xargs, at {counts[-1]:,}", "ms for one more"],
        rows,
        f"Medians of {rounds} rounds in which all take turns; whole programs, from their start to their end."
        " pooltable map keeps every command in a SQLite file, with its end; the others keep nothing.",
    )
    if asked.quick:
        print(table.markdown())
    else:
        _report.write("commands", [table], {"processes": asked.processes, "rounds": rounds, "counts": counts})


if __name__ == "__main__":
    main()
