"""The text in the frames of videos, read by a model in worker processes: python video_ocr.py, then again and again."""

from pathlib import Path

import cv2
import numpy as np
from make_table import DATABASE
from rapidocr import RapidOCR

from pooltable import TaskTable, current, run

reader = None


def load_model():
    """Once in each worker, with the threads that are its own."""
    global reader
    threads = current().threads
    cv2.setNumThreads(threads)
    reader = RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,  # the captions stand upright
            "Det.limit_side_len": 192,  # small pictures are not blown up
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
    reader(np.zeros((216, 384, 3), np.uint8))  # the first picture loads the models


def mission(row):
    """Decode the video, and read one frame of every half a second."""
    video = cv2.VideoCapture(row.content)
    if not video.isOpened():
        raise ValueError(f"{Path(row.content).name} is no video")
    found = {}
    step = max(1, int(video.get(cv2.CAP_PROP_FPS) / 2))
    frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    for number in range(0, frames, step):
        video.set(cv2.CAP_PROP_POS_FRAMES, number)
        good, frame = video.read()
        if good:
            found.update(dict.fromkeys(reader(frame).txts or ()))
        current().progress(min(number + step, frames), frames)
    return " / ".join(found)


if __name__ == "__main__":
    videos = TaskTable(DATABASE, "video", write=("caption",))
    summary = run(mission, videos, processes=2, initializer=load_model)
    print(f"{summary.done} videos read, {summary.failed} failed: {summary.failures}")
