"""Which numbers of processes, threads and rows at once to try for a task, and which is best: as values, without I/O.

choices(...) -> Choice ...  --tuner.py measures, in rounds-->  Score ...  --verdict-->  the best one, and its gain

More workers take longer to start and to load what they need. So a choice is judged by the time that it takes for a
number of rows, and by its rate alone only where these are without end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from statistics import median

HOPELESS = 0.5  # as fast as the best: who is slower in its first part is not measured to the end
PROMISING = 0.8  # as fast as the best: who is faster is measured again
FINALISTS = 4
ALIKE = 0.03  # so little is no difference between two choices; the one that takes less is better
WORTH = 1.05  # a gain below this is none
MOST_ROWS = 10**9  # what pays only beyond so many rows never pays
FEWER_ROWS = 4  # by this factor one size of batch is smaller than the next


@dataclass(frozen=True, order=True, slots=True)
class Choice:
    """So many worker processes, each with so many threads, and so many rows at once (1: the row itself)."""

    processes: int
    threads: int
    batch: int = 1

    @property
    def flags(self) -> str:
        rows = f" --batch {self.batch}" if self.batch > 1 else ""
        return f"--processes {self.processes} --threads {self.threads}{rows}"

    def __str__(self) -> str:
        rows = f", batch {self.batch}" if self.batch > 1 else ""
        return f"processes {self.processes}, threads {self.threads}{rows}"


@dataclass(slots=True)
class Score:
    """What was measured of a choice, once a round: rows a second, and the seconds for which a worker starts, loads, and
    runs its first call longer than later ones. `cut`: its last round was ended early, since it was far behind.
    `failure`: why it cannot be taken."""

    choice: Choice
    rates: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    cut: bool = False
    failure: str = ""

    @property
    def rate(self) -> float:
        return median(self.rates) if self.rates and not self.failure else 0.0

    @property
    def start(self) -> float:
        return median(self.starts) if self.starts else 0.0

    def seconds_for(self, rows: int) -> float:
        """How long so many rows take, the start of the workers included."""
        if not self.rate:
            return inf
        # Fewer rows than run at once take as long as one call.
        return self.start + max(rows, self.choice.processes * self.choice.batch) / self.rate

    @property
    def spread(self) -> float | None:
        """How far the rounds lie apart, as a part of their median; None for fewer than two."""
        return (max(self.rates) - min(self.rates)) / self.rate if len(self.rates) > 1 and self.rate else None


@dataclass(frozen=True, slots=True)
class Machine:
    """What bounds the choices. `waits`: a call of the task mostly waits, for a network or a disk. `most`: so many
    workers fit into the memory."""

    cores: int
    devices: int = 0
    waits: bool = False
    most: int | None = None


def choices(
    now: Choice, machine: Machine, *, largest: int, processes: int | None = None, threads: int | None = None
) -> list[Choice]:
    """What to try, the likely ones first; `now` is always among them. `processes` and `threads` are not varied where
    they are given, and no batch is larger than `largest`."""
    found = {
        Choice(count, each, rows)
        for count in _counts(now, machine, processes)
        for each in ({threads} if threads else _threads(count, now, machine))
        for rows in _batches(now.batch, largest)
    }
    found.add(now)

    def unlikely(choice: Choice) -> tuple[float, ...]:
        used = choice.processes * choice.threads / machine.cores
        others = (choice.processes, choice.threads) != (now.processes, now.threads)
        return (others, abs(1 - used), -choice.processes, abs(choice.batch - now.batch))

    return sorted(found, key=unlikely)


def _counts(now: Choice, machine: Machine, fixed: int | None) -> set[int]:
    if fixed:
        return {fixed}
    cores, devices = machine.cores, machine.devices
    if devices:
        counts = {devices, 2 * devices, 4 * devices}
    else:
        counts = {2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores}
        if machine.waits:
            counts |= {2 * cores, 4 * cores}
    most = machine.most
    return {count for count in counts if most is None or count <= most} | {now.processes}


def _threads(processes: int, now: Choice, machine: Machine) -> set[int]:
    found = {1, max(1, machine.cores // processes)}
    return found | {now.threads} if processes == now.processes else found


def _batches(now: int, largest: int) -> set[int]:
    if now == 1:
        return {1}
    sizes, size = {min(now, largest)}, largest
    while size > 1 and len(sizes) < 4:
        sizes.add(size)
        size //= FEWER_ROWS
    return sizes


def finalists(scores: Iterable[Score], now: Choice, rows: int | None = None) -> list[Choice]:
    """Who is measured again: the best few, and what is set now, for the comparison."""
    order = ranked(scores, rows)
    best = _cost(order[0], rows) if order else inf
    chosen = [score.choice for score in order if PROMISING * _cost(score, rows) <= best][:FINALISTS]
    kept = [score.choice for score in order if score.choice == now and now not in chosen]
    return chosen + kept


def ranked(scores: Iterable[Score], rows: int | None = None) -> list[Score]:
    """Those that have a rate, the best for so many rows first."""
    return sorted((score for score in scores if score.rate), key=lambda score: _cost(score, rows))


def _cost(score: Score, rows: int | None) -> float:
    """Seconds for so many rows, or for one of rows without end."""
    return 1 / score.rate if rows is None else score.seconds_for(rows)


def hopeless_below(scores: Iterable[Score], start: float, rows: int | None = None) -> float:
    """The rate below which a choice is hopeless whose workers took so many seconds to start."""
    order = ranked(scores, rows)
    if not order:
        return 0.0
    if rows is None:
        return HOPELESS * order[0].rate
    left = order[0].seconds_for(rows) / HOPELESS - start
    return rows / left if left > 0 else inf


def pays_from(score: Score, other: Score) -> int | None:
    """From how many rows on the one is faster than the other; None for never."""

    def faster(rows: int) -> bool:
        return score.seconds_for(rows) < other.seconds_for(rows)

    rows = 1 + bisect_left(range(1, MOST_ROWS), True, key=faster)
    return rows if rows < MOST_ROWS else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The best choice for so many `rows` (None: without end), and how many times as fast as what is set now it is; None
    where that could not be measured. `later`: a choice that is better than the best for more rows."""

    best: Score
    now: Score
    gain: float | None
    rows: int | None = None
    later: Score | None = None

    @property
    def keeps(self) -> bool:
        """Whether what is set now is as good as anything."""
        return self.best.choice == self.now.choice


def verdict(scores: Sequence[Score], now: Choice, rows: int | None = None) -> Verdict | None:
    """What is best for so many rows; None where nothing was measured."""
    found = _verdict(scores, now, rows)
    endless = _verdict(scores, now, None)
    if found is None or endless is None or rows is None:
        return found
    more = pays_from(endless.best, found.best)
    if endless.best is found.best or more is None or more <= rows:
        return found
    return replace(found, later=endless.best)


def _verdict(scores: Sequence[Score], now: Choice, rows: int | None) -> Verdict | None:
    order = ranked(scores, rows)
    if not order:
        return None
    current = next((score for score in scores if score.choice == now), Score(now))
    # One lucky round must not win: who was measured as often as anybody counts.
    often = max(len(score.rates) for score in order)
    seasoned = [score for score in order if len(score.rates) == often and not score.cut] or order
    top = _cost(seasoned[0], rows)
    best = min((score for score in seasoned if (1 - ALIKE) * _cost(score, rows) <= top), key=_takes)
    if not current.rate:
        return Verdict(best, current, None, rows)
    gain = _cost(current, rows) / _cost(best, rows)
    noise = max(score.spread or 0.0 for score in (best, current)) / 2
    if gain < max(WORTH, 1 + noise):
        return Verdict(current, current, 1.0, rows)
    return Verdict(best, current, gain, rows)


def _takes(score: Score) -> tuple[int, int, int]:
    """Memory grows with the workers, and with what each holds at once."""
    choice = score.choice
    return choice.processes, choice.batch, choice.threads
