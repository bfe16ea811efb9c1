"""Keeps a job tidy and healthy: prunes what is over, and says what would slow or endanger a run."""

from __future__ import annotations

import time

from pooltable.table.database import Connection, Database, Session
from pooltable.table.finding import Finding
from pooltable.table.looking import Looker
from pooltable.table.statements import Statements

AT_ONCE = 5000
CLOCK_SKEW = 5.0


def prune(session: Session, s: Statements, older_than: float) -> int:
    """Removes finished entries older than so many seconds, those whose rows are gone, and old runners; how many
    entries.

    Open entries, those of waiting rows and stuck ones stay.
    """
    d, m = s.dialect, s.mark
    now = d.epoch(d.now)
    old = f"pt_e.ended IN ('done', 'failed') AND {d.epoch('pt_e.finished_at')} < {now} - {m}"
    gone = f"pt_e.ended IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {s.t} WHERE {s.same})"
    drop = f"DELETE FROM {s.e} WHERE {s.entry_is} AND ended IS NOT NULL"
    removed = 0
    for condition, values in ((old, (older_than,)), (gone, ())):

        def some(c: Connection, condition: str = condition, values: tuple[float, ...] = values) -> int:
            keys = c.all(f"SELECT {s.e_keys} FROM {s.e} AS pt_e WHERE {condition} LIMIT {AT_ONCE}", values)
            return c.many(drop, keys) if keys else 0

        while count := session.transact(some):
            removed += count
    runners = (
        f"DELETE FROM {s.names.runners} WHERE job = {m} AND {d.epoch('stopped_at')} < {now} - {m}"
        f" AND id NOT IN (SELECT runner_id FROM {s.e} WHERE ended IS NULL)"
    )
    session.transact(lambda c: c.run(runners, (s.job, older_than)))
    return removed


def findings(c: Connection, s: Statements, database: Database, entries: bool) -> list[Finding]:
    """What would slow or endanger a run on this table, most harmful first."""
    looker = Looker(s, database, entries)
    look = looker.look(c)
    m = s.mapping
    found: list[Finding] = []
    if look.unsafe_file_system:
        found.append(
            Finding(
                "network file system",
                f"the file is on {look.unsafe_file_system}, whose locks SQLite cannot rely on",
                "move the file to a disk of this machine, or use PostgreSQL or MySQL",
            )
        )
    found += s.dialect.findings(c, m)
    skew = _skew(c, s)
    if abs(skew) > CLOCK_SKEW:
        found.append(
            Finding(
                "clock",
                f"the database's clock and this host's are {skew:+.0f} s apart",
                "leases go by the database's; set the clocks",
            )
        )
    index = looker.index_sql(c)
    if index is not None:
        found.append(Finding("index missing", f"each claim reads through {m.name!r} to find waiting rows", index))
    if look.foreign_doing:
        found.append(
            Finding(
                "foreign doing rows",
                f"{look.foreign_doing} rows hold {m.words.doing!r}, and no runner holds them",
                "if nothing else works on them: pooltable release --foreign",
            )
        )
    return found


def _skew(c: Connection, s: Statements) -> float:
    before = time.time()
    ((there,),) = c.all(f"SELECT {s.dialect.epoch(s.dialect.now)}")
    return float(there) - (before + time.time()) / 2
