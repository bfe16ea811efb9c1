"""The record of a claim: the handful of rows that were claimed in one transaction, and what became of each.

    claim --> Record(number, keys, known)      written once, by the transaction that takes the rows
    end   --> a letter for a row's place       written whole again with every group of ends

A record is all that is remembered of a row that returned at its first attempt. A row that ended otherwise has an entry
as well, and `known` is what its entry said when it was claimed. Values only: no database here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any, NamedTuple
from uuid import UUID

from pooltable.errors import MappingError
from pooltable.events import Key
from pooltable.table.states import Claim

# How many rows one claim may take. Its record is written whole with every group of ends, so it stays small.
MOST_ROWS = 1000
# The number of a row's claim is that of the record in the runner's own count, times this, and the row's place.
PLACE_BITS = 20
PLACES = 1 << PLACE_BITS

# The letters of `ended`, one for each place.
HELD = "h"  # the claim holds the row
RETURNED = "d"  # DONE at its first attempt: nothing else remembers it
ENTERED = "e"  # it ended, and its entry tells how
LEFT = "l"  # given back before it was started, without an entry
GONE = "g"  # its end was told but not written: fenced out, overwritten, marked by the task, or the row is gone
TAKEN = "t"  # somebody else took it back: a rescue, or a release by hand


class Known(NamedTuple):
    """What a row's entry says for an attempt that begins: counts of this round so far, and the round itself."""

    attempt: int
    fails: int
    lost: int
    rescued: int
    round: str


class Name(NamedTuple):
    """What names a claim. `number` is the order of claims, drawn by the database; (`runner`, `no`) is its identity,
    because a database that was restored gives numbers again."""

    number: int
    runner: str
    no: int


class Record(NamedTuple):
    """A claim as its runner, or a rescuer, knows it; `number`, `runner` and `no` as in its name."""

    number: int
    runner: str
    no: int
    keys: Sequence[Key]
    known: dict[int, Known]

    @property
    def name(self) -> Name:
        return Name(self.number, self.runner, self.no)

    def claim(self, place: int) -> Claim:
        """The claim of the row at this place."""
        known = self.known.get(place)
        if known is None:
            return Claim(self.keys[place], self.no * PLACES + place, 1, 0, 0, 0, f"{self.runner}-{self.no}-{place}")
        attempt, fails, lost, rescued, round_ = known
        return Claim(self.keys[place], self.no * PLACES + place, attempt, fails, lost, rescued, round_)

    def claims(self, ended: str | None = None) -> list[Claim]:
        """The claims of the rows that it holds; of all of them without `ended`."""
        if ended:
            return [self.claim(place) for place in held(ended)]
        if self.known:
            return list(map(self.claim, range(len(self.keys))))
        first, round_ = self.no * PLACES, f"{self.runner}-{self.no}-"
        return [Claim(key, first + place, 1, 0, 0, 0, f"{round_}{place}") for place, key in enumerate(self.keys)]


def held(ended: str) -> Iterator[int]:
    """The places that are held."""
    return (place for place, letter in enumerate(ended) if letter == HELD)


def place_of(claim_no: int) -> tuple[int, int]:
    """The record's number in its runner's count, and the place in it."""
    return claim_no >> PLACE_BITS, claim_no & (PLACES - 1)


# ---- as text

_compact = (",", ":")


def keys_as_text(keys: Sequence[Key]) -> str:
    """Keys as JSON: a list of values, or of lists where the key has several columns."""
    values: Any = [key[0] for key in keys] if len(keys[0]) == 1 else keys
    return json.dumps(values, default=_tagged, separators=_compact, ensure_ascii=False)


def keys_of_text(text: str) -> list[Key]:
    """The keys again, with the types that they had."""
    values = json.loads(text, object_hook=_untagged) if "{" in text else json.loads(text)
    if values and isinstance(values[0], list):
        return [tuple(value) for value in values]
    return [(value,) for value in values]


def patterns_of_key(key: Key) -> tuple[str, list[str]]:
    """A pattern for LIKE, with ! as the escape, that fits every text of keys which lists this one; and where it fits
    many others, those of which one does."""
    text = keys_as_text([key])[1:-1].replace("!", "!!").replace("%", "!%").replace("_", "!_")
    if text[-1] in '"]}':
        return f"%{text}%", []
    # A number stands inside others: 5 is found in almost every claim.
    return f"%{text}%", [f"%,{text},%", f"[{text},%", f"%,{text}]", f"[{text}]"]


def _microseconds(value: timedelta) -> str:
    return str(value // timedelta(microseconds=1))


def _interval(text: str) -> timedelta:
    return timedelta(microseconds=int(text))


# Types of keys that JSON has no form for: a letter, how it is written, how it is read.
_TAGS: tuple[tuple[str, type[Any] | tuple[type[Any], ...], Any, Any], ...] = (
    ("uuid", UUID, str, UUID),
    ("datetime", datetime, datetime.isoformat, datetime.fromisoformat),
    ("date", date, date.isoformat, date.fromisoformat),
    ("time", time, time.isoformat, time.fromisoformat),
    # As MySQL gives a TIME, to the microsecond.
    ("interval", timedelta, _microseconds, _interval),
    ("decimal", Decimal, str, Decimal),
    ("bytes", bytes, bytes.hex, bytes.fromhex),
    # As PostgreSQL gives INET and CIDR; an interface is an address as well.
    ("interface", (IPv4Interface, IPv6Interface), str, ip_interface),
    ("address", (IPv4Address, IPv6Address), str, ip_address),
    ("network", (IPv4Network, IPv6Network), str, ip_network),
)


def _tagged(value: Any) -> dict[str, str]:
    if isinstance(value, (memoryview, bytearray)):
        value = bytes(value)
    for tag, kind, write, _ in _TAGS:
        if isinstance(value, kind):
            return {tag: write(value)}
    raise MappingError(f"a key whose values are {type(value).__name__} cannot be one; use a whole number, text or UUID")


def _untagged(pair: dict[str, str]) -> Any:
    ((tag, text),) = pair.items()
    return next(read for name, _, _, read in _TAGS if name == tag)(text)


def known_as_text(known: dict[int, Known]) -> str | None:
    """None where no row of the claim had an entry, as is usual."""
    return json.dumps({place: list(facts) for place, facts in known.items()}, separators=_compact) if known else None


def known_of_text(text: str | None) -> dict[int, Known]:
    return {int(place): Known(*facts) for place, facts in json.loads(text).items()} if text else {}


def time_as_text(seconds: float | None, worker: int | None) -> str:
    """The milliseconds that a row ran and its worker, as `12:0`; nothing where that is not known."""
    return "" if seconds is None else f"{seconds * 1000:.0f}:{'' if worker is None else worker}"


def time_at(times: str | None, place: int) -> tuple[float | None, int | None]:
    """The seconds that the row at this place ran, and its worker."""
    part = times.split(",")[place] if times else ""
    milliseconds, _, worker = part.partition(":")
    return (float(milliseconds) / 1000 if milliseconds else None), (int(worker) if worker else None)


class Rivals:
    """The keys of open claims, remembered because they never change: each is read once."""

    def __init__(self) -> None:
        self._places: dict[Name, dict[Key, int]] = {}

    def unknown(self, names: Iterable[Name]) -> list[Name]:
        return [name for name in names if name not in self._places]

    def learn(self, name: Name, keys: Sequence[Key]) -> None:
        self._places[name] = dict(zip(keys, range(len(keys)), strict=True))

    def listing(self, name: Name, keys: Set[Key]) -> dict[Key, int]:
        """Those of the keys that the claim took, with their places in it."""
        places = self._places.get(name, {})
        return {key: places[key] for key in keys & places.keys()}

    def keep(self, names: Iterable[Name]) -> None:
        """Forgets all but these."""
        wanted = set(names)
        if len(self._places) > 2 * len(wanted) + 100:
            self._places = {name: places for name, places in self._places.items() if name in wanted}
