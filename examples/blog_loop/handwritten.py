"""The loop as it is often written; README.md has what it gets wrong."""

import logging
import sqlite3
from multiprocessing import Pool
from time import sleep

from model import predict

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
logger = logging.getLogger("videos")


def poll():
    db = sqlite3.connect("videos.db", timeout=30)
    rows = db.execute("SELECT id, content FROM video WHERE status = 'PENDING'").fetchall()
    db.close()
    return rows


def mark(id, status):
    db = sqlite3.connect("videos.db", timeout=30)
    db.execute("UPDATE video SET status = ? WHERE id = ?", (status, id))
    db.commit()
    db.close()
    logger.info("row %s %s", id, status)


def mission(i):
    id, content = i
    mark(id, "DOING")
    try:
        words = predict(content)
        logger.info("row %s has %s words", id, words)
        mark(id, "DONE")
    except Exception:
        logger.exception("row %s went wrong", id)
        mark(id, "FAILED")


def cb():
    logger.info("a row is finished")


if __name__ == "__main__":
    with Pool(2) as pool:
        while True:
            for i in poll():
                pool.apply_async(func=mission, args=(i,), callback=cb())
            sleep(2)
