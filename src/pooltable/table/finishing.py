"""Writes ends of claims and says what became of each: Write -> Fate. Used by leases for their own claims, and by
rescues.

group --write--> all written                                    the common way
         |
         +--> refused: halves under savepoints, until the one bad end stands alone; it is FAILED instead, else stuck
         +--> fewer: read again what stands there -> locked, vanished, overwritten, fenced, marked, or written before
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from pooltable.table.database import Connection, Refused
from pooltable.table.statements import Statements, Write
from pooltable.table.states import Fate, Status, explain
from pooltable.table.values import cleaned


def write_ends(c: Connection, s: Statements, runner: str, writes: Sequence[Write], now: Any) -> list[Fate]:
    """The fate of each write, in their order; inside the caller's transaction."""
    if not writes:
        return []
    try:
        written = c.attempt(lambda: s.write(c, runner, writes, now))
    except Refused as refusal:
        if len(writes) == 1:
            return [_pay(c, s, runner, writes[0], str(refusal), now)]
        half = len(writes) // 2
        return write_ends(c, s, runner, writes[:half], now) + write_ends(c, s, runner, writes[half:], now)
    if written is None:
        return [fate_of(write) for write in writes]
    return [
        fate_of(write) if write.claim.claim_no in written else _unwritten(c, s, runner, write, now) for write in writes
    ]


def fate_of(write: Write) -> Fate:
    if write.end == "done":
        return Fate(write.claim, "done")
    assert write.end != "stuck"
    # A rescue's "lost" leaves the row PENDING, as a release does; who asks for it knows that it was one.
    end = "released" if write.end == "lost" else write.end
    return Fate(write.claim, end, None, write.kind, write.reason, write.pause)


def _unwritten(c: Connection, s: Statements, runner: str, write: Write, now: Any) -> Fate:
    """Reads again what stands there, closes what is over, and names it."""
    claim = write.claim
    found, kind, error = s.find(c, claim.key)
    why = explain(found, runner, claim)
    match why:
        case None:
            if s.dialect.skip_locked:
                return Fate(claim, None, "locked")
            return _pay(c, s, runner, write, "the row did not change: a trigger leaves it alone", now)
        case "vanished":
            s.forget_entry(c, runner, claim)
        case "marked":
            s.close_entry(c, runner, claim, "done" if found.row == "done" else "failed", write.kind, write.detail)
        case "overwritten":
            s.close_entry(c, runner, claim, "released")
        case "fenced" | "stuck":
            pass
        case "done" | "failed" | "retry" | "later" | "released":
            # It is written already: the commit got through, and only its answer was lost.
            return Fate(claim, why, None, kind, error.split("\n", 1)[0], write.pause)
        case _:
            assert_never(why)
    gone = why == "fenced" and found.runner_id is None
    return Fate(claim, None, why, reason="its entry is gone from the side table" if gone else found.row)


def _pay(c: Connection, s: Statements, runner: str, write: Write, refusal: str, now: Any) -> Fate:
    """The row of a refused end is FAILED instead; where even that is refused, its entry ends as stuck."""
    tried = as_failed(write, refusal)
    try:
        written = c.attempt(lambda: s.write(c, runner, [tried], now))
    except Refused as again:
        return stuck(c, s, runner, write, str(again))
    if written is None or write.claim.claim_no in written:
        return fate_of(tried)
    return stuck(c, s, runner, write, refusal)


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


def stuck(c: Connection, s: Statements, runner: str, write: Write, refusal: str) -> Fate:
    """The row stays as it is, because the database refuses every end; its entry says so."""
    reason = cleaned(f"the database refuses every end of this row: {refusal}")
    s.close_entry(c, runner, write.claim, "stuck", "CannotStore", reason)
    return Fate(write.claim, None, "stuck", "CannotStore", reason)
