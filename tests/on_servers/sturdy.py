"""The tests' servers with commits that survive the death of the server, for tests that kill it."""

from __future__ import annotations

import socket

from tests.servers import MariaDB, PostgreSQL, Server


class SturdyPostgreSQL(PostgreSQL):
    """Its log is written with every commit anyhow; without fsync only a power cut could lose it."""


class SturdyMariaDB(MariaDB):
    def command(self) -> list[str]:
        # Written at every commit, flushed once a second: enough for a server that is killed.
        return [*super().command(), "--innodb-flush-log-at-trx-commit=2"]

    def answers(self) -> bool:
        # A killed server leaves its socket's file behind; the driver never closes a socket that it could not connect.
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)):
                return False
        return super().answers()


STURDY: dict[str, type[Server]] = {"postgresql": SturdyPostgreSQL, "mariadb": SturdyMariaDB}
