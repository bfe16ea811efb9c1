"""Prunes what a job remembers of rows that are over."""

from __future__ import annotations

from typing import NamedTuple

from pooltable.events import Key
from pooltable.table.database import Connection, Session
from pooltable.table.statements import Statements

LEAST = 3600.0  # seconds after which a claim may go, however little is asked for
AT_ONCE = 1000  # entries in one transaction


class Pruned(NamedTuple):
    """How many finished entries were removed, how many of rows that are gone, how many runners, and how many claims
    that are over."""

    old: int
    gone: int
    runners: int
    claims: int = 0


def prune(session: Session, s: Statements, older_than: float, dry_run: bool) -> Pruned:
    """Removes finished entries older than so many seconds, those whose rows are gone, and runners and claims over for
    that long.

    What an open claim lists stays always, entries of waiting and stuck rows as long as their rows are there.
    """
    d, m = s.dialect, s.mark
    now = d.epoch(d.now)
    old = f"pt_e.ended IN ('done', 'failed') AND {d.epoch('pt_e.finished_at')} < {now} - {m}"
    gone = f"NOT EXISTS (SELECT 1 FROM {s.t} WHERE {s.same})"
    # One that was killed has not stopped, but its lease ran out.
    over = (
        f"job = {m} AND {d.epoch('coalesce(stopped_at, expires_at)')} < {now} - {m}"
        f" AND id NOT IN (SELECT runner_id FROM {s.r} WHERE closed_at IS NULL)"
    )
    # Of a runner that may still read back what a lost commit did, nothing is removed; nor the greatest number, which
    # SQLite would give again.
    closed = (
        f"closed_at IS NOT NULL AND {d.epoch('closed_at')} < {now} - {m} AND number < (SELECT max(number) FROM {s.r})"
        f" AND runner_id NOT IN (SELECT id FROM {s.names.runners} WHERE stopped_at IS NULL AND"
        f" {d.epoch('expires_at')} > {now} - {LEAST})"
    )
    if dry_run:

        def count(table: str, condition: str, *values: object) -> int:
            return int(session.read(lambda c: c.all(f"SELECT count(*) FROM {table} WHERE {condition}", values))[0][0])

        entries = f"{s.e} AS pt_e"
        both = count(entries, f"({old}) AND ({gone})", older_than)
        gone_count = count(entries, gone) - both
        runners = count(s.names.runners, over, s.job, older_than)
        return Pruned(count(entries, old, older_than), gone_count, runners, count(s.r, closed, max(older_than, LEAST)))
    old_count, gone_count = _remove(session, s, old, (older_than,)), _remove(session, s, gone, ())
    runners = session.transact(lambda c: c.run(f"DELETE FROM {s.names.runners} WHERE {over}", (s.job, older_than)))
    return Pruned(old_count, gone_count, runners, _remove_claims(session, s, closed, max(older_than, LEAST)))


def _remove_claims(session: Session, s: Statements, closed: str, older_than: float) -> int:
    """Removes the claims for which the condition holds, by number."""

    removed, last = 0, 0

    def some(c: Connection) -> tuple[int, int]:
        # Behind the last one, because those that stay would be passed again each time.
        sql = f"SELECT number FROM {s.r} WHERE {closed} AND number > {s.mark} ORDER BY number LIMIT {AT_ONCE}"
        numbers = [row[0] for row in c.all(sql, (older_than, last))]
        if not numbers:
            return 0, 0
        among, values = s.numbers_in(numbers)
        return c.run(f"DELETE FROM {s.r} WHERE {among} AND closed_at IS NOT NULL", values), numbers[-1]

    while True:
        count, last = session.transact(some)
        removed += count
        if not last:
            return removed


def _remove(session: Session, s: Statements, condition: str, values: tuple[float, ...]) -> int:
    """Removes the entries for which the condition holds; how many. They are gone through once, in the order of keys."""
    keys_at = ", ".join(s.value(column) for column in s.mapping.key)
    behind = f"({s.e_keys}) > ({keys_at})"
    # Asked once more under the entry's lock, so that one which was opened meanwhile stays.
    same = " AND ".join(f"{c.sql} = {s.e}.{name}" for c, name in zip(s.mapping.key, s.names.key, strict=True))
    is_there = f"EXISTS (SELECT 1 FROM {s.t} WHERE {same})"
    drop = f"DELETE FROM {s.e} WHERE {s.entry_is} AND (ended IS NOT NULL OR NOT {is_there})"
    removed, last = 0, None

    def some(c: Connection) -> tuple[int, Key | None]:
        among = condition if last is None else f"{condition} AND {behind}"
        sql = f"SELECT {s.e_keys} FROM {s.e} AS pt_e WHERE {among} ORDER BY {s.e_keys} LIMIT {AT_ONCE}"
        keys = c.all(sql, (*values, *(last or ())))
        return (c.many(drop, keys), keys[-1]) if keys else (0, None)

    while True:
        count, last = session.transact(some)
        removed += count
        if last is None:
            return removed
