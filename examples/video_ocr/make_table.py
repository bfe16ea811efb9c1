"""Renders eight short videos with a caption each, and a table in which they wait."""

import sqlite3
from pathlib import Path

import cv2
import numpy as np

DATABASE = "sqlite:///videos.db"
CAPTIONS = ["AMBER BRIDGE", "CALM HARBOR", "EARLY MEADOW", "QUIET RIVER", "RAPID STATION", "SILVER PLANET", "TWO DOGS"]


def render(path, caption):
    film = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12, (384, 216))
    for step in range(12):
        frame = np.full((216, 384, 3), (90, 60, 30), np.uint8)
        cv2.circle(frame, (60 + 20 * step, 60), 25, (80, 160, 200), -1)
        cv2.putText(frame, caption, (40, 170), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 2, cv2.LINE_AA)
        film.write(frame)
    film.release()


if __name__ == "__main__":
    folder = Path("videos")
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.mp4" for number in range(1, len(CAPTIONS) + 2)]
    for path, caption in zip(paths, CAPTIONS, strict=False):
        render(path, caption)
    paths[-1].write_text("This is not a video.\n")
    with sqlite3.connect("videos.db") as db:
        db.execute(
            "CREATE TABLE IF NOT EXISTS video"
            " (id INTEGER PRIMARY KEY, content TEXT UNIQUE, status TEXT DEFAULT 'PENDING', caption TEXT)"
        )
        db.executemany("INSERT OR IGNORE INTO video (content) VALUES (?)", [(str(path.resolve()),) for path in paths])
    print(f"{len(paths)} videos wait in videos.db")
