"""`pooltable doctor`: whether a run on this table would work, and work fast."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from pooltable.cli.options import JSON, TABLE, takes
from pooltable.cli.show import say, say_json
from pooltable.cli.table import open_table
from pooltable.config import Settings
from pooltable.errors import DatabaseUnavailable
from pooltable.text import counted

if TYPE_CHECKING:
    from pooltable.table.finding import Finding
    from pooltable.table.table import TaskTable

# Each check has its own limit; a server that does not answer at all must not hold the doctor either.
PATIENCE = 120.0  # seconds


@takes(*TABLE)
def doctor(settings: Settings, as_json: JSON = False) -> int:
    """Check whether a run on this table would work, and fast; nothing is changed.

    One line for each thing that was looked at: ok, warning or error, and the SQL or the command that mends it. A claim
    is made, measured and undone. The exit code is 1 when there is an error, and 0 with nothing worse than warnings.

    \b
    Examples:
      pooltable doctor
      pooltable doctor --json | jq '.findings[] | select(.level != "ok")'
    """
    table = open_table(settings)
    findings = _findings(table)
    levels = Counter(finding.level for finding in findings)
    if as_json:
        counts = {"errors": levels["error"], "warnings": levels["warning"]}
        say_json(
            {
                "job": table.job,
                "table": table.shown_name,
                "database": table.database,
                **counts,
                "findings": list(findings),
            }
        )
    else:
        say(f"{table.shown_name} in {table.database}" + (f", job {table.job}" if table.job != table.name else ""))
        for finding in findings:
            say(_line(finding))
        say(f"{_counted(levels['error'], 'error')}, {_counted(levels['warning'], 'warning')}")
    return 1 if levels["error"] else 0


def _findings(table: TaskTable) -> list[Finding]:
    """What the table's own checks say, or an error when they do not come back."""
    found: list[Finding] = []
    raised: list[BaseException] = []

    def look() -> None:
        try:
            found.extend(table.findings())
        except BaseException as error:
            raised.append(error)

    # A thread that hangs in a driver ends with the program.
    looking = threading.Thread(target=look, name="pooltable-doctor", daemon=True)
    looking.start()
    looking.join(PATIENCE)
    if looking.is_alive():
        raise DatabaseUnavailable(
            f"the database has not answered for {PATIENCE:g} s: it hangs, or something between drops what is sent"
        )
    if raised:
        raise raised[0]
    return found


def _line(finding: Finding) -> str:
    text = f"{finding.level:<8} {finding.what}: {' '.join(finding.detail.split())}"
    return f"{text} -> {' '.join(finding.remedy.split())}" if finding.remedy else text


def _counted(count: int, word: str) -> str:
    return counted(count, word) if count else f"no {word}s"
