"""What must hold of the tables after every test, whatever happened in it.

check_invariants(TaskTable(...))                    # the rows alone
check_invariants(TaskTable(...), claims=Counter())  # and the attempts, where each claim was counted by its key
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pooltable import TaskTable


def check_invariants(
    table: TaskTable, *, claims: Counter[tuple[Any, ...]] | None = None, foreign_doing: int = 0
) -> None:
    """Raises AssertionError where a row or an entry stands as it must not.

    `foreign_doing`: how many DOING rows the test itself has left without a runner.
    """
    with one_connection(table):
        _check(table, claims, foreign_doing)


@contextmanager
def one_connection(table: TaskTable) -> Iterator[None]:
    """What the table reads, it reads over the same connection: to open one takes a server longer than to answer."""
    session = table._database.session()
    vars(table)["_reading"] = session.read
    try:
        yield
    finally:
        del vars(table)["_reading"]
        session.close()


def _check(table: TaskTable, claims: Counter[tuple[Any, ...]] | None, foreign_doing: int) -> None:
    counts = table.counts()
    s = table._known
    ((rows,),) = table._reading(lambda c: c.all(f"SELECT count(*) FROM {s.t}"))
    assert table.mapping.where or counts.total == rows, "the states do not add up to the number of rows"
    if not table._entries:
        assert counts.doing == foreign_doing
        return
    living = f"SELECT id FROM {s.names.runners} WHERE stopped_at IS NULL"
    ((held,),) = table._reading(
        lambda c: c.all(f"SELECT count(*) FROM {s.r} WHERE closed_at IS NULL AND runner_id NOT IN ({living})")
    )
    assert held == 0, f"{held} open claims without a runner"
    for opened, ended, left_open, size in table._reading(
        lambda c: c.all(f"SELECT closed_at IS NULL, ended, left_open, size FROM {s.r}")
    ):
        assert (left_open, size) == (ended.count("h"), len(ended)), "a record does not count its own letters"
        assert bool(opened) == (left_open > 0), "a claim is open exactly while it holds a row's place"
    facts = "attempt, ended, not_before, fails, lost, rescued"
    found = table._reading(lambda c: c.all(f"SELECT {s.entry_keys}, {facts} FROM {s.e}"))
    entries = {row[: s.width]: row[s.width :] for row in found}
    assert table.look().foreign_doing == foreign_doing, "DOING rows that no claim lists"
    for key, (attempt, ended, not_before, fails, lost, rescued) in entries.items():
        assert attempt >= 1
        assert min(fails, lost, rescued) >= 0
        if claims is not None:
            # Fewer where the row was given back before it was started, or began afresh.
            assert attempt <= claims[key], f"row {key}: attempt {attempt}, but {claims[key]} claims"
        if not_before is not None:
            assert ended in ("retry", "later"), f"row {key}: under back-off, and ended {ended!r}"
    for key in list(entries)[:20]:
        entry = table.entry(key)
        assert entry is not None
        ended = entries[key][1]
        if entry.status == "doing":
            assert ended in (None, "stuck") or foreign_doing, f"row {key} is DOING, and its entry ended {ended!r}"


def check_finished_once(fates: list[Any]) -> None:
    """In one round of a row, one claim at most was written as DONE or FAILED."""
    final = {(fate.claim.idempotency_key, fate.claim.claim_no) for fate in fates if fate.end in ("done", "failed")}
    rounds = Counter(round_ for round_, _ in final)
    assert all(count == 1 for count in rounds.values()), [round_ for round_, count in rounds.items() if count > 1]
