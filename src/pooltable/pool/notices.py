"""What a pool says when nobody listens to its events: the little that its user should know, as log lines."""

from __future__ import annotations

from pooltable.events import Event, ThreadsLeft, TooManyThreads, WorkersBroken, WorkersCapped


def log_notices(event: Event) -> None:
    """A listener that logs what should not go unnoticed."""
    if isinstance(event, (WorkersBroken, WorkersCapped, TooManyThreads, ThreadsLeft)):
        import logging

        log = logging.getLogger("pooltable.pool")
        if isinstance(event, WorkersBroken):
            log.error("%s", str(event.error).partition("\n")[0])
        else:
            log.warning("%s", event)
