"""Makes videos.db with the table video(id, content, status) and some rows: python make_table.py [CONTENT ...]"""

import sqlite3
import sys

CONTENTS = ["a red boat on a lake", "two dogs", "not a video", "a city by night", "too large for the memory", "snow"]


def make(contents: list[str]) -> None:
    with sqlite3.connect("videos.db") as db:
        db.execute("CREATE TABLE video (id INTEGER PRIMARY KEY, content TEXT, status TEXT DEFAULT 'PENDING')")
        db.executemany("INSERT INTO video (content) VALUES (?)", [(content,) for content in contents])
    db.close()


if __name__ == "__main__":
    make(sys.argv[1:] or CONTENTS)
