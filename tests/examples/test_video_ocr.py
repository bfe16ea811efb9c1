"""examples/video_ocr: the captions of the videos are read, and what is no video fails alone."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "video_ocr"


@pytest.mark.timeout(90)
def test_captions_are_read_and_what_is_no_video_fails_alone(start, table):
    pytest.importorskip("rapidocr")
    for script in ("make_table.py", "video_ocr.py"):
        run = start(FOLDER / script)
        assert run.wait() == 0, run.output()
    assert "7 videos read, 1 failed: {'ValueError': 1}" in run.output()
    assert table.status() == {**dict.fromkeys(range(1, 8), "DONE"), 8: "FAILED"}
    captions = [str(caption).replace(" ", "") for (caption,) in table.ask("SELECT caption FROM video ORDER BY id")]
    assert captions[0] == "AMBERBRIDGE"
    assert captions[6] == "TWODOGS"
