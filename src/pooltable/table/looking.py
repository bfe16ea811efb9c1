"""What stands in the table before a run: the words found, rows that others started, a missing index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pooltable.table import jobs, schema
from pooltable.table.database import Connection, Database
from pooltable.table.statements import Statements
from pooltable.table.states import Status, word_in_quotes

COUNTED = 1_000_000  # rows that are counted exactly
COMPARED = 20_000  # DOING rows that are compared with what claims list; more are only counted
INDEX_FROM = 10_000  # rows from which on a claim without its index is slow enough to speak of


@dataclass(frozen=True, slots=True)
class Look:
    """What stands in the table.

    `words` maps each value found in the status column to its number of rows, or to None in a table too large to count;
    `strange` are those that are no word of this job, nor of another one on this column.
    `foreign_doing` are DOING rows that no runner holds, `keyless` PENDING ones with NULL in their key. `index_sql`
    makes the index that claims lack, None where they have it or the table is small. `unsafe_file_system` names a file
    system that cannot be trusted with a SQLite file. `known` tells whether the job is set up with this mapping.
    `hidden` says what keeps every row from this role, and `no_pending` that the pending word is not the table's: none
    waits under it though there are strange ones, and no run of this job has ended any; each with the remedy.
    """

    words: dict[Any, int | None]
    strange: tuple[Any, ...]
    pending: int
    foreign_doing: int
    keyless: int
    index_sql: str | None
    unsafe_file_system: str | None
    known: bool
    hidden: str | None
    no_pending: str | None


class Looker:
    """Looks at a table; `entries` tells whether the side tables are there yet."""

    def __init__(self, statements: Statements, database: Database, entries: bool) -> None:
        self._s = statements
        self._database = database
        self._entries = entries

    def look(self, c: Connection) -> Look:
        s = self._s
        words, size = self._words(c)
        strange = self._strange(c, words)
        pending = self._count(c, s.is_word[Status.PENDING] + s.has_key + s.scope)
        keyless = self.keyless(c)
        known = self._entries and jobs.known(c, s)
        # Once all rows are done none waits, and a few that were left alone from the start do not make the word wrong.
        in_use = pending or keyless or (known and len(strange) < len(words))
        return Look(
            words=words,
            strange=strange,
            pending=pending,
            foreign_doing=self.foreign_doing(c),
            keyless=keyless,
            index_sql=self.index_sql(c) if size > INDEX_FROM else None,
            unsafe_file_system=s.dialect.unsafe_file_system(self._database.engine.url),
            known=known,
            hidden=s.dialect.hidden(c, s.mapping),
            no_pending=self._no_pending(words) if strange and not in_use else None,
        )

    def _no_pending(self, words: Iterable[Any]) -> str:
        m = self._s.mapping
        found = [word_in_quotes(word) for word in (*words, m.words.pending)]
        return (
            f"{m.name}.{m.status.name} holds {' and '.join(found[:-1])}; none is the pending word {found[-1]}: say"
            " which one is, with --pending or Words(pending=...)"
        )

    def _words(self, c: Connection) -> tuple[dict[Any, int | None], int]:
        s = self._s
        status = s.mapping.status
        within = f" WHERE (\n{s.mapping.where}\n)" if s.mapping.where else ""
        some = f"SELECT {status.sql} AS word FROM {s.t}{within} LIMIT {COUNTED}"
        found = c.all(f"SELECT word, count(*) FROM ({some}) AS pt_some GROUP BY word")
        size = sum(count for _, count in found)
        exact = size < COUNTED
        return {_shown(word): count if exact else None for word, count in found}, size

    def _strange(self, c: Connection, words: dict[Any, int | None]) -> tuple[Any, ...]:
        s = self._s
        known = [word for _, word in s.mapping.words.items()]
        # Another job may be set up on this column before this one has any side table of its own.
        if s.dialect.has_table(c, s.mapping.schema, "pooltable_job"):
            q, mark = s.dialect.quote, s.mark
            sql = (
                f"SELECT words FROM {s.names.jobs} WHERE {q('table')} = {mark} AND {q('status')} = {mark}"
                f" AND {q('job')} <> {mark}"
            )
            for (others,) in c.all(sql, (s.mapping.name, s.mapping.status.name, s.job)):
                known += json.loads(others)
        return tuple(word for word in words if word not in known)

    def _count(self, c: Connection, condition: str) -> int:
        s = self._s
        some = f"SELECT 1 AS one FROM {s.t} WHERE {condition} LIMIT {COUNTED}"
        return int(c.all(f"SELECT count(*) FROM ({some}) AS pt_some")[0][0])

    def keyless(self, c: Connection) -> int:
        """How many PENDING rows have NULL in their key, as SQLite allows: no statement can name them."""
        s = self._s
        return self._count(c, s.is_word[Status.PENDING] + s.lacks_key + s.scope) if s.lacks_key else 0

    def foreign_doing(self, c: Connection) -> int:
        """How many DOING rows no runner holds."""
        s = self._s
        doing = f"{s.is_word[Status.DOING]}{s.has_key}{s.scope}"
        if not (self._entries and jobs.same_rows(c, s)):
            return self._count(c, doing)
        stuck = f"EXISTS (SELECT 1 FROM {s.e} AS pt_e WHERE {s.same} AND pt_e.ended = 'stuck')"
        sql = f"SELECT {s.keys} FROM {s.t} WHERE {doing} AND NOT {stuck} LIMIT {COMPARED}"
        keys = c.all(sql)
        if len(keys) == COMPARED:
            return max(0, self._count(c, f"{doing} AND NOT {stuck}") - sum(s.holders(c).values()))
        foreign = set(keys) - s.held_keys(c) if keys else set()
        if foreign:
            # Those that just ended between the two questions are not found again.
            foreign &= set(c.all(sql)) - s.held_keys(c)
        return len(foreign)

    def index_sql(self, c: Connection) -> str | None:
        """The SQL of the index that claims lack; None where there is one that serves them."""
        if self._s.mapping.order.columns is None or self.serving(c):
            return None  # no index serves an order by expressions that we cannot read
        return self._s.dialect.plain(schema.claim_index(self._s.mapping, self._s.job, self._s.dialect))

    def serving(self, c: Connection) -> list[str]:
        """The names of the indexes that serve claims."""
        s, m = self._s, self._s.mapping
        order = [column.name for column in m.order.columns or ()]
        status = m.status.name
        # As the database shows it in a condition, with quotes or without.
        shown = status.lower(), s.dialect.plain(m.status.bare).lower()
        own = schema.claim_index_name(s.job)
        word = s.dialect.plain(s.dialect.literal(m.words.pending))
        is_pending = re.compile(r"\bIS NULL\b" if word == "NULL" else rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        found = []
        for name, columns, condition, valid in s.dialect.indexes(c, m):
            whole = columns[: len(order) + 1] == [status, *order]
            on_status = any(name in condition.lower() for name in shown)
            partial = on_status and columns[: len(order)] == order
            # Ours may have been made for another pending word than the job has now.
            partial = partial and (name != own or bool(is_pending.search(condition)))
            # A key of the table's own stands behind every index of it.
            by_key = s.dialect.key_in_every_index and columns == [status] and order == [column.name for column in m.key]
            if valid and (whole or partial or by_key):
                found.append(name)
        return found


def _shown(word: Any) -> Any:
    """A word without the spaces that a column of fixed width adds."""
    return word.rstrip() if isinstance(word, str) else word
