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
        self.pending = 0
        self._pending_at = now
        self.claimed = 0
        self.done = 0
        self.failed = 0
        self.retried = 0
        self.lost = 0
        self.rescued = 0
        self.released = 0
        self.astray = 0
        self.failures: Counter[str] = Counter()

    def saw_pending(self, count: int, now: float) -> None:
        self.pending, self._pending_at = count, now

    def saw_claims(self, count: int, now: float) -> None:
        if count and self._first_claim is None:
            self._first_claim = now
        self.claimed += count
        self.pending = max(0, self.pending - count)

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
                self.pending += 1
            case "later" | "released":
                self.released += 1
                self.pending += 1
        self.lost += end.lost

    def saw_astray(self, count: int) -> None:
        """The ends of so many rows could not be written, because row or entry was not found as the claim left it."""
        self.astray += count

    def saw_mark(self, done: bool) -> None:
        """The task wrote the status itself, which is taken as the end."""
        self.done += done
        if not done:
            self.failed += 1
            self.failures["marked by the task"] += 1

    def rate(self) -> float:
        """Rows that ended for good, a second, from the first claim to the last end."""
        if self._first_claim is None or self._last_end <= self._first_claim:
            return 0.0
        return (self.done + self.failed) / (self._last_end - self._first_claim)

    def progress(self, now: float, doing: int, workers: tuple[WorkerDoing, ...]) -> Progressed:
        return Progressed(
            pending=self.pending,
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

    def summary(
        self,
        run: str,
        now: float,
        left: int,
        elsewhere: int,
        *,
        stranded: bool,
        error: BaseException | None,
        halted: str,
        stopped: bool,
        drained: bool,
    ) -> Summary:
        """The whole run in numbers.

        `halted` says why if a burst of failures ended it; `stopped`: it was stopped with work left; `stranded`: some of
        what is left no run can take as it is; `drained`: it was a service, whose only end is to be drained.
        """
        if error is not None:
            code = getattr(error, "exit_code", 1)
        elif halted:
            code = 6
        elif drained:
            code = 0
        elif stopped or stranded:
            code = 3
        else:
            code = int(self.failed > 0)
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
            exit_code=code,
            error=halted or ("" if error is None else str(error).partition("\n")[0]),
        )
