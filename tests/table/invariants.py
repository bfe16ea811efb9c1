"""What must hold of the tables after every test, whatever happened in it.

    check_invariants(TaskTable(...))                    # the rows alone
    check_invariants(TaskTable(...), claims=Counter())  # and the attempts, where each claim was counted by its key
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa

from pooltable import TaskTable
from pooltable.table.schema import entry_table


def check_invariants(table: TaskTable, *, claims: Counter[tuple[Any, ...]] | None = None, foreign_doing: int = 0) -> None:
    """Raises AssertionError where a row or an entry stands as it must not.

    `foreign_doing`: how many DOING rows the test itself has left without a runner.
    """
    counts = table.counts()
    engine = table._database.engine
    with engine.connect() as connection:
        names = sa.inspect(connection).get_table_names(schema=table.mapping.schema)
        rows = connection.execute(sa.text(f"SELECT count(*) FROM {table.mapping.sql}")).scalar()
        assert table.mapping.where or counts.total == rows, "the states do not add up to the number of rows"
        if entry_table(table.job) not in names:
            assert counts.doing == foreign_doing
            return
        s = table._known
        held = connection.execute(
            sa.text(f"SELECT count(*) FROM {s.e} WHERE ended IS NULL AND runner_id NOT IN (SELECT id FROM {s.names.runners} WHERE stopped_at IS NULL)")
        ).scalar()
        assert held == 0, f"{held} open entries without a runner"
        entries = {
            row[: s.width]: row[s.width :]
            for row in connection.execute(sa.text(f"SELECT {s.entry_keys}, attempt, ended, not_before, fails, lost, rescued FROM {s.e}"))
        }
    assert table.look().foreign_doing == foreign_doing, "DOING rows without an open entry"
    for key, (attempt, ended, not_before, fails, lost, rescued) in entries.items():
        entry = table.entry(key)
        assert entry is not None
        assert attempt >= 1
        assert min(fails, lost, rescued) >= 0
        if claims is not None:
            assert attempt == claims[key], f"row {key}: attempt {attempt}, but {claims[key]} claims"
        if not_before is not None:
            assert ended in ("retry", "later"), f"row {key}: under back-off, and ended {ended!r}"
        if entry.status == "doing":
            assert ended in (None, "stuck") or foreign_doing, f"row {key} is DOING, and its entry ended {ended!r}"


def check_finished_once(fates: list[Any]) -> None:
    """No claim was written twice: each (key, claim number) ended DONE or FAILED at most once for each time it was told."""
    told = Counter((fate.claim.key, fate.claim.idempotency_key, fate.claim.claim_no) for fate in fates if fate.end is not None)
    assert all(count >= 1 for count in told.values())
