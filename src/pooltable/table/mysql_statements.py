"""What the lease asks of MySQL and MariaDB: one statement for each step, rows in the order of their keys.

There is no RETURNING that both know. Columns of many rows are changed by one statement, by a CASE over the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pooltable.events import Key
from pooltable.table.database import Connection
from pooltable.table.statements import Statements, Write, portions
from pooltable.table.states import Status

VALUES_AT_ONCE = 50


class MySQLStatements(Statements):
    opening_now = "%s"

    def keys_in(self, keys: Sequence[Key]) -> tuple[str, Sequence[Any]]:
        if self.width == 1:
            return super().keys_in(keys)
        # A list of tuples is served by no index in MariaDB.
        return f"({' OR '.join([f'({self.row_is})'] * len(keys))})", [part for key in keys for part in key]

    def build(self) -> None:
        super().build()
        n, d = self.names, self.dialect
        job = f"FROM {n.jobs} WHERE {d.quote('job')} = %s)"
        due = f"coalesce((SELECT min(not_before) FROM {self.e}) <= {d.now}, FALSE)"
        left = f"TIMESTAMPDIFF(MICROSECOND, {d.now}, expires_at) / 1e6"
        head = f"SELECT {d.now}, (SELECT paused_at IS NOT NULL {job}, (SELECT version {job}, {due}"
        self.sql_opening = f"{head}, {left} FROM {n.runners} WHERE id = %s FOR UPDATE"
        self.sql_opening_without = head
        names = [*self.facts, "not_before", "finished_at"]
        marks = ", ".join(["%s"] * (self.width + len(names) + 1))
        self.sql_write_entry = (
            f"INSERT INTO {self.e} ({self.entry_keys}, {', '.join(names)}, claimed_at) VALUES ({marks})"
            f" ON DUPLICATE KEY UPDATE {', '.join(f'{name} = VALUES({name})' for name in names)}"
        )
        self.sql_due_at = f"SELECT {d.later('%s')}"

    def drawn(self, c: Connection, sql: str, values: Sequence[Any]) -> int:
        c.run(sql, values)
        return c.last_number

    def write_values(self, c: Connection, status: Status, columns: tuple[str, ...], writes: Sequence[Write]) -> int:
        doing, count = self.is_word[Status.DOING], 0
        for some in portions(writes, VALUES_AT_ONCE):
            sets, values = [self.set_word[status]], []
            for i, name in enumerate(columns):
                cases = " ".join([f"WHEN {self.row_is} THEN %s"] * len(some))
                sets.append(f"{self.known_columns[name].bare} = CASE {cases} END")
                for write in some:
                    values += [*write.claim.key, write.values[i]]
            among, keys = self.keys_in([write.claim.key for write in some])
            count += c.run(f"UPDATE {self.t} SET {', '.join(sets)} WHERE {among} AND {doing}", [*values, *keys])
        return count

    def write_entries(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> None:
        due_at = {pause: c.all(self.sql_due_at, (pause,))[0][0] for pause in {w.pause for w in writes if w.pause}}
        c.many(
            self.sql_write_entry,
            [
                (
                    *write.claim.key,
                    *self.entry_values(runner, write),
                    due_at[write.pause] if write.pause else None,
                    now,
                    now,
                )
                for write in writes
            ],
        )
