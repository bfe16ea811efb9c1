"""The states of a row, the moves between them, and what an outcome means for a row. Pure: no database, no clock.

    RowOutcome --judge--> Verdict --(Lease.finish)--> Fate
    what the worker       what should               what was really
    tells                 be written                written, or why not

The four states are the user's four status words; everything else that must be remembered of a row (how often it was
claimed, failed, lost its worker or its runner) is in pooltable's own side tables: its claim, and its entry if it has
one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Literal, NamedTuple, assert_never

from pooltable.errors import MappingError, SettingError
from pooltable.events import End, Key, NotWritten
from pooltable.outcomes import NOTHING, RowOutcome, Stored


class Status(Enum):
    """The state of a row. Rows whose status is none of the four words are not ours."""

    PENDING = "pending"  # waits to be claimed; perhaps not due yet
    DOING = "doing"  # claimed by a runner, one of whose claims lists it
    DONE = "done"  # its task returned, and what it returned is stored
    FAILED = "failed"  # given up: its budget is used up, or the task said so

    # There is one of each. Enum's own hash is slow, and is asked for with every row.
    __hash__ = object.__hash__


# Every move that pooltable makes, with the verbs that make it. The drawing in the docs is made from this.
MOVES: dict[tuple[Status, Status], tuple[str, ...]] = {
    (Status.PENDING, Status.DOING): ("claim",),
    (Status.DOING, Status.DONE): ("finish",),
    (Status.DOING, Status.FAILED): ("finish", "rescue"),
    (Status.DOING, Status.PENDING): ("retry", "later", "release", "rescue"),
    (Status.DONE, Status.PENDING): ("requeue",),
    (Status.FAILED, Status.PENDING): ("requeue",),
}

# How an entry ended; NULL while the row is claimed. "lost": its runner died and another one took the row back.
Ended = Literal["done", "failed", "retry", "later", "released", "lost", "stuck"]

# A claim of a row whose last entry ended like this is a re-run: it begins with a fresh budget and a new round.
ROUND_OVER: tuple[Ended, ...] = ("done", "failed", "stuck")


def word_text(word: object) -> str:
    """A status word as people write it."""
    return "NULL" if word is None else str(word)


def word_in_quotes(word: object) -> str:
    """A status word in a message: without quotes, a space at its end is not seen."""
    return "NULL" if word is None else repr(word)


@dataclass(frozen=True, slots=True)
class Words:
    """The user's own status words, any values that the column's type can hold; one of them may be None."""

    pending: Any = "PENDING"
    doing: Any = "DOING"
    done: Any = "DONE"
    failed: Any = "FAILED"

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for name, word in self.items():
            # Compared as a case-insensitive, space-padding collation would, because the column may have one.
            same = "NULL" if word is None else f"{word}".rstrip().casefold()
            if same in seen:
                raise MappingError(
                    f"the words for {seen[same]} and {name} are the same, {word!r}; each state needs its own"
                )
            seen[same] = name

    def items(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def of(self, status: Status) -> Any:
        return getattr(self, status.value)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a row is tried, and how long it waits in between (seconds).

    `fails`: attempts that may raise or run over their time limit. `lost`: attempts whose worker may die. `rescued`:
    attempts whose runner may die. The n-th wait is `pause * factor ** (n - 1)`, at most `longest_pause`, give or take
    the part `jitter` of it.
    """

    fails: int = 1
    lost: int = 3
    rescued: int = 10
    pause: float = 1.0
    factor: float = 2.0
    longest_pause: float = 600.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name in ("fails", "lost", "rescued"):
            count = getattr(self, name)
            if not isinstance(count, int) or count < 1:
                raise SettingError(
                    f"Retry({name}={count!r}): give a whole number from 1 up; 1 means that the first one is the last"
                )
        for name in ("pause", "longest_pause"):
            if not getattr(self, name) >= 0:
                raise SettingError(f"Retry({name}={getattr(self, name)!r}): give seconds from 0 up")
        if not self.factor >= 1:
            raise SettingError(f"Retry(factor={self.factor!r}): give a number from 1 up")
        if not 0 <= self.jitter <= 1:
            raise SettingError(f"Retry(jitter={self.jitter!r}): give a part between 0 and 1")

    def pause_after(self, count: int, chance: float = 0.5) -> float:
        """The wait after the `count`-th failure; `chance` from 0 to 1 places it within the jitter."""
        # The exponent is bounded because 2.0 ** 1100 is an error, not infinity.
        pause = min(self.longest_pause, self.pause * self.factor ** min(count - 1, 200))
        return pause * (1 + self.jitter * (2 * chance - 1))


# Claims, finishes and fates are made for every row, by the ten thousand a second: tuples with names cost a third of a
# frozen dataclass.
class Claim(NamedTuple):
    """A claimed row. `claim_no` tells its place in a record of its runner (records.py); `attempt` is for people.

    `fails`, `lost` and `rescued` are counts of this round so far, without this attempt. `idempotency_key` is equal over
    the attempts of a round and new when a finished row is run again.
    """

    key: Key
    claim_no: int
    attempt: int
    fails: int
    lost: int
    rescued: int
    idempotency_key: str

    @property
    def alone(self) -> bool:
        """It killed a worker before: run it in no batch with others."""
        return self.lost > 0


@dataclass(frozen=True, slots=True)
class Done:
    """DONE, with what is to be stored of what the task returned."""

    stored: Stored = NOTHING


@dataclass(frozen=True, slots=True)
class GiveUp:
    """FAILED; `counts` says which budget this attempt used."""

    kind: str
    reason: str
    detail: str = ""
    counts: Literal["fails", "lost"] | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """PENDING again, due after `pause` seconds; this attempt used one of the budget that `counts` names."""

    pause: float
    kind: str
    reason: str
    detail: str = ""
    counts: Literal["fails", "lost"] = "fails"


@dataclass(frozen=True, slots=True)
class PutOff:
    """PENDING again, due after `pause` seconds, because the task asked for it; costs nothing."""

    pause: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    """PENDING again at once, as if it had never been claimed; costs nothing."""


Verdict = Done | GiveUp | Again | PutOff | Released

ENDS: dict[type[Verdict], End] = {Done: "done", GiveUp: "failed", Again: "retry", PutOff: "later", Released: "released"}
STATUS_AFTER: dict[End, Status] = {
    "done": Status.DONE,
    "failed": Status.FAILED,
    "retry": Status.PENDING,
    "later": Status.PENDING,
    "released": Status.PENDING,
}


class Finish(NamedTuple):
    """One end to be written: `seconds` it ran, in which worker, and what it printed (kept for failures only)."""

    claim: Claim
    verdict: Verdict
    seconds: float = 0.0
    worker: int | None = None
    log: str = ""


class Fate(NamedTuple):
    """What became of a finish: `end` as it was really written, or `why` it was not; exactly one of them is set."""

    claim: Claim
    end: End | None
    why: NotWritten | None = None
    kind: str = ""
    reason: str = ""
    pause: float | None = None

    @property
    def due_in(self) -> float | None:
        """In how many seconds the row may be claimed again, as far as this tells; None: it is not PENDING."""
        if self.end in ("retry", "later", "released") or (self.why == "overwritten" and self.reason == "pending"):
            return self.pause or 0.0
        return None


_DONE = Done()


def judge(ended: RowOutcome, claim: Claim, retry: Retry, chance: float = 0.5) -> Verdict:
    """What the end of its task means for a row. `chance`, from 0 to 1, places the wait within its jitter."""
    if ended is NOTHING:
        return _DONE
    if isinstance(ended, Stored):
        return Done(ended)
    words = ended.kind, ended.reason, ended.detail
    match ended.how:
        case "cancelled":
            # The call never ran, or was ended because the runner stops: neither says anything about the row.
            return Released()
        case "later":
            return PutOff(ended.seconds, ended.reason)
        case "fail" | "unstorable":
            return GiveUp(*words)
        case "lost":
            lost = claim.lost + 1
            if lost >= retry.lost:
                return GiveUp(*words, counts="lost")
            # Most often the machine was out of memory for a moment: the first time costs no wait.
            pause = 0.0 if lost == 1 else retry.pause_after(lost - 1, chance)
            return Again(pause, *words, counts="lost")
        case "raised":
            fails = claim.fails + 1
            if fails >= retry.fails:
                return GiveUp(*words, counts="fails")
            return Again(retry.pause_after(fails, chance), *words, counts="fails")
        case _:
            assert_never(ended.how)
