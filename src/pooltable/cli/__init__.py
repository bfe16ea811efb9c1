"""The command line: settings in, results on stdout, progress on stderr, and an exit code.

    app.py       the commands and their help      ending.py    how any command ends: one line, an exit code
    options.py   settings as options              table.py     settings -> TaskTable, keys as they are written
    show.py      results on stdout, or as JSON     first.py    as process 1 of a container

One file per command or family of commands beside them. A command imports what it needs when it runs, so that `--help`
and small commands answer at once.
"""

from __future__ import annotations


def main() -> None:
    """The command `pooltable`; ends the process."""
    from pooltable.cli.first import step_down

    step_down()
    from pooltable.cli.app import invoke
    from pooltable.cli.ending import end

    end(invoke)
