"""What a run has done so far, in numbers: the source of its progress and of its summary."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from pooltable.events import Progressed, RowEnd, Summary, WorkerDoing

LATEST_CALLS = 100  # that say how long one usually takes
FEWEST_CALLS = 3  # before that many nothing is said of the time that is left
LATEST_SHOWN = 60  # how often `progress` was asked, about once a second: that much time is recent
FEWEST_RECENT = 10  # rows that finished in that time, for a rate of it


class Tally:
    """Counts the ends of rows; `now` is always the caller's clock in seconds."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._working_since = now  # the first call began
        self._called_at = now  # the latest call ended
        self._calls: deque[float] = deque(maxlen=LATEST_CALLS)  # how many seconds each took
        self._shown: deque[tuple[float, int]] = deque(maxlen=LATEST_SHOWN)  # when, and how many rows had finished
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

    def saw_claims(self, count: int) -> None:
        self.claimed += count
        self.pending = max(0, self.pending - count)

    def saw_calls(self, seconds: Sequence[float], now: float) -> None:
        """Workers ran calls, each with one row or a batch of them, for so long each."""
        if not self._calls:
            self._working_since = now - max(seconds)
        self._called_at = now
        self._calls.extend(seconds)

    def saw_done(self, count: int) -> None:
        """So many rows are DONE."""
        self.done += count

    def saw_end(self, end: RowEnd) -> None:
        """An attempt ended, and its row is not DONE."""
        match end.end:
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

    @property
    def finished(self) -> int:
        """How many rows ended for good."""
        return self.done + self.failed

    def rate(self, now: float) -> float:
        """Finished rows a second, over the whole run until now."""
        return self.finished / (now - self._started) if now > self._started else 0.0

    def _rates(self, now: float) -> list[float]:
        """Finished rows a second since the first call began, and of late if enough finished for that."""
        spans = [(now - self._working_since, self.finished, 1)]
        if self._shown:
            at, before = self._shown[0]
            spans.append((now - at, self.finished - before, FEWEST_RECENT))
        return [count / seconds for seconds, count, fewest in spans if seconds > 0 and count >= fewest]

    def progress(self, now: float, doing: int, workers: tuple[WorkerDoing, ...]) -> Progressed:
        running = [worker.seconds for worker in workers if worker.key is not None]
        if doing and not running:
            running = [now - self._called_at]  # of workers that do not tell, such as those of somebody else's executor
        left = seconds_left(self.pending, doing, self._rates(now), sorted(self._calls), running)
        self._shown.append((now, self.finished))
        return Progressed(
            pending=self.pending,
            doing=doing,
            done=self.done,
            failed=self.failed,
            retried=self.retried,
            lost=self.lost,
            seconds=now - self._started,
            rate=self.rate(now),
            counted_ago=now - self._pending_at,
            workers=workers,
            seconds_left=left,
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
            rate=self.rate(now),
            failures=dict(self.failures.most_common()),
            exit_code=code,
            error=halted or ("" if error is None else str(error).partition("\n")[0]),
        )


def seconds_left(
    waiting: int, doing: int, rates: Sequence[float], took: Sequence[float], running: Sequence[float]
) -> tuple[float, float] | None:
    """How long it takes at least and at most until no row waits or is being done; None where that cannot be said.

    `rates` are rows that finish in a second, by one way of measuring or two; `took` is how many seconds the latest
    calls ran, the shortest first; `running`, how many those that are under way have run.
    """
    if not rates or not running or len(took) < max(FEWEST_CALLS, min(len(running), LATEST_CALLS)):
        return None
    rows = waiting + doing
    # So far off is a rate that was measured on so few calls.
    error = len(took) ** -0.5
    least, most = rows / max(rates) * (1 - error), rows / min(rates) * (1 + error)
    # However many workers there are, the row that begins last takes as long as rows do.
    newest = 0.0 if waiting else min(running)
    least, most = max(least, took[0] - newest), max(most, took[-1] - newest)
    # A call that runs longer than all before it may well run as long again. Where it decides when the run ends, any
    # number would be a guess.
    beyond = max(running) - took[-1]
    return (max(least, beyond), most) if beyond <= most else None
