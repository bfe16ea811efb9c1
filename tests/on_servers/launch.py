"""A run as a program: python -m tests.on_servers.launch JSON. What happens in it is appended to a file, a line each."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields
from typing import Any

from pooltable import Event, Pace, PooltableError, Retry, TaskTable, run
from tests.on_servers.missions import mission

QUIET = {"WorkerPrinted", "WorkerLogged", "Progressed"}


class Journal:
    """A listener that writes every event to a file as one line of JSON."""

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, event: Event) -> None:
        if type(event).__name__ not in QUIET:
            self.write(type(event).__name__, {field.name: getattr(event, field.name) for field in fields(event)})

    def write(self, what: str, facts: dict[str, Any]) -> None:
        os.write(self.file, (json.dumps({"event": what, **facts}, default=str) + "\n").encode())


def main() -> int:
    asked = json.loads(sys.argv[1])
    journal = Journal(asked["events"])
    table = TaskTable(asked["url"], "video", write=("caption",))
    pace, retry = Pace(**asked["pace"]), Retry(**asked["retry"])
    try:
        summary = run(mission, table, listeners=(journal,), pace=pace, retry=retry, **asked["options"])
    except PooltableError as error:
        journal.write("Raised", {"error": type(error).__name__, "text": str(error)})
        return error.exit_code
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
