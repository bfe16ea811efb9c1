"""Stands in for a model: takes its time, refuses what it cannot read, and once in a while takes its process with it."""

import os
import signal
import time

SECONDS = float(os.environ.get("SECONDS_PER_VIDEO", "0.5"))


def predict(content: str) -> int:
    """The number of words in `content`."""
    time.sleep(SECONDS)
    if content == "not a video":
        raise ValueError(f"cannot decode {content!r}")
    if content == "too large for the memory":
        os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does then
    return len(content.split())
