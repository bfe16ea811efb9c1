"""A model asked for one row at a time against many at once: rows a second of examples/embeddings, on one SQLite file.

Every number of rows at once is run with as many workers as there are cores, one thread each, over the same texts. All
take turns, so that a busy minute of the machine hits all of them. `model alone` is one process without a table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import _report
from pooltable.cores import usable_cores

EXAMPLE = Path(__file__).parent.parent / "examples" / "embeddings"
SIZES = (1, 4, 16, 64, 256)


def one_row(row: object) -> object:
    import embeddings  # type: ignore[import-not-found]

    (result,) = embeddings.embed([row])
    if isinstance(result, Exception):
        raise result
    return result


def run_size(size: int, processes: int) -> dict[str, float]:
    """The rows of texts.db in the current folder, `size` at once; 1 is row by row."""
    import embeddings

    from benchmarks._span import Span
    from pooltable import TaskTable, Workers, run

    span = Span()
    summary = run(
        one_row if size == 1 else embeddings.embed,
        TaskTable("sqlite:///texts.db", "text", write=("vector",)),
        processes=processes,
        initializer=embeddings.load_model,
        batch=size,
        workers=Workers(threads=1),
        listeners=(span,),
    )
    return {"rate": (summary.done + summary.failed) / span.seconds}


def run_alone(size: int) -> dict[str, float]:
    """The model by itself in one process and one thread, without a table: texts a second."""
    import sqlite3
    from collections import namedtuple
    from contextlib import closing

    import embeddings

    from pooltable.tasks import Current

    embeddings.current = lambda: Current((), 0, "", worker=0, threads=1, device=None)
    embeddings.load_model()
    row = namedtuple("row", "content")
    with closing(sqlite3.connect("texts.db")) as db:
        rows = [row(*found) for found in db.execute("SELECT content FROM text")]
    began = time.perf_counter()
    for at in range(0, len(rows), size):
        embeddings.embed(rows[at : at + size])
    return {"rate": len(rows) / (time.perf_counter() - began)}


def measure(what: str, size: int, texts: int, processes: int, folder: Path) -> float:
    """One run in a program of its own, over a fresh table."""
    for file in folder.glob("texts.db*"):
        file.unlink()
    subprocess.run([sys.executable, "make_table.py", str(texts)], cwd=folder, check=True, timeout=120)
    command = [sys.executable, "-m", "benchmarks.batches", "--one", what, "--size", str(size)]
    paths = os.pathsep.join([str(folder), str(EXAMPLE.parent.parent)])
    done = subprocess.run(
        [*command, "--processes", str(processes)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return float(json.loads(done.stdout.splitlines()[-1])["rate"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches", description=__doc__)
    parser.add_argument("--texts", type=int, default=4_000)
    parser.add_argument("--processes", type=int, default=usable_cores())
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; medians are reported")
    parser.add_argument("--quick", action="store_true", help="300 texts, once")
    parser.add_argument("--one", choices=("run", "alone"), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(run_alone(asked.size) if asked.one == "alone" else run_size(asked.size, asked.processes)))
        return
    if asked.quick:
        asked.texts, asked.repeat = 300, 1

    rates: dict[str, dict[int, list[float]]] = {what: {size: [] for size in SIZES} for what in ("run", "alone")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for script in EXAMPLE.glob("*.py"):
            shutil.copy(script, folder)
        subprocess.run([sys.executable, "make_model.py"], cwd=folder, check=True, timeout=120)
        for _ in range(asked.repeat):
            for size in SIZES:
                for what in rates:
                    rates[what][size].append(measure(what, size, asked.texts, asked.processes, folder))
    single = _report.median(rates["run"][1])
    lines = []
    for size in SIZES:
        run = sorted(rates["run"][size])
        lines.append(
            [
                "row by row" if size == 1 else f"batch={size}",
                round(_report.median(run)),
                f"{run[0]:,.0f}-{run[-1]:,.0f}",
                f"{_report.median(run) / single:.2f}",
                round(_report.median(rates["alone"][size])),
            ]
        )
    table = _report.Table(
        f"{asked.texts:,} texts, {asked.processes} processes with one thread each",
        ["", "rows/s", "lowest-highest", "times row by row", "model alone, one process"],
        lines,
        "From the first claim, when the first worker has loaded its model, to the last row DONE with its vector in the "
        "table. `model alone` is one process over the same texts without a table, its model loaded before.",
    )
    settings = {"texts": asked.texts, "processes": asked.processes, "repeat": asked.repeat}
    _report.write("batches", [table], {**settings, "rates": rates})


if __name__ == "__main__":
    main()
