"""What the lease asks of SQLite, which has one writer at a time: a transaction that has begun sees nothing move.

Finishes are written in the hope that every row is still as its claim left it, which the number of changed rows tells;
only where it does not come out right is each row looked at. Statements for many rows go through executemany: about two
microseconds a row, less than any way of passing a list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pooltable.table.database import Connection
from pooltable.table.statements import Opening, Picked, Statements, Write
from pooltable.table.states import ROUND_OVER, Claim, Status, explain


class _NotAll(Exception):
    """Fewer rows changed than were to be written."""


class SQLiteStatements(Statements):
    rows_of_values = "VALUES "
    opening_now = "?"

    def build(self) -> None:
        super().build()
        m, n = self.mapping, self.names
        pending, doing = self.is_word[Status.PENDING], self.set_word[Status.DOING]
        self.sql_opening = (
            f"SELECT {self.dialect.now}, (SELECT paused_at FROM {n.jobs} WHERE job = ?),"
            f" (SELECT expires_at FROM {n.runners} WHERE id = ?), (SELECT min(not_before) FROM {self.e} WHERE"
            " not_before IS NOT NULL)"
        )
        known = "runner_id, claim_no, attempt, fails, lost, rescued, round, ended"
        self.sql_due = (
            f"SELECT {self.e_keys}, {', '.join('pt_e.' + name for name in known.split(', '))} FROM {self.e} AS pt_e"
            " WHERE pt_e.not_before <= ?"
            f" AND {self.its_row} ORDER BY pt_e.not_before LIMIT ?"
        )
        # The entries' columns are renamed, so that no name in the user's own conditions can mean one of them.
        renamed = ", ".join(
            f"{name} AS pooltable_{i}" for i, name in enumerate((*n.key, *known.split(", "), "not_before"))
        )
        entry = "pooltable_entry"
        joined = " AND ".join(f"{entry}.pooltable_{i} = {column.sql}" for i, column in enumerate(m.key))
        first, last = self.width, self.width + len(known.split(", "))
        found = ", ".join(f"{entry}.pooltable_{i}" for i in range(first, last))
        positions = f", {self.positions}" if self.positions else ""
        head = (
            f"SELECT {self.keys}, {found}{positions} FROM {self.t} LEFT JOIN (SELECT {renamed} FROM {self.e}) AS"
            f" {entry} ON {joined}"
            f" WHERE {pending}{self.has_key} AND {entry}.pooltable_{last} IS NULL{self.scope}"
        )
        tail = f" ORDER BY {m.order.sql} LIMIT ?"
        self.sql_waiting = head + tail
        self.sql_waiting_after = head + self.behind + tail
        self.known_from, self.known_to = first, last
        marks = ", ".join("?" for _ in range(self.width))
        self.sql_open = (
            f"INSERT INTO {self.e} ({self.entry_keys}, runner_id, claim_no, attempt, round, fails, lost, rescued,"
            " claimed_at)"
            f" VALUES ({marks}, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT ({self.entry_keys}) DO UPDATE SET runner_id ="
            " excluded.runner_id,"
            " claim_no = excluded.claim_no, attempt = excluded.attempt, round = excluded.round, ended = NULL, fails ="
            " excluded.fails,"
            " lost = excluded.lost, rescued = excluded.rescued, not_before = NULL, claimed_at = excluded.claimed_at"
        )
        self.sql_doing = f"UPDATE {self.t} SET {doing} WHERE {self.row_is} AND {pending}"
        fence = f"WHERE {self.entry_is} AND runner_id = ? AND claim_no = ? AND ended IS NULL"
        self.sql_done = (
            f"UPDATE {self.e} SET ended = 'done', finished_at = ?, seconds = ?, worker = ?, error_kind = NULL, error ="
            f" NULL, log = NULL {fence}"
        )
        self.sql_ended = (
            f"UPDATE {self.e} SET ended = ?, fails = ?, lost = ?, rescued = ?, not_before = ?, finished_at = ?, seconds"
            " = ?, worker = ?,"
            f" error_kind = ?, error = ?, log = ? {fence}"
        )

    def opening(self, c: Connection, runner: str) -> Opening:
        now, paused, expires, first_due = c.all(self.sql_opening, (self.job, runner))[0]
        left = None if expires is None else expires - now
        return Opening(now, paused is not None, left, first_due is not None and first_due <= now)

    def opening_unlocked(self, c: Connection, runner: str) -> Opening | None:
        return self.opening(c, runner)

    def due(self, c: Connection, count: int, now: Any) -> list[Picked]:
        w = self.width
        return [Picked(row[:w], (), row[w:]) for row in c.all(self.sql_due, (now, count))]

    def waiting_sql(self, count: int) -> tuple[str, Sequence[Any]]:
        return self.sql_waiting, (count,)

    def waiting(self, c: Connection, count: int, after: tuple[Any, ...] | None) -> list[Picked]:
        w, to = self.width, self.known_to
        if after is None:
            rows = c.all(*self.waiting_sql(count))
        else:
            rows = c.all(self.sql_waiting_after, (*self.behind_values(after), count))
        return [Picked(row[:w], row[to:], row[w:to]) for row in rows]

    def take(
        self, c: Connection, runner: str, picked: Sequence[Picked], first: int, now: Any
    ) -> tuple[list[Claim], int]:
        claims, rows = [], []
        for number, (key, _, (known, _, attempt, fails, lost, rescued, round_, ended)) in enumerate(picked, first):
            if known is None:
                attempt = 0
            if known is None or ended in ROUND_OVER:
                fails = lost = rescued = 0
                round_ = f"{runner}-{number}"
            claims.append(Claim(key, number, attempt + 1, fails, lost, rescued, round_))
            rows.append((*key, runner, number, attempt + 1, round_, fails, lost, rescued, now))
        c.many(self.sql_open, rows)
        return claims, c.many(self.sql_doing, [row.key for row in picked])

    def write(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> set[int] | None:
        try:
            c.attempt(lambda: self._write_all(c, runner, writes, now))
            return None
        except _NotAll:
            pass
        good = [write for write in writes if explain(self.find(c, write.claim.key)[0], runner, write.claim) is None]
        try:
            c.attempt(lambda: self._write_all(c, runner, good, now))
            return {write.claim.claim_no for write in good}
        except _NotAll:
            # A trigger leaves a row quietly alone: one by one, to see which.
            return {write.claim.claim_no for write in good if self._write_one(c, runner, write, now)}

    def _write_one(self, c: Connection, runner: str, write: Write, now: Any) -> bool:
        try:
            c.attempt(lambda: self._write_all(c, runner, [write], now))
        except _NotAll:
            return False
        return True

    def _write_all(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> None:
        groups: defaultdict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
        done, ended = [], []
        for write in writes:
            claim = write.claim
            groups[write.status, write.columns].append((*write.values, *claim.key))
            if write.end == "done":
                done.append((now, write.seconds, write.worker, *claim.key, runner, claim.claim_no))
            else:
                due = now + write.pause if write.pause else None
                facts = (
                    write.end,
                    write.fails,
                    write.lost,
                    claim.rescued,
                    due,
                    now,
                    write.seconds,
                    write.worker,
                    write.kind or None,
                    write.detail or None,
                    write.log or None,
                )
                ended.append((*facts, *claim.key, runner, claim.claim_no))
        for (status, columns), rows in groups.items():
            if c.many(self.sql_write(status, columns), rows) != len(rows):
                raise _NotAll
        for sql, facts_of in ((self.sql_done, done), (self.sql_ended, ended)):
            if facts_of and c.many(sql, facts_of) != len(facts_of):
                raise _NotAll
