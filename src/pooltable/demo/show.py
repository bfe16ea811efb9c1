"""Runs the demonstration, or the same mission on the user's own videos.

    folder -> render -> rows in the table -> run(mission_with_accident) -> look at the table -> verdict, exit code

Everything that was done is in the folder and in its table, so a demonstration that was killed goes on where it stood.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from pooltable.cores import usable_cores
from pooltable.crew import Workers
from pooltable.demo import accident, clips, mission, report, stage
from pooltable.errors import SettingError, UsageError
from pooltable.events import Summary
from pooltable.pool.pool import Pool
from pooltable.runner import run
from pooltable.table.table import TaskTable
from pooltable.text import counted

FEWEST_CLIPS = 8  # the broken one, the one whose worker is killed, and some others
MOST_PROCESSES = 8  # unless more are asked for: each holds a model of 400 MB
SAMPLE = 10  # clips that one process reads alone
PRELOADED = "pooltable.demo.preloaded"
WORKERS = Workers(threads=1, preload=PRELOADED)


def demonstration(processes: int | None, count: int, folder: Path | None, keep: bool) -> int:
    """Run it and print what came of it; returns 0 if all was as it should be, else 1, or the run's own exit code."""
    if count < FEWEST_CLIPS:
        raise SettingError(f"--clips must be {FEWEST_CLIPS} or more, not {count}")
    processes = _processes(processes)
    temporary = folder is None
    folder = Path(tempfile.mkdtemp(prefix="pooltable-demo-")) if folder is None else folder.resolve()
    report.say(f"clips and table are in {folder}")
    file = _fill(folder, count)
    summary, speed = _run(folder, file, processes)
    if summary.exit_code > 1:
        report.say(f"stopped with {counted(summary.left, 'row')} left; to go on: pooltable demo --folder {folder}")
        return summary.exit_code
    verdict = _look_back(folder, file)
    report.print_verdict(verdict, speed)
    if temporary and verdict.good and not keep:
        shutil.rmtree(folder, ignore_errors=True)
        report.say(f"removed {folder}; --keep or --folder leaves it")
    return 0 if verdict.good else 1


def own_videos(folder: Path, processes: int | None, file: Path | None) -> int:
    """Read the captions of the videos in `folder` and print them; returns the run's exit code."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise UsageError(f"--videos {folder}: there is no such folder")
    processes = _processes(processes)
    file = (file or folder.with_name(f"{folder.name}-captions.db")).resolve()
    found = stage.files_in(folder)
    if not found:
        raise UsageError(f"--videos {folder}: there is no video in it ({', '.join(sorted(stage.SUFFIXES))})")
    stage.create(file)
    new = stage.add(file, found)
    report.say(f"{len(found)} videos in {folder}, {new} of them new in the table video of {file}")
    table = _table(file)
    summary = run(
        mission.mission,
        table,
        processes=processes,
        initializer=mission.load_model,
        workers=WORKERS,
        listeners=[report.Watch(len(found))],
    )
    report.print_captions(stage.videos(file), _reasons(table, stage.videos(file)), folder)
    return summary.exit_code


def _processes(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise SettingError(f"--processes must be 1 or more, not {asked}")
    return asked or min(usable_cores(), MOST_PROCESSES)


def _table(file: Path) -> TaskTable:
    return TaskTable(stage.url(file), "video", write=("caption",))


# ---- the parts of a demonstration


def _fill(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    new = clips.render(folder, count, report.Counter("rendering clips", count))
    if new:
        report.say(f"rendered {new} clips in {time.monotonic() - started:.1f} s")
    file = folder / "videos.db"
    stage.create(file)
    stage.add(file, [clips.path_of(folder, number) for number in range(1, count + 1)])
    return file


def _run(folder: Path, file: Path, processes: int) -> tuple[Summary, report.Speed]:
    videos = stage.videos(file)
    waiting = sum(video.status in ("PENDING", "DOING") for video in videos)
    watch = report.Watch(len(videos))
    killer = accident.Killer(folder)
    with Alone(videos if waiting > SAMPLE else []) as alone, killer:
        alone.read_half()
        summary = run(
            accident.mission_with_accident,
            _table(file),
            processes=processes,
            initializer=accident.load_model,
            initargs=(str(folder),),
            workers=WORKERS,
            listeners=[killer, watch],
        )
        if summary.exit_code <= 1:
            alone.read_half()
    return summary, report.Speed(
        processes,
        usable_cores(),
        watch.loading,
        watch.accident,
        watch.done,
        watch.rate,
        watch.full_rate,
        alone.count,
        alone.rate,
    )


class Alone:
    """One process that reads some of the clips, half of them before the run and half after it, for comparison.

    It runs the same mission with the same single thread. The time to start it and to load its model does not count.
    """

    def __init__(self, videos: list[stage.Video]) -> None:
        whole = [(video.id, video.content) for video in videos if video.id != clips.BROKEN]
        chosen = whole[:: max(1, len(whole) // SAMPLE)][:SAMPLE]
        self._halves = [chosen[1::2], chosen[0::2]] if chosen else []
        self._pool: Pool | None = None
        self._seconds = 0.0
        self.count = 0

    @property
    def rate(self) -> float:
        """Clips a second."""
        return self.count / self._seconds if self._seconds else 0.0

    def __enter__(self) -> Alone:
        if self._halves:
            self._pool = Pool(1, initializer=mission.load_model, threads=1, preload=PRELOADED)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()

    def read_half(self) -> None:
        """Read the next half of the sample."""
        if self._pool is None:
            return
        half = self._halves.pop()
        report.say(f"for comparison, one process reads {len(half)} of the clips")
        self._pool.apply(os.getpid)  # once it answers, its model is loaded
        started = time.perf_counter()
        self.count += len(self._pool.map(mission.mission, half))
        self._seconds += time.perf_counter() - started


def _look_back(folder: Path, file: Path) -> report.Verdict:
    table = _table(file)
    table.prepare()
    videos = stage.videos(file)
    kill = accident.kill_in(folder)
    entry = table.entry((kill.row,)) if kill else None
    attempts = {kill.row: entry.attempt} if kill and entry else {}
    return report.Verdict(tuple(videos), attempts, _reasons(table, videos), kill)


def _reasons(table: TaskTable, videos: list[stage.Video]) -> dict[int, str]:
    failed = [video.id for video in videos if video.status == "FAILED"]
    entries = {number: table.entry((number,)) for number in failed}
    return {number: entry.reason for number, entry in entries.items() if entry is not None}
