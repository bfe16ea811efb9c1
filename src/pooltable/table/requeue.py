"""Makes rows PENDING again by hand: finished ones (requeue), and those that nobody works on (release)."""

from __future__ import annotations

from collections.abc import Sequence

from pooltable.events import Key
from pooltable.table.database import Connection, Session
from pooltable.table.kinds import is_kind
from pooltable.table.rescue import Rescuer, taken_back
from pooltable.table.statements import Statements, in_order, portions
from pooltable.table.states import Status

AT_ONCE = 1000


def requeue(
    session: Session,
    s: Statements,
    keys: Sequence[Key] | None,
    states: Sequence[Status],
    kind: str | None,
    run: str | None,
) -> int:
    """Makes finished rows PENDING: those of `keys`, or those in one of `states`, or FAILED of a `kind` or `run`; how
    many."""
    if keys is None:
        keys = session.read(lambda c: _keys_of(c, s, states, kind, run))
    count = 0
    for at in range(0, len(keys), AT_ONCE):
        some = keys[at : at + AT_ONCE]
        count += session.transact(lambda c, some=some: _requeue_some(c, s, some))  # type: ignore[misc]
    return count


def _keys_of(c: Connection, s: Statements, states: Sequence[Status], kind: str | None, run: str | None) -> list[Key]:
    is_failed = s.is_word[Status.FAILED]
    if kind is None and run is None:
        found: list[Key] = []
        for state in states:
            found += c.all(f"SELECT {s.keys} FROM {s.t} WHERE {s.is_word[state]}{s.has_key}{s.scope}")
        return found
    of_kind, values = is_kind(c, s, kind)
    where = f"pt_e.ended IN ('failed', 'stuck'){of_kind}"
    if run is not None:
        where, values = f"{where} AND pt_e.runner_id LIKE {s.mark}", [*values, f"{run}%"]
    row = f"EXISTS (SELECT 1 FROM {s.t} WHERE {s.same} AND ({is_failed} OR {s.is_word[Status.DOING]}){s.scope})"
    return c.all(f"SELECT {s.e_keys} FROM {s.e} AS pt_e WHERE {where} AND {row}", values)


def _requeue_some(c: Connection, s: Statements, keys: Sequence[Key]) -> int:
    finished = f"({s.is_word[Status.DONE]} OR {s.is_word[Status.FAILED]})"
    stuck = (
        f"({s.is_word[Status.DOING]} AND EXISTS (SELECT 1 FROM {s.e} AS pt_e WHERE {s.same} AND pt_e.ended = 'stuck'))"
    )
    pending = f"UPDATE {s.t} SET {s.set_word[Status.PENDING]} WHERE {s.row_is} AND ({finished} OR {stuck})"
    due_now = f"UPDATE {s.e} SET not_before = NULL WHERE {s.entry_is} AND not_before IS NOT NULL"
    # In the order of the keys, as every other writer does it, so that two of them never wait for each other crosswise.
    keys = in_order(keys)
    count = c.many(pending, keys)
    c.many(due_now, keys)
    return count


def release_dead(session: Session, s: Statements) -> int:
    """Gives back the rows of dead runners at no cost."""
    rescuer = Rescuer(s, "", 0.0)
    deaths = session.read(lambda c: rescuer.deaths(c, s.holders(c)))
    fates, _ = rescuer.take_back(
        session,
        deaths,
        lambda claim, runner: taken_back(
            claim, Status.PENDING, claim.rescued, f"released; its runner {runner} was lost"
        ),
    )
    return sum(fate.end == "released" for fate in fates)


def release_foreign(session: Session, s: Statements) -> int:
    """Makes DOING rows PENDING that no claim lists: somebody else started them, or left them so. Stuck ones stay."""
    doing = f"{s.is_word[Status.DOING]}{s.has_key}{s.scope}"
    stuck = f"EXISTS (SELECT 1 FROM {s.e} AS pt_e WHERE {s.same} AND pt_e.ended = 'stuck')"
    held = session.read(s.held_keys)
    keys = session.read(lambda c: c.all(f"SELECT {s.keys} FROM {s.t} WHERE {doing} AND NOT {stuck}"))
    asked = [key for key in keys if key not in held]

    def work(c: Connection, some: Sequence[Key]) -> int:
        free = s.lock_rows(c, some, Status.DOING, s.scope)
        # Asked again under the rows' locks: who claims one now has to wait, and who claimed it before has a record.
        free -= s.held_keys(c)
        pending = f"UPDATE {s.t} SET {s.set_word[Status.PENDING]} WHERE {s.row_is} AND {s.is_word[Status.DOING]}"
        return c.many(pending, in_order(list(free))) if free else 0

    return sum(
        session.transact(lambda c, some=some: work(c, some))  # type: ignore[misc]
        for some in portions(asked, AT_ONCE)
        if some
    )
