"""What the demonstration runs on a row: decode the video, read the captions in it, return them.

    row(id, content) -> frames(content) -> read(frame) ... -> "AMBER FALCON 4072"

The model is loaded once per worker, by the initializer. Nothing here knows of the table, or of other processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LONGEST_SIDE = 960  # of a frame as it is read; captions are large
MOST_FRAMES = 8  # of one video
STEP = 0.5  # seconds between two frames that are read
SEEK_FROM = 20.0  # seconds; a longer video is not decoded from end to end

_reader: Any = None


def load_model(threads: int = 1) -> None:
    """Load the text recognition into this worker; it runs on `threads` threads."""
    global _reader
    import logging

    import cv2
    from rapidocr import RapidOCR

    # RapidOCR warns of every frame without text, which is no news here.
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    cv2.setNumThreads(threads)
    reader = RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,  # captions stand upright
            "Det.limit_side_len": 192,  # larger pictures are read as they are, and small ones not blown up
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
    # The models are loaded by the first picture: here, and not in the time of the first row.
    if "READY" not in " ".join(reader(_picture("READY")).txts or ()):
        raise RuntimeError("the text recognition does not read its own test picture")
    _reader = reader


def _picture(text: str) -> Any:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (480, 270), "black")
    ImageDraw.Draw(picture).text((240, 135), text, font=ImageFont.load_default(size=40), anchor="mm", fill="white")
    return np.asarray(picture)


def mission(row: tuple[int, str]) -> str:
    """The captions of the video at `row.content`."""
    _, content = row
    return captions(frames(content))


def captions(pictures: Iterable[Any]) -> str:
    """What is written in the pictures, in order; what stands in several of them once."""
    found: dict[str, str] = {}
    for picture in pictures:
        text = " ".join(_reader(picture).txts or ())
        if text:
            found.setdefault(text.replace(" ", ""), text)
    return " / ".join(found.values())


def frames(path: str | Path) -> list[Any]:
    """Some frames of a video, spread over its length, as arrays of height x width x 3 (BGR).

    Raises av.FFmpegError for a file that is no video, and ValueError for one without pictures.
    """
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no pictures")
        stream = container.streams.video[0]
        # The cores belong to the workers: one that decodes on several threads takes them from the others.
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        length = float((container.duration or 0) / av.time_base)
        chosen = _seek(container, stream, length) if length > SEEK_FROM else _pass_by(container, stream, length)
        pictures = [_array(frame) for frame in chosen]
    if not pictures:
        raise ValueError(f"{path} has no pictures")
    return pictures


def _pass_by(container: Any, stream: Any, length: float) -> Iterator[Any]:
    step = max(STEP, length / MOST_FRAMES)
    due = 0.0
    for frame in container.decode(stream):
        if (frame.time or 0.0) >= due:
            due += step
            yield frame


def _seek(container: Any, stream: Any, length: float) -> Iterator[Any]:
    import av

    for number in range(MOST_FRAMES):
        container.seek(int(length * (number + 0.5) / MOST_FRAMES * av.time_base))
        frame = next(container.decode(stream), None)
        if frame is not None:
            yield frame


def _array(frame: Any) -> Any:
    scale = min(1.0, LONGEST_SIDE / max(frame.width, frame.height))
    width, height = (max(2, int(side * scale) // 2 * 2) for side in (frame.width, frame.height))
    return frame.to_ndarray(width=width, height=height, format="bgr24")
