"""The demonstration's model over its clips: a run with two workers against one process, and against a plain pool.

    python -m benchmarks.ocr

`alone` is one process with one thread; `pooltable` a whole run from a SQLite table with two workers of one thread each;
`multiprocessing.Pool` two processes in which the libraries start as many threads as they like. Rows a second from the
first row's begin to the last one's end, once every process has its model; all take turns. Needs the extra `demo`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import _report
from pooltable.demo import clips, mission, stage

VARIANTS = ("alone", "pooltable", "multiprocessing.Pool")
WORKERS = 2


# ---- in the workers


def load(folder: str, processes: int, threads: int | None) -> None:
    """The model, and then the others': nobody begins while somebody still loads."""
    if threads is None:
        import cv2
        from rapidocr import RapidOCR

        cv2.setNumThreads(-1)
        mission._reader = RapidOCR(
            params={"Global.log_level": "error", "Global.use_cls": False, "Det.limit_side_len": 192}
        )
        mission.captions([mission._picture("READY")])
    else:
        mission.load_model(threads)
    Path(folder, f"loaded-{os.getpid()}").touch()
    while len(list(Path(folder).glob("loaded-*"))) < processes:
        time.sleep(0.01)


def read(row: tuple[int, str]) -> None:
    begin = time.time()
    mission.mission(row)
    folder = Path(row[1]).parent
    (folder / f"times-{row[0]}").write_text(f"{begin} {time.time()}")


# ---- each variant in a program of its own


def run_one(variant: str, folder: Path) -> float:
    """Rows a second."""
    for path in [*folder.glob("loaded-*"), *folder.glob("times-*")]:
        path.unlink()
    paths = sorted(folder.glob("clip-*.mp4"))
    rows = [(number, str(path)) for number, path in enumerate(paths, 1)]
    if variant == "alone":
        load(str(folder), 1, 1)
        for row in rows:
            read(row)
    elif variant == "pooltable":
        from pooltable import TaskTable, Workers, run

        file = folder / "videos.db"
        file.unlink(missing_ok=True)
        stage.create(file)
        stage.add(file, paths)
        table = TaskTable(stage.url(file), "video", columns=("content",))
        workers = Workers(threads=1)
        options = {"initializer": load, "initargs": (str(folder), WORKERS, 1), "workers": workers, "listeners": ()}
        summary = run(read, table, processes=WORKERS, **options)
        if summary.done != len(rows):
            raise SystemExit(f"the run ended with {summary}")
    else:
        with multiprocessing.Pool(WORKERS, load, (str(folder), WORKERS, None)) as pool:
            pool.map(read, rows, chunksize=1)
    times = [tuple(map(float, path.read_text().split())) for path in folder.glob("times-*")]
    return len(times) / (max(end for _, end in times) - min(begin for begin, _ in times))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ocr", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few clips, once")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(run_one(asked.one[0], Path(asked.one[1]))))
        return
    if asked.quick:
        asked.clips, asked.repeat = 6, 1
    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        # The one that is no video is left out: it would be over at once.
        clips.render(Path(folder), asked.clips + (asked.clips >= clips.BROKEN), lambda number: None)
        clips.path_of(Path(folder), clips.BROKEN).unlink(missing_ok=True)
        load_before = os.getloadavg()[0]
        for turn in range(asked.repeat):
            for variant in VARIANTS:
                command = [sys.executable, "-m", "benchmarks.ocr", "--one", variant, folder]
                # What is set outside would take the libraries' own choice from them.
                clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
                done = subprocess.run(command, env=clean, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
                rates[variant].append(float(done.stdout.splitlines()[-1]))
                print(f"  {turn + 1} {variant}: {rates[variant][-1]:.2f}", file=sys.stderr, flush=True)
    medians = {variant: statistics.median(found) for variant, found in rates.items()}
    lines = [
        [variant, medians[variant], medians[variant] / (2 * medians["alone"]), min(found), max(found)]
        for variant, found in rates.items()
    ]
    gain = medians["pooltable"] / medians["multiprocessing.Pool"]
    note = (
        f"{asked.clips} clips, medians of {asked.repeat} runs that took turns. pooltable against multiprocessing.Pool: "
        f"{gain:.2f} times. The load of the machine was {load_before:.1f} before and {os.getloadavg()[0]:.1f} after."
    )
    table = _report.Table(
        "Text read from video clips, two cores", ["", "rows/s", "part of twice alone", "lowest", "highest"], lines, note
    )
    _report.write("ocr", [table], {"rates": rates, "clips": asked.clips, "repeat": asked.repeat})


if __name__ == "__main__":
    main()
