"""What `doctor` asks of MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pooltable.table.checkup import ANSWER_SECONDS, LOCK_SECONDS, LONG_TRANSACTION, Checkup, Plan, long_transaction
from pooltable.table.finding import Finding, error, ok, warning


class MySQLCheckup(Checkup):
    def bound(self) -> None:
        # The connection is the checkup's own, and ends with it.
        if self._is_mariadb():
            answer = f"max_statement_time = {ANSWER_SECONDS}"
        else:
            answer = f"max_execution_time = {ANSWER_SECONDS * 1000}"
        waits = f"lock_wait_timeout = {LOCK_SECONDS}, innodb_lock_wait_timeout = {LOCK_SECONDS}"
        self.c.run(f"SET SESSION {waits}, {answer}")

    def _is_mariadb(self) -> bool:
        return "mariadb" in self._variable("version").lower()

    def _variable(self, name: str) -> str:
        """A variable's value; "" where this server has none of that name."""
        row = self.c.first("SHOW VARIABLES LIKE %s", (name,))
        return str(row[1]) if row else ""

    def _on(self, name: str) -> bool:
        return self._variable(name).upper() not in ("", "0", "OFF")

    def own_checks(self) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
        return [("isolation level", self.isolation), ("durability", self.durability)]

    def server(self) -> Iterator[Finding]:
        version = self._variable("version")
        yield ok("server", version if self._is_mariadb() else f"MySQL {version}")

    def read_only(self) -> Iterator[Finding]:
        if self._on("read_only") or self._on("super_read_only") or self._on("innodb_read_only"):
            remedy = "give --db the URL of the primary server, or: SET GLOBAL read_only = OFF"
            yield error("read only", "this server is read-only, as replicas are", remedy)

    def role(self) -> str:
        # As GRANT takes it, and with percent signs as the driver wants them.
        ((user,),) = self.c.all("SELECT CURRENT_USER()")
        name, _, host = str(user).rpartition("@")
        return f"'{name}'@'{host}'".replace("%", "%%")

    def may_create(self) -> bool | None:
        schema = "coalesce(%s, database())"
        rows = self.c.all(
            "SELECT 1 FROM information_schema.user_privileges WHERE privilege_type = 'CREATE' UNION ALL SELECT 1 FROM"
            f" information_schema.schema_privileges WHERE privilege_type = 'CREATE' AND {schema} LIKE table_schema",
            (self.m.schema,),
        )
        # What comes through a role is not in there.
        return True if rows else None if self._has_roles() else False

    def _has_roles(self) -> bool:
        grants = [str(row[0]) for row in self.c.all("SHOW GRANTS")]
        return any(" ON " not in grant for grant in grants)

    def isolation(self) -> Iterator[Finding]:
        if self._on("log_bin") and self._variable("binlog_format").upper() == "STATEMENT":
            detail = "binlog_format is STATEMENT, with which InnoDB refuses READ COMMITTED, which claims need"
            yield error("isolation level", detail, "SET GLOBAL binlog_format = ROW")
        else:
            ((level,),) = self.c.all(
                "SELECT @@session.tx_isolation" if self._is_mariadb() else "SELECT @@session.transaction_isolation"
            )
            yield ok("isolation level", f"{level}, which every connection sets for itself")

    def durability(self) -> Iterator[Finding]:
        flushed = self._variable("innodb_flush_log_at_trx_commit")
        if flushed not in ("1", "3"):
            detail = f"innodb_flush_log_at_trx_commit is {flushed}: a server that crashes forgets claims and ends"
            yield warning("durability", detail, "SET GLOBAL innodb_flush_log_at_trx_commit = 1")

    def plan(self, sql: str, values: Sequence[Any]) -> Plan:
        cursor = self.c.raw.cursor()
        cursor.execute(f"EXPLAIN {sql}", values)
        names = [str(column[0]).lower() for column in cursor.description]
        steps = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        index = next((step["key"] for step in steps if step["table"] == self.m.name), None)
        return Plan(index, any("filesort" in str(step["extra"]) for step in steps))

    def analyze(self) -> str:
        return f"ANALYZE TABLE {self.s.dialect.plain(self.s.t)}"

    def transactions(self) -> Iterator[Finding]:
        try:
            rows = self.c.all(
                "SELECT trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, trx_started, NOW()) FROM"
                " information_schema.innodb_trx WHERE trx_mysql_thread_id <> CONNECTION_ID()"
                " ORDER BY trx_started LIMIT 1"
            )
        except self.s.dialect.errors:
            yield ok("long transaction", "others' cannot be seen without the PROCESS privilege")
            return
        for number, seconds in rows:
            if seconds > LONG_TRANSACTION:
                yield long_transaction(f"connection {number}", seconds, f"end it, or: KILL {number}")
                return
        yield ok("long transaction", "none")

    def trigger_names(self) -> list[str]:
        rows = self.c.all(
            "SELECT trigger_name FROM information_schema.triggers WHERE event_object_schema = coalesce(%s, database())"
            " AND event_object_table = %s AND event_manipulation = 'UPDATE'",
            (self.m.schema, self.m.name),
        )
        return [str(name) for (name,) in rows]

    def generated(self) -> list[str]:
        rows = self.c.all(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = coalesce(%s, database())"
            " AND table_name = %s AND (extra LIKE '%%on update%%' OR extra LIKE '%%GENERATED')",
            (self.m.schema, self.m.name),
        )
        return [str(name) for (name,) in rows]
