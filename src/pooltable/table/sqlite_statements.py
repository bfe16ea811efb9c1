"""What the lease asks of SQLite, which has one writer at a time: a transaction that has begun sees nothing move."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pooltable.events import Key
from pooltable.table.database import Connection
from pooltable.table.statements import Opening, Statements, Write
from pooltable.table.states import Status

_PLAIN = {int, str}


class SQLiteStatements(Statements):
    rows_of_values = "VALUES "
    opening_now = "?"
    lock = lock_free = lock_rows_free = ""

    def build(self) -> None:
        super().build()
        n = self.names
        self.sql_opening = (
            f"SELECT {self.dialect.now}, (SELECT paused_at FROM {n.jobs} WHERE job = ?), (SELECT version FROM"
            f" {n.jobs} WHERE job = ?), (SELECT expires_at FROM {n.runners} WHERE id = ?), (SELECT min(not_before) FROM"
            f" {self.e} WHERE not_before IS NOT NULL)"
        )
        names = [*self.facts, "not_before", "finished_at"]
        marks = ", ".join("?" * (self.width + len(names) + 1))
        self.sql_write_entry = (
            f"INSERT INTO {self.e} ({self.entry_keys}, {', '.join(names)}, claimed_at) VALUES ({marks}) ON CONFLICT"
            f" ({self.entry_keys}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in names)}"
        )
        # A list of plain keys goes as one value: half a microsecond a row, where each value of its own takes two.
        self.key_among = f"{self.keys} IN (SELECT value FROM json_each(?))"
        self._value_texts: dict[tuple[Status, tuple[str, ...]], str] = {}

    def keys_in(self, keys: Sequence[Key]) -> tuple[str, Sequence[Any]]:
        if self.width == 1:
            values = [key[0] for key in keys]
            if _PLAIN.issuperset(map(type, values)):
                return self.key_among, (json.dumps(values),)
        return super().keys_in(keys)

    def opening(self, c: Connection, runner: str) -> Opening:
        now, paused, version, expires, first_due = c.all(self.sql_opening, (self.job, self.job, runner))[0]
        left = None if expires is None else expires - now
        return Opening(now, paused is not None, left, first_due is not None and first_due <= now, version)

    def opening_unlocked(self, c: Connection, runner: str) -> Opening | None:
        return self.opening(c, runner)

    def write_values(self, c: Connection, status: Status, columns: tuple[str, ...], writes: Sequence[Write]) -> int:
        text = self._value_texts.get((status, columns))
        if text is None:
            sets = [self.set_word[status], *(f"{self.known_columns[name].bare} = ?" for name in columns)]
            text = f"UPDATE {self.t} SET {', '.join(sets)} WHERE {self.row_is} AND {self.is_word[Status.DOING]}"
            self._value_texts[status, columns] = text
        return c.many(text, [(*write.values, *write.claim.key) for write in writes])

    def write_entries(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> None:
        c.many(
            self.sql_write_entry,
            [
                (
                    *write.claim.key,
                    *self.entry_values(runner, write),
                    now + write.pause if write.pause else None,
                    now,
                    now - (write.seconds or 0.0),
                )
                for write in writes
            ],
        )
