"""`pooltable demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from pooltable.cli.command import HelpAll
from pooltable.cli.options import option

FOLDER = Annotated[
    str | None,
    typer.Option("--folder", metavar="PATH", help="Keep clips and table here. (default: a temporary folder)"),
]


def demo(
    processes: Annotated[int | None, option("processes", min=1, text="Worker processes. (default: the cores)")] = None,
    clips: Annotated[int, typer.Option("--clips", metavar="N", min=1, help="How many videos to make.")] = 48,
    folder: FOLDER = None,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", show_default=False, help="Keep the temporary folder.")
    ] = False,
    videos: Annotated[
        str | None,
        typer.Option("--videos", metavar="PATH", help="Read the captions of your own videos in this folder."),
    ] = None,
    db: Annotated[
        str | None, typer.Option("--db", metavar="FILE", help="With --videos: the SQLite file. (default: beside them)")
    ] = None,
    help_all: HelpAll = False,
) -> int:
    """Watch it work: a table of videos, a model that reads their captions, a worker that is killed on the way.

    \b
    Examples:
      pooltable demo
      pooltable demo -p 2 --clips 100
      pooltable demo --videos ~/Videos
    """
    from pooltable import demo

    return demo.main(processes=processes, clips=clips, folder=folder, keep=keep, videos=videos, db=db)
