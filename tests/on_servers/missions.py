"""The task of these tests, in a module that workers import by name. The environment says how it goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pooltable import Row, current

NOTES, GATE, SECONDS = "SERVER_RUN_NOTES", "SERVER_RUN_GATE", "SERVER_RUN_SECONDS"


def mission(row: Row) -> str:
    """Notes its start, waits while the gate is closed, works for a while, notes its end."""
    here = current()
    about = f"{row.id} {here.attempt} {here.idempotency_key} {os.getpid()}"
    note(f"start {about}")
    gate = Path(os.environ[GATE])
    while gate.exists():
        time.sleep(0.005)
    time.sleep(float(os.environ[SECONDS]))
    note(f"end {about}")
    return caption_of(row.content)


def caption_of(content: object) -> str:
    return f"caption of {content}"


def note(text: str) -> None:
    """One line; whole, since it is one write to a file opened for appending."""
    descriptor = os.open(os.environ[NOTES], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)
