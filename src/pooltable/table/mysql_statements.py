"""What the lease asks of MySQL and MariaDB: one statement for each step, rows in the order of their keys.

There is no RETURNING that both know, so rows are locked, read, and then written. Many rows are changed by one
statement: entries by an INSERT that turns into an update, columns of rows by a CASE over the keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pooltable.events import Key
from pooltable.table.database import Connection
from pooltable.table.requeue import in_order
from pooltable.table.statements import Picked, Statements, Write
from pooltable.table.states import ROUND_OVER, Claim, Status

Item = TypeVar("Item")

# MariaDB turns longer lists of values into joins, which lock more than the rows that are meant.
KEYS_AT_ONCE = 500
VALUES_AT_ONCE = 50

_OVER = ", ".join(f"'{ended}'" for ended in ROUND_OVER)


class MySQLStatements(Statements):
    opening_now = "%s"

    def keys_in(self, keys: Sequence[Key]) -> tuple[str, Sequence[Any]]:
        if self.width == 1:
            return super().keys_in(keys)
        # A list of tuples is served by no index in MariaDB.
        return f"({' OR '.join([f'({self.row_is})'] * len(keys))})", [part for key in keys for part in key]

    def entries_in(self, keys: Sequence[Key]) -> tuple[str, Sequence[Any]]:
        if self.width == 1:
            return f"{self.entry_keys} IN ({', '.join(['%s'] * len(keys))})", [key[0] for key in keys]
        return f"({' OR '.join([f'({self.entry_is})'] * len(keys))})", [part for key in keys for part in key]

    def build(self) -> None:
        super().build()
        m, n, d = self.mapping, self.names, self.dialect
        pending = self.is_word[Status.PENDING]
        paused = f"(SELECT paused_at IS NOT NULL FROM {n.jobs} WHERE {d.quote('job')} = %s)"
        due = f"coalesce((SELECT min(not_before) FROM {self.e}) <= {d.now}, FALSE)"
        left = f"TIMESTAMPDIFF(MICROSECOND, {d.now}, expires_at) / 1e6"
        self.sql_opening = f"SELECT {d.now}, {paused}, {due}, {left} FROM {n.runners} WHERE id = %s FOR UPDATE"
        self.sql_opening_without = f"SELECT {d.now}, {paused}, {due}"
        self.sql_due = (
            f"SELECT {self.e_keys} FROM {self.e} AS pt_e WHERE pt_e.not_before <= {d.now} AND {self.its_row}"
            " ORDER BY pt_e.not_before LIMIT %s FOR UPDATE SKIP LOCKED"
        )
        under = "(SELECT pt_b.not_before FROM {} AS pt_b WHERE {}) IS NULL".format(
            self.e, " AND ".join(f"pt_b.{name} = {column.sql}" for name, column in zip(n.key, m.key, strict=True))
        )
        positions = f", {self.positions}" if self.positions else ""
        head = f"SELECT {self.keys}{positions} FROM {self.t} WHERE {pending} AND {under}{self.scope}"
        tail = f" ORDER BY {m.order.sql} LIMIT %s FOR UPDATE SKIP LOCKED"
        self.sql_waiting = head + tail
        self.sql_waiting_behind = head + self.behind + tail
        self.sql_waits, self.sql_waits_behind = self.asking(f"{pending} AND {under}{self.scope}")
        fresh = f"ended IN ({_OVER})"
        self.marks = ", ".join(["%s"] * self.width)
        self.sql_open = (
            f"INSERT INTO {self.e} ({self.entry_keys}, claim_no, round, runner_id, attempt, claimed_at, fails, lost,"
            " rescued) VALUES "
        )
        # Evaluated from left to right: what looks at `ended` comes before `ended` itself changes.
        self.sql_open_again = (
            f" ON DUPLICATE KEY UPDATE fails = IF({fresh}, 0, fails), lost = IF({fresh}, 0, lost),"
            f" rescued = IF({fresh}, 0, rescued), round = IF({fresh}, VALUES(round), round), attempt = attempt + 1,"
            " runner_id = VALUES(runner_id), claim_no = VALUES(claim_no), claimed_at = VALUES(claimed_at), not_before ="
            " NULL, ended = NULL"
        )
        # What an entry keeps at its end is given as nothing, because an INSERT wants every column.
        self.sql_done = (
            f"INSERT INTO {self.e} ({self.entry_keys}, seconds, worker, finished_at, ended, runner_id, claim_no,"
            " attempt, round, claimed_at, fails, lost, rescued) VALUES "
        )
        closing = ", ".join(f"{name} = VALUES({name})" for name in ("ended", "finished_at", "seconds", "worker"))
        self.sql_done_known = f" ON DUPLICATE KEY UPDATE {closing}, error_kind = NULL, error = NULL, log = NULL"
        marks = ", ".join(["%s"] * (self.width + 16))
        changed = [
            "ended",
            "fails",
            "lost",
            "rescued",
            "not_before",
            "finished_at",
            "seconds",
            "worker",
            "error_kind",
            "error",
            "log",
        ]
        self.sql_close_many = (
            f"INSERT INTO {self.e} ({self.entry_keys}, runner_id, claim_no, attempt, round, claimed_at,"
            f" {', '.join(changed)})"
            f" VALUES ({marks}) ON DUPLICATE KEY UPDATE {', '.join(f'{name} = VALUES({name})' for name in changed)}"
        )
        self.sql_due_at = f"SELECT {d.later('%s')}"

    def _locked(self, c: Connection, keys: Sequence[Key], status: Status, scope: str = "") -> set[Key]:
        """Those of the keys whose rows hold the word, and that nobody else has locked; locked for us."""
        found: set[Key] = set()
        for some in _portions(in_order(keys), KEYS_AT_ONCE):
            among, values = self.keys_in(some)
            sql = (
                f"SELECT {self.keys} FROM {self.t} WHERE {among} AND {self.is_word[status]}{scope} FOR UPDATE SKIP"
                " LOCKED"
            )
            found.update(c.all(sql, values))
        return found

    def due(self, c: Connection, count: int, now: Any) -> list[Picked]:
        keys = c.all(self.sql_due, (count,))
        locked = self._locked(c, keys, Status.PENDING, self.scope) if keys else set()
        # A row may spell its key otherwise than its entry, where 'a' and 'A' are the same.
        return [Picked(key, ()) for key in (*(key for key in keys if key in locked), *(locked - set(keys)))]

    def waiting_sql(self, count: int) -> tuple[str, Sequence[Any]]:
        return self.sql_waiting, (count,)

    def waiting(self, c: Connection, count: int, after: tuple[Any, ...] | None) -> list[Picked]:
        if after is None:
            rows = c.all(*self.waiting_sql(count))
        else:
            rows = c.all(self.sql_waiting_behind, (*self.behind_values(after), count))
        return [Picked(row[: self.width], row[self.width :]) for row in rows]

    def take(
        self, c: Connection, runner: str, picked: Sequence[Picked], first: int, now: Any
    ) -> tuple[list[Claim], int]:
        numbers = {row.key: number for number, row in enumerate(picked, first)}
        keys = in_order(list(numbers))
        fresh = f"({self.marks}, %s, CONCAT('{runner}-', %s), '{runner}', 1, '{now}', 0, 0, 0)"
        for some in _portions(keys, KEYS_AT_ONCE):
            c.run(
                f"{self.sql_open}{', '.join([fresh] * len(some))}{self.sql_open_again}",
                [value for key in some for value in (*key, numbers[key], numbers[key])],
            )
        changed = 0
        for some in _portions(keys, KEYS_AT_ONCE):
            among, values = self.keys_in(some)
            changed += c.run(
                f"UPDATE {self.t} SET {self.set_word[Status.DOING]} WHERE {among} AND {self.is_word[Status.PENDING]}",
                values,
            )
        # Of rows that were never claimed before, which are most, everything is known.
        again = {row[self.width]: row[self.width :] for row in c.all(self.sql_claimed_again, (runner, first))}
        facts = (again.get(number) or (number, 1, 0, 0, 0, f"{runner}-{number}") for number in numbers.values())
        return [Claim(key, *known) for key, known in zip(numbers, facts, strict=True)], changed

    def write(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> set[int] | None:
        # First the rows, then the entries, as everybody does it; what others hold is left for the next group.
        of = {write.claim.claim_no: write for write in writes}
        locked = self._locked(c, [write.claim.key for write in writes], Status.DOING)
        good: list[Write] = []
        for some in _portions(in_order(list(locked)), KEYS_AT_ONCE):
            among, values = self.entries_in(some)
            sql = f"SELECT claim_no FROM {self.e} WHERE {among} AND runner_id = %s AND ended IS NULL FOR UPDATE"
            good += [of[number] for (number,) in c.all(sql, (*values, runner)) if number in of]
        if good:
            self._close(c, good, now)
            groups: defaultdict[tuple[Any, ...], list[Write]] = defaultdict(list)
            for write in good:
                groups[write.status, write.columns].append(write)
            for (status, columns), group in groups.items():
                self._write_rows(c, status, columns, group)
        return {write.claim.claim_no for write in good}

    def _close(self, c: Connection, writes: Sequence[Write], now: Any) -> None:
        done = [write for write in writes if write.end == "done"]
        row = f"({self.marks}, %s, %s, '{now}', 'done', '', 0, 0, '', '{now}', 0, 0, 0)"
        for some in _portions(done, KEYS_AT_ONCE):
            c.run(
                f"{self.sql_done}{', '.join([row] * len(some))}{self.sql_done_known}",
                [value for write in some for value in (*write.claim.key, write.seconds, write.worker)],
            )
        due_at = {pause: c.all(self.sql_due_at, (pause,))[0][0] for pause in {w.pause for w in writes if w.pause}}
        rows = []
        for write in writes:
            if write.end == "done":
                continue
            claim = write.claim
            unchanged = (*claim.key, "", claim.claim_no, claim.attempt, "", now)
            counts = (write.end, write.fails, write.lost, claim.rescued, due_at[write.pause] if write.pause else None)
            facts = (now, write.seconds, write.worker, write.kind or None, write.detail or None, write.log or None)
            rows.append((*unchanged, *counts, *facts))
        if rows:
            c.many(self.sql_close_many, rows)

    def _write_rows(self, c: Connection, status: Status, columns: tuple[str, ...], writes: Sequence[Write]) -> None:
        m = self.mapping
        known = {column.name: column for column in (*m.write, *((m.result,) if m.result else ()))}
        for some in _portions(writes, VALUES_AT_ONCE if columns else KEYS_AT_ONCE):
            sets, values = [self.set_word[status]], []
            for i, name in enumerate(columns):
                cases = " ".join([f"WHEN {self.row_is} THEN %s"] * len(some))
                sets.append(f"{known[name].bare} = CASE {cases} END")
                for write in some:
                    values += [*write.claim.key, write.values[i]]
            among, keys = self.keys_in([write.claim.key for write in some])
            c.run(f"UPDATE {self.t} SET {', '.join(sets)} WHERE {among}", [*values, *keys])


def _portions(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
