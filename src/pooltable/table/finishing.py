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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
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
    time_as_text,
)
from pooltable.table.statements import Opened, Opening, Statements, Update, Write
from pooltable.table.states import Fate, Status
from pooltable.table.values import cleaned

# How many claims are read to learn whether one of them took a row; past this the database searches their keys.
READ_AT_MOST = 50

_number = attrgetter("claim.claim_no")
_key = attrgetter("claim.key")
_alike = attrgetter("status", "columns")


@dataclass
class OpenClaims:
    """Whose claims are ended: the records of a runner by its count. `turn` is the runner's own exchange, None where
    somebody else takes its rows back. `closed` are the counts of the records that have no row left. `times`: of a
    record, by place, how long the row ran and where, as text."""

    runner: str
    turn: int | None = None
    records: dict[int, Record] = field(default_factory=dict)
    times: dict[int, list[str]] = field(default_factory=dict)
    rivals: Rivals = field(default_factory=Rivals)
    closed: set[int] = field(default_factory=set)

    def numbers(self, claim_nos: Iterable[int]) -> dict[int, int]:
        """Of the records of these claims of rows, by their counts, the numbers."""
        return {no: self.records[no].number for no in {place_of(claim_no)[0] for claim_no in claim_nos}}


def write_ends(
    c: Connection, s: Statements, owner: OpenClaims, writes: Sequence[Write], opening: Opening
) -> list[Fate]:
    """The fate of each write, in their order; inside the caller's transaction, which has locked the runner's row."""
    return _Ending(c, s, owner, opening).end(writes) if writes else []


class _Ending:
    """One group of ends. What is done for every row is done for all of them at once: a row is looked at alone only
    where it differs from its fellows."""

    def __init__(self, c: Connection, s: Statements, owner: OpenClaims, opening: Opening) -> None:
        self.c, self.s, self.owner, self.opening = c, s, owner, opening
        self.fates: dict[int, Fate] = {}
        self.opened: dict[int, Opened] = {}  # by the runner's count
        self.letters: dict[int, list[str]] = {}
        self.spelt: dict[int, Key] = {}  # the key of a claim, where its row spells it otherwise by now
        self.entries: list[Write] = []

    def end(self, writes: Sequence[Write]) -> list[Fate]:
        numbers = list(map(_number, writes))
        listed = self._listed(writes if len(set(numbers)) == len(numbers) else _first_of_each(writes))
        if listed:
            self._write(self._held(self._locked_rows(listed)))
            if self.entries:
                self.s.write_entries(self.c, self.owner.runner, self.entries, self.opening.now)
            self._close_places()
        return list(map(self.fates.__getitem__, numbers))

    # ---- the claims

    def _listed(self, writes: Iterable[Write]) -> list[Write]:
        """The ends whose claims still list their rows, with the records locked."""
        owner = self.owner
        of_record: defaultdict[int, list[tuple[int, Write]]] = defaultdict(list)
        for write in writes:
            no, place = place_of(write.claim.claim_no)
            of_record[no].append((place, write))
        records = {no: owner.records[no] for no in of_record if no in owner.records}
        opened = self.s.lock_records(self.c, sorted(record.number for record in records.values())) if records else {}
        listed = []
        for no, ends in of_record.items():
            found = opened.get(records[no].number) if no in records else None
            if found is None or (found.runner, found.no) != (owner.runner, no):
                self._tell_all([write for _, write in ends], "fenced")
                continue
            self.opened[no] = found
            self.letters[no] = letters = list(found.ended)
            held = [write for place, write in ends if letters[place] == HELD]
            if len(held) < len(ends):
                self._tell_all([write for place, write in ends if letters[place] != HELD], "fenced")
            listed += held
        return listed

    def _set(self, write: Write, letter: str) -> None:
        no, place = place_of(write.claim.claim_no)
        self.letters[no][place] = letter

    def _close_places(self) -> None:
        """Writes the records again, once each."""
        updates = []
        for no, opened in self.opened.items():
            ended = "".join(self.letters[no])
            if ended == opened.ended:
                continue
            left = ended.count(HELD)
            times = None
            if not left:
                self.owner.closed.add(no)
                # With its last end only: written with every end, they would be most of what a claim costs.
                times = ",".join(self.owner.times[no]) if no in self.owner.times else None
            updates.append(Update(opened.number, ended, left, self.owner.turn, times))
        if updates:
            self.s.update_records(self.c, updates)

    # ---- the rows

    def _locked_rows(self, writes: Sequence[Write]) -> Sequence[Write]:
        """The ends whose rows are DOING, locked; the others are told what stands there instead."""
        keys = list(map(_key, writes))
        locked = self.s.lock_rows(self.c, keys, Status.DOING)
        if locked.issuperset(keys):
            return writes
        found = []
        elsewhere: list[tuple[Write, str]] = []
        for write in writes:
            if write.claim.key in locked:
                found.append(write)
                continue
            # Equal for the database is not always equal for Python: another case under a collation that ignores it.
            spelt = self.s.lock_rows(self.c, [write.claim.key], Status.DOING)
            if spelt:
                (self.spelt[write.claim.claim_no],) = spelt
                found.append(write)
            else:
                elsewhere.append((write, self._state(write.claim.key)))
        self._tell_elsewhere(elsewhere)
        return found

    def _state(self, key: Key) -> str:
        """The state of a row that is not DOING, or locked by somebody else, which then is told as if it were."""
        state = self.s.state(self.c, key)
        # A row that waits again is locked, because its entry is written: who is just claiming it does not know of that.
        if state == Status.PENDING.value and not self.s.lock_rows(self.c, [key], Status.PENDING):
            return Status.DOING.value
        return state

    def _key_of_row(self, write: Write) -> Key:
        """As its row spells it."""
        return self.spelt.get(write.claim.claim_no, write.claim.key)

    def _is_known(self, write: Write) -> bool:
        """Whether the row had an entry when it was claimed."""
        no, place = place_of(write.claim.claim_no)
        return place in self.owner.records[no].known

    def _tell_elsewhere(self, ends: Sequence[tuple[Write, str]]) -> None:
        """What became of ends whose rows are not DOING, or locked by somebody else."""
        changed = [write for write, state in ends if state not in (Status.DOING.value, "missing")]
        taken = self._taken_later(changed) if changed else set()
        for write, state in ends:
            if state == Status.DOING.value and self.s.dialect.is_server:
                self._tell(write, "locked")
                continue
            self._set(write, GONE)
            if state == "missing":
                if self._is_known(write):
                    self.s.forget_entry(self.c, self._key_of_row(write))
                self._tell(write, "vanished", state)
            elif write.claim.claim_no in taken:
                self._tell(write, "fenced", state)
            elif state in (Status.DONE.value, Status.FAILED.value):
                self.entries.append(write._replace(end="done" if state == Status.DONE.value else "failed", pause=None))
                self._tell(write, "marked", state)
            else:
                # The next attempt is of the same round, which this one cost nothing, not even where a rescue ends it.
                no, place = place_of(write.claim.claim_no)
                claim = self.owner.records[no].claim(place)
                given_back = write._replace(claim=claim, end="released", fails=claim.fails, lost=claim.lost, pause=None)
                self.entries.append(given_back._replace(kind="", detail="", log=""))
                self._tell(write, "overwritten", state)

    def _taken_later(self, writes: Sequence[Write]) -> set[int]:
        """Those whose rows a later claim took, be it open or over: what stands in them is its doing."""
        numbers = self.owner.numbers(map(_number, writes))
        asked = [(numbers[place_of(_number(write))[0]], self._key_of_row(write), _number(write)) for write in writes]
        names = self.s.later(self.c, min(numbers.values()), READ_AT_MOST)
        if names is None:
            return {claim_no for number, key, claim_no in asked if self.s.claims_of(self.c, key, number, limit=1)}
        _learn(self.c, self.s, self.owner.rivals, names)
        found: set[int] = set()
        for name in names:
            listed = self.owner.rivals.listing(name, {key for _, key, _ in asked})
            found.update(claim_no for number, key, claim_no in asked if key in listed and number < name.number)
        return found

    # ---- who holds a row

    def _held(self, writes: Sequence[Write]) -> Sequence[Write]:
        """The ends whose claim holds its row. Asked in a statement of its own, after the rows were locked."""
        keys = list(map(self._key_of_row, writes) if self.spelt else map(_key, writes))
        fenced = overtaken(self.c, self.s, self.owner, keys, list(map(_number, writes)))
        if not fenced:
            return writes
        for write in writes:
            if write.claim.claim_no in fenced:
                self._set(write, GONE)
                self._tell(write, "fenced")
        return [write for write in writes if write.claim.claim_no not in fenced]

    # ---- writing

    def _write(self, writes: Sequence[Write]) -> None:
        groups: defaultdict[tuple[Status, tuple[str, ...]], list[Write]] = defaultdict(list)
        for alike, write in zip(map(_alike, writes), writes, strict=True):
            groups[alike].append(write)
        for group in groups.values():
            self._write_group(group)

    def _write_group(self, group: Sequence[Write]) -> None:
        try:
            self._rows(group)
        except Refused as refusal:
            if len(group) == 1:
                self._pay(group[0], str(refusal))
                return
            half = len(group) // 2
            self._write_group(group[:half])
            self._write_group(group[half:])
        else:
            self._written(group)

    def _rows(self, writes: Sequence[Write]) -> None:
        """Writes rows alike under a savepoint. Raises Refused where the database, or a trigger, takes not all."""

        def work() -> None:
            if self.s.write_rows(self.c, writes[0].status, writes[0].columns, writes) != len(writes):
                raise Refused("the row did not change: a trigger leaves it alone")

        self.c.attempt(work)

    def _written(self, group: Sequence[Write], instead: bool = False) -> None:
        """The rows of these ends are written. `instead`: of another end than the one that was asked for, which is
        remembered."""
        records, times, own = self.owner.records, self.owner.times, self.owner.turn is not None
        without_entry = RETURNED if group[0].end == "done" else LEFT
        for write in group:
            claim_no = write.claim.claim_no
            no, place = place_of(claim_no)
            if instead or write.remembered or place in records[no].known:
                self.entries.append(write)
                letter = ENTERED
            else:
                letter = without_entry
            if own:
                if no not in times:
                    times[no] = [""] * len(records[no].keys)
                times[no][place] = time_as_text(write.seconds, write.worker)
            self.letters[no][place] = letter if own else TAKEN
            self.fates[claim_no] = fate_of(write)

    def _pay(self, write: Write, refusal: str) -> None:
        """The row of a refused end is FAILED instead; where even that is refused, its entry ends as stuck."""
        tried = as_failed(write, refusal)
        try:
            self._rows([tried])
        except Refused as again:
            self._stick(write, str(again))
        else:
            self._written([tried], instead=True)

    def _stick(self, write: Write, refusal: str) -> None:
        """The row stays as it is, because the database refuses every end; its entry says so."""
        reason = cleaned(f"the database refuses every end of this row: {refusal}")
        self.entries.append(write._replace(end="stuck", pause=None, kind="CannotStore", reason=reason, detail=reason))
        self._set(write, ENTERED)
        self.fates[write.claim.claim_no] = Fate(write.claim, None, "stuck", "CannotStore", reason)

    def end_as_stuck(self, write: Write, refusal: str) -> Fate:
        for listed in self._listed([write]):
            self._stick(listed, refusal)
            self.s.write_entries(self.c, self.owner.runner, self.entries, self.opening.now)
            self._close_places()
        return self.fates[write.claim.claim_no]

    def _tell(
        self, write: Write, why: Literal["fenced", "locked", "vanished", "marked", "overwritten"], state: str = ""
    ) -> None:
        self.fates[write.claim.claim_no] = Fate(write.claim, None, why, reason=state)

    def _tell_all(self, writes: Sequence[Write], why: Literal["fenced"]) -> None:
        for write in writes:
            self._tell(write, why)


def _first_of_each(writes: Sequence[Write]) -> list[Write]:
    """Without those that end a claim of a row a second time."""
    found: dict[int, Write] = {}
    for write in writes:
        found.setdefault(write.claim.claim_no, write)
    return list(found.values())


def end_as_stuck(c: Connection, s: Statements, owner: OpenClaims, write: Write, refusal: str, opening: Opening) -> Fate:
    """Every end of this row is refused, each by undoing the whole transaction: only the side tables are written."""
    return _Ending(c, s, owner, opening).end_as_stuck(write, refusal)


def overtaken(
    c: Connection, s: Statements, owner: OpenClaims, keys: Sequence[Key], claim_nos: Sequence[int]
) -> set[int]:
    """Of these claims of rows, with the keys as the rows spell them, those whose rows an open claim with a greater
    number lists as well: that one is the holder."""
    if not claim_nos:
        return set()
    numbers = owner.numbers(claim_nos)
    names = s.newer(c, min(numbers.values()))
    _learn(c, s, owner.rivals, names)
    found: set[int] = set()
    asked = set(keys)
    for name in names:
        listed = owner.rivals.listing(name, asked)
        earlier: defaultdict[int, list[int]] = defaultdict(list)  # by the place in the newer one
        if listed:
            for key, claim_no in zip(keys, claim_nos, strict=True):
                # One runner may have several claims that list a row, each of which a later one overtakes.
                if key in listed and numbers[place_of(claim_no)[0]] < name.number:
                    earlier[listed[key]].append(claim_no)
        if earlier:
            letters = s.ended_of_records(c, [name.number]).get(name.number, "")
            for place, those in earlier.items():
                if letters[place : place + 1] == HELD:
                    found.update(those)
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
