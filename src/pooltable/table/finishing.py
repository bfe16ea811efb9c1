"""Writes ends of claims and says what became of each: Write -> Fate. Used by leases for their own claims, and by
rescues.

    records locked --> rows locked, those that still are DOING --> judged --> rows written --> entries --> records

Judged: the holder of a DOING row is the open claim with the greatest number among those that still list its key. Who
claims a row must lock it, so the claim before has committed, and has drawn its number before: for one row, numbers are
in the order of its claims. Every key leaves the claim that was told its end, also when nothing was written; only rows
that somebody else has locked stay.

A refused group is halved under savepoints until the one bad end stands alone; it is FAILED instead, else stuck.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pooltable.events import Key
from pooltable.table.database import Connection, Refused
from pooltable.table.records import (
    ENTERED,
    GONE,
    HELD,
    LEFT,
    RETURNED,
    TAKEN,
    Name,
    Record,
    Rivals,
    place_of,
    times_as_text,
)
from pooltable.table.statements import Opened, Opening, Statements, Update, Write
from pooltable.table.states import Fate, Status
from pooltable.table.values import cleaned

# How many claims are read to learn whether one of them took a row; past this the database searches their keys.
READ_AT_MOST = 50


@dataclass
class OpenClaims:
    """Whose claims are ended: the records of a runner by its count. `turn` is the runner's own exchange, None where
    somebody else takes its rows back. `closed` are the counts of the records that have no row left."""

    runner: str
    turn: int | None = None
    records: dict[int, Record] = field(default_factory=dict)
    times: dict[int, dict[int, tuple[float | None, int | None]]] = field(default_factory=dict)
    rivals: Rivals = field(default_factory=Rivals)
    closed: set[int] = field(default_factory=set)


class Wanted:
    """An end that is to be written: where its claim lists it, and how its row spells its key."""

    __slots__ = ("key", "number", "place", "record", "write")

    def __init__(self, write: Write, record: Record, place: int) -> None:
        self.write, self.record, self.place = write, record, place
        self.number = record.number
        self.key: Key = write.claim.key

    @property
    def is_remembered(self) -> bool:
        """Whether there will be an entry: every other end than a return at the first attempt has one."""
        return self.write.remembered or self.place in self.record.known


def write_ends(
    c: Connection, s: Statements, owner: OpenClaims, writes: Sequence[Write], opening: Opening
) -> list[Fate]:
    """The fate of each write, in their order; inside the caller's transaction, which has locked the runner's row."""
    return _Ending(c, s, owner, opening).end(writes) if writes else []


class _Ending:
    """One group of ends."""

    def __init__(self, c: Connection, s: Statements, owner: OpenClaims, opening: Opening) -> None:
        self.c, self.s, self.owner, self.opening = c, s, owner, opening
        self.fates: dict[int, Fate] = {}
        self.letters: dict[int, list[str]] = {}
        self.opened: dict[int, Opened] = {}
        self.entries: list[Write] = []

    def end(self, writes: Sequence[Write]) -> list[Fate]:
        wanted = self._locked_records(writes)
        if wanted:
            held = self._held(self._locked_rows(wanted))
            self._write(held)
            if self.entries:
                self.s.write_entries(self.c, self.owner.runner, self.entries, self.opening.now)
            self._close_places()
        return [self.fates[write.claim.claim_no] for write in writes]

    # ---- the claims

    def _locked_records(self, writes: Sequence[Write]) -> list[Wanted]:
        """The ends whose claims still list their rows, with the records locked."""
        wanted = []
        for write in writes:
            no, place = place_of(write.claim.claim_no)
            record = self.owner.records.get(no)
            if record is None:
                self._tell(write, "fenced")
            else:
                wanted.append(Wanted(write, record, place))
        if not wanted:
            return []
        self.opened = self.s.lock_records(self.c, sorted({one.number for one in wanted}))
        listed, seen = [], set()
        for one in wanted:
            opened = self.opened.get(one.number)
            ours = opened is not None and (opened.runner, opened.no) == (self.owner.runner, one.record.no)
            if opened is None or not ours or opened.ended[one.place] != HELD:
                self._tell(one.write, "fenced")
            elif one.write.claim.claim_no not in seen:
                seen.add(one.write.claim.claim_no)
                listed.append(one)
        return listed

    def _set(self, one: Wanted, letter: str) -> None:
        letters = self.letters.get(one.number)
        if letters is None:
            letters = self.letters[one.number] = list(self.opened[one.number].ended)
        letters[one.place] = letter

    def _close_places(self) -> None:
        """Writes the records again, once each."""
        updates = []
        for number, letters in self.letters.items():
            left = letters.count(HELD)
            opened = self.opened[number]
            times = None
            if not left:
                self.owner.closed.add(opened.no)
                # With its last end only: written with every end, they would be most of what a claim costs.
                times = times_as_text(self.owner.times.get(opened.no, {}), len(letters))
            updates.append(Update(number, "".join(letters), left, self.owner.turn, times))
        if updates:
            self.s.update_records(self.c, updates)

    # ---- the rows

    def _locked_rows(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """The ends whose rows are DOING, locked; the others are told what stands there instead."""
        locked = self.s.lock_rows(self.c, [one.key for one in wanted], Status.DOING)
        found = [one for one in wanted if one.key in locked]
        if len(found) == len(wanted):
            return found
        elsewhere: list[tuple[Wanted, str]] = []
        for one in wanted:
            if one.key in locked:
                continue
            # Equal for the database is not always equal for Python: another case under a collation that ignores it.
            spelt = self.s.lock_rows(self.c, [one.key], Status.DOING)
            if spelt:
                (one.key,) = spelt
                found.append(one)
            else:
                elsewhere.append((one, self._state(one.key)))
        self._tell_elsewhere(elsewhere)
        return found

    def _state(self, key: Key) -> str:
        """The state of a row that is not DOING, or locked by somebody else, which then is told as if it were."""
        state = self.s.state(self.c, key)
        # A row that waits again is locked, because its entry is written: who is just claiming it does not know of that.
        if state == Status.PENDING.value and not self.s.lock_rows(self.c, [key], Status.PENDING):
            return Status.DOING.value
        return state

    def _tell_elsewhere(self, ends: Sequence[tuple[Wanted, str]]) -> None:
        """What became of ends whose rows are not DOING, or locked by somebody else."""
        changed = [(one, state) for one, state in ends if state not in (Status.DOING.value, "missing")]
        taken = self._taken_later([one for one, _ in changed]) if changed else set()
        for one, state in ends:
            write = one.write
            if state == Status.DOING.value and self.s.dialect.is_server:
                self._tell(write, "locked")
                continue
            self._set(one, GONE)
            if state == "missing":
                if one.place in one.record.known:
                    self.s.forget_entry(self.c, one.key)
                self._tell(write, "vanished", state)
            elif one.write.claim.claim_no in taken:
                self._tell(write, "fenced", state)
            elif state in (Status.DONE.value, Status.FAILED.value):
                self.entries.append(write._replace(end="done" if state == Status.DONE.value else "failed", pause=None))
                self._tell(write, "marked", state)
            else:
                # The next attempt is of the same round, which this one cost nothing, not even where a rescue ends it.
                claim = one.record.claim(one.place)
                given_back = write._replace(claim=claim, end="released", fails=claim.fails, lost=claim.lost, pause=None)
                self.entries.append(given_back._replace(kind="", detail="", log=""))
                self._tell(write, "overwritten", state)

    def _taken_later(self, ends: Sequence[Wanted]) -> set[int]:
        """Those whose rows a later claim took, be it open or over: what stands in them is its doing."""
        found: set[int] = set()
        names = self.s.later(self.c, min(one.number for one in ends), READ_AT_MOST)
        if names is None:
            return {one.write.claim.claim_no for one in ends if self.s.claims_of(self.c, one.key, one.number, limit=1)}
        _learn(self.c, self.s, self.owner.rivals, names)
        for name in names:
            listed = self.owner.rivals.listing(name, {one.key for one in ends})
            found.update(one.write.claim.claim_no for one in ends if one.key in listed and one.number < name.number)
        return found

    # ---- who holds a row

    def _held(self, ends: Sequence[Wanted]) -> list[Wanted]:
        """The ends whose claim holds its row. Asked in a statement of its own, after the rows were locked."""
        asked = [(one.number, one.key, one.write.claim.claim_no) for one in ends]
        fenced = overtaken(self.c, self.s, self.owner, asked)
        if not fenced:
            return list(ends)
        for one in ends:
            if one.write.claim.claim_no in fenced:
                self._set(one, GONE)
                self._tell(one.write, "fenced")
        return [one for one in ends if one.write.claim.claim_no not in fenced]

    # ---- writing

    def _write(self, ends: Sequence[Wanted]) -> None:
        groups: defaultdict[tuple[Status, tuple[str, ...]], list[Wanted]] = defaultdict(list)
        for one in ends:
            groups[one.write.status, one.write.columns].append(one)
        for group in groups.values():
            self._write_group(group)

    def _write_group(self, group: Sequence[Wanted]) -> None:
        try:
            self._rows([one.write for one in group])
        except Refused as refusal:
            if len(group) == 1:
                self._pay(group[0], str(refusal))
                return
            half = len(group) // 2
            self._write_group(group[:half])
            self._write_group(group[half:])
        else:
            for one in group:
                self._written(one, one.write)

    def _rows(self, writes: Sequence[Write]) -> None:
        """Writes rows alike under a savepoint. Raises Refused where the database, or a trigger, takes not all."""

        def work() -> None:
            if self.s.write_rows(self.c, writes[0].status, writes[0].columns, writes) != len(writes):
                raise Refused("the row did not change: a trigger leaves it alone")

        self.c.attempt(work)

    def _written(self, one: Wanted, write: Write) -> None:
        if write is not one.write or one.is_remembered:
            self.entries.append(write)
            letter = ENTERED
        else:
            letter = RETURNED if write.end == "done" else LEFT
        if self.owner.turn is None:
            letter = TAKEN
        else:
            self.owner.times.setdefault(one.record.no, {})[one.place] = write.seconds, write.worker
        self._set(one, letter)
        self.fates[write.claim.claim_no] = fate_of(write)

    def _pay(self, one: Wanted, refusal: str) -> None:
        """The row of a refused end is FAILED instead; where even that is refused, its entry ends as stuck."""
        tried = as_failed(one.write, refusal)
        try:
            self._rows([tried])
        except Refused as again:
            self._stick(one, str(again))
        else:
            self._written(one, tried)

    def _stick(self, one: Wanted, refusal: str) -> None:
        """The row stays as it is, because the database refuses every end; its entry says so."""
        reason = cleaned(f"the database refuses every end of this row: {refusal}")
        self.entries.append(
            one.write._replace(end="stuck", pause=None, kind="CannotStore", reason=reason, detail=reason)
        )
        self._set(one, ENTERED)
        self.fates[one.write.claim.claim_no] = Fate(one.write.claim, None, "stuck", "CannotStore", reason)

    def end_as_stuck(self, write: Write, refusal: str) -> Fate:
        for one in self._locked_records([write]):
            self._stick(one, refusal)
            self.s.write_entries(self.c, self.owner.runner, self.entries, self.opening.now)
            self._close_places()
        return self.fates[write.claim.claim_no]

    def _tell(
        self, write: Write, why: Literal["fenced", "locked", "vanished", "marked", "overwritten"], state: str = ""
    ) -> None:
        self.fates[write.claim.claim_no] = Fate(write.claim, None, why, reason=state)


def end_as_stuck(c: Connection, s: Statements, owner: OpenClaims, write: Write, refusal: str, opening: Opening) -> Fate:
    """Every end of this row is refused, each by undoing the whole transaction: only the side tables are written."""
    return _Ending(c, s, owner, opening).end_as_stuck(write, refusal)


def overtaken(c: Connection, s: Statements, owner: OpenClaims, asked: Sequence[tuple[int, Key, int]]) -> set[int]:
    """Of places in records - the record's number, the key, the number of the row's claim - those whose rows an open
    claim with a greater number lists as well: that one is the holder."""
    if not asked:
        return set()
    found: set[int] = set()
    # One runner may have several claims that list a row, each of which a later one overtakes.
    places: defaultdict[Key, list[tuple[int, int]]] = defaultdict(list)
    for number, key, claim_no in asked:
        places[key].append((number, claim_no))
    names = s.newer(c, min(number for number, _, _ in asked))
    _learn(c, s, owner.rivals, names)
    for name in names:
        listed = {
            place: [claim_no for older, claim_no in places[key] if older < name.number]
            for key, place in owner.rivals.listing(name, places.keys()).items()
        }
        if not any(listed.values()):
            continue
        letters = s.ended_of_records(c, [name.number]).get(name.number, "")
        for place, earlier in listed.items():
            if letters[place : place + 1] == HELD:
                found.update(earlier)
    owner.rivals.keep([*names, *(record.name for record in owner.records.values())])
    return found


def _learn(c: Connection, s: Statements, rivals: Rivals, names: Sequence[Name]) -> None:
    unknown = {name.number: name for name in rivals.unknown(names)}
    if unknown:
        for number, keys in s.keys_of_records(c, list(unknown)):
            rivals.learn(unknown[number], keys)


def fate_of(write: Write) -> Fate:
    if write.end == "done":
        return Fate(write.claim, "done")
    assert write.end != "stuck"
    # A rescue's "lost" leaves the row PENDING, as a release does; who asks for it knows that it was one.
    end = "released" if write.end == "lost" else write.end
    return Fate(write.claim, end, None, write.kind, write.reason, write.pause)


def as_failed(write: Write, refusal: str) -> Write:
    """The end that a row gets whose own end is refused: FAILED, with the reason."""
    if write.end == "done":
        kind, reason = "CannotStore", cleaned(f"the result cannot be stored: {refusal}")
        detail = reason
    else:
        kind, reason, detail = write.kind, write.reason or refusal, write.detail or refusal
    return write._replace(
        end="failed", status=Status.FAILED, columns=(), values=(), pause=None, kind=kind, reason=reason, detail=detail
    )
