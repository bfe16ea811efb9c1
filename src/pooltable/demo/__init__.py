"""The demonstration of `pooltable demo`: a table of videos, a model that reads their captions, and two accidents.

    clips.py     renders the videos             accident.py   kills a worker in the middle of a row
    stage.py     the folder and its table       mission.py    what is run on a row
    show.py      runs it and looks back         preloaded.py  what workers import, once for all
    report.py    says what happened

Nothing is imported here before it is used: a worker passes through this module on its way to the mission.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pooltable.errors import UsageError

_NEEDED = {"av": "PyAV", "PIL": "Pillow", "cv2": "OpenCV", "onnxruntime": "ONNX Runtime", "rapidocr": "RapidOCR"}


def main(
    *,
    processes: int | None = None,
    clips: int = 48,
    folder: str | Path | None = None,
    keep: bool = False,
    videos: str | Path | None = None,
    db: str | Path | None = None,
) -> int:
    """Run the demonstration, or with `videos` read the captions of the files in that folder; returns the exit code.

    `folder` is where the clips and the table go: a second start on the same folder goes on with what is left. Without
    one it is a temporary folder, removed after a good run unless `keep`. `db` is the SQLite file of the user's own
    videos; by default it lies beside their folder.

    Raises UsageError if the extra is not installed or an option does not fit.
    """
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise UsageError(f"the demo needs {', '.join(missing)}; install it with: pip install 'pooltable[demo]'")
    from pooltable.demo import show

    if videos is not None:
        return show.own_videos(Path(videos), processes, Path(db) if db is not None else None)
    return show.demonstration(processes, clips, Path(folder) if folder is not None else None, keep)
