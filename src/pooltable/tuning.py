"""Which numbers of processes, threads and rows at once to try for a task, and which is best: as values, without I/O.

choices(...) -> Choice ...  --tuner.py measures, in rounds-->  Score ...  --verdict-->  the best one, and its gain
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

HOPELESS = 0.5  # of the best rate: who is below it in its first part is not measured to the end
PROMISING = 0.8  # of the best rate: who is above it is measured again
FINALISTS = 4
ALIKE = 0.03  # so little is no difference between two choices; the one that takes less is better
WORTH = 1.05  # a gain below this is none
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
    """What was measured of a choice: rows a second, once a round. `cut`: its last round was ended early, since it was
    far behind. `failure`: why it cannot be taken."""

    choice: Choice
    rates: list[float] = field(default_factory=list)
    cut: bool = False
    failure: str = ""

    @property
    def rate(self) -> float:
        return median(self.rates) if self.rates and not self.failure else 0.0

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


def finalists(scores: Iterable[Score], now: Choice) -> list[Choice]:
    """Who is measured again: the best few, and what is set now, for the comparison."""
    order = ranked(scores)
    best = order[0].rate if order else 0.0
    chosen = [score.choice for score in order if score.rate >= PROMISING * best][:FINALISTS]
    kept = [score.choice for score in order if score.choice == now and now not in chosen]
    return chosen + kept


def ranked(scores: Iterable[Score]) -> list[Score]:
    """Those that have a rate, the best first."""
    return sorted((score for score in scores if score.rate), key=lambda score: -score.rate)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The best choice, and how many times as fast as what is set now it is; None where that could not be measured."""

    best: Score
    now: Score
    gain: float | None

    @property
    def keeps(self) -> bool:
        """Whether what is set now is as good as anything."""
        return self.best.choice == self.now.choice


def verdict(scores: Sequence[Score], now: Choice) -> Verdict | None:
    """What is best; None where nothing was measured."""
    order = ranked(scores)
    if not order:
        return None
    current = next((score for score in scores if score.choice == now), Score(now))
    # One lucky round must not win: who was measured as often as anybody counts.
    often = max(len(score.rates) for score in order)
    seasoned = [score for score in order if len(score.rates) == often and not score.cut] or order
    top = seasoned[0].rate
    best = min((score for score in seasoned if score.rate >= (1 - ALIKE) * top), key=_takes)
    if not current.rate:
        return Verdict(best, current, None)
    gain = best.rate / current.rate
    noise = max(score.spread or 0.0 for score in (best, current)) / 2
    if gain < max(WORTH, 1 + noise):
        return Verdict(current, current, 1.0)
    return Verdict(best, current, gain)


def _takes(score: Score) -> tuple[int, int, int]:
    """Memory grows with the workers, and with what each holds at once."""
    choice = score.choice
    return choice.processes, choice.batch, choice.threads
