"""The same job in pooltable."""

import logging

from model import predict

from pooltable import TaskTable, run

logger = logging.getLogger("videos")


def mission(row):
    words = predict(row.content)
    logger.info("row %s has %s words", row.id, words)


def finished(row, value):
    print(f"row {row.id} is finished")


if __name__ == "__main__":
    videos = TaskTable("sqlite:///videos.db", "video")
    run(mission, videos, processes=2, callback=finished, forever=True)
