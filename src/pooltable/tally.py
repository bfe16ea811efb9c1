"""What a run has done so far, in numbers: the source of its progress and of its summary."""

from __future__ import annotations

from collections import Counter

from pooltable.events import Progressed, RowEnd, Summary, WorkerDoing


class Tally:
    """Counts the ends of rows; `now` is always the caller's clock in seconds."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._first_claim: float | None = None
        self._last_end = now
        self._pending = 0
        self._pending_at = now
        self.claimed = 0
        self.done = 0
        self.failed = 0
        self.retried = 0
        self.lost = 0
        self.rescued = 0
        self.released = 0
        self.failures: Counter[str] = Counter()

    def saw_pending(self, count: int, now: float) -> None:
        self._pending, self._pending_at = count, now

    def saw_claims(self, count: int, now: float) -> None:
        if count and self._first_claim is None:
            self._first_claim = now
        self.claimed += count
        self._pending = max(0, self._pending - count)

    def saw_end(self, end: RowEnd, now: float) -> None:
        self._last_end = now
        match end.end:
            case "done":
                self.done += 1
            case "failed":
                self.failed += 1
                self.failures[end.kind] += 1
            case "retry":
                self.retried += 1
                self._pending += 1
            case "later" | "released":
                self.released += 1
                self._pending += 1
        self.lost += end.lost

    def rate(self) -> float:
        """Rows that ended for good, a second, from the first claim to the last end."""
        if self._first_claim is None or self._last_end <= self._first_claim:
            return 0.0
        return (self.done + self.failed) / (self._last_end - self._first_claim)

    def progress(self, now: float, doing: int, workers: tuple[WorkerDoing, ...]) -> Progressed:
        return Progressed(
            pending=self._pending,
            doing=doing,
            done=self.done,
            failed=self.failed,
            retried=self.retried,
            lost=self.lost,
            seconds=now - self._started,
            rate=self.rate(),
            counted_ago=now - self._pending_at,
            workers=workers,
        )

    def summary(self, run: str, now: float, left: int, elsewhere: int, exit_code: int, error: str) -> Summary:
        return Summary(
            run=run,
            done=self.done,
            failed=self.failed,
            retried=self.retried,
            lost=self.lost,
            rescued=self.rescued,
            released=self.released,
            left=left,
            elsewhere=elsewhere,
            seconds=now - self._started,
            rate=self.rate(),
            failures=dict(self.failures.most_common()),
            exit_code=exit_code,
            error=error,
        )
