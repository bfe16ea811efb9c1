"""The kinds of error of FAILED rows, and which of them are meant by what somebody types.

A kind is stored as the module and the name of its class, `app.TooLarge`, or as words, `exit status 3`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pooltable.table.database import Connection
from pooltable.table.statements import Statements
from pooltable.table.states import Status


def kinds_of_failures(c: Connection, s: Statements) -> dict[str, int]:
    """Each kind and how many rows are FAILED, or stuck, with it; the most frequent first."""
    failed = f"({s.is_word[Status.FAILED]} OR {s.is_word[Status.DOING]})"
    sql = (
        f"SELECT pt_e.error_kind, count(*) FROM {s.e} AS pt_e WHERE pt_e.ended IN ('failed', 'stuck') AND"
        f" pt_e.error_kind IS NOT NULL AND EXISTS (SELECT 1 FROM {s.t} WHERE {s.same} AND {failed})"
        " GROUP BY pt_e.error_kind ORDER BY count(*) DESC, pt_e.error_kind"
    )
    return {str(kind): int(count) for kind, count in c.all(sql)}


def meant(kind: str, kinds: Iterable[str]) -> list[str]:
    """Those of `kinds` that are `kind`: exactly, or else without their module and in upper or lower case alike."""
    kinds = list(kinds)
    if kind in kinds:
        return [kind]
    wanted = kind.casefold()
    return [one for one in kinds if one.casefold() == wanted or one.casefold().endswith(f".{wanted}")]


def is_kind(c: Connection, s: Statements, kind: str | None) -> tuple[str, list[Any]]:
    """The condition on an entry `pt_e` for this kind of error, to be put behind another one, and its values."""
    if kind is None:
        return "", []
    found = meant(kind, kinds_of_failures(c, s))
    if not found:
        return " AND 1 = 0", []
    return f" AND pt_e.error_kind IN ({', '.join([s.mark] * len(found))})", [*found]
