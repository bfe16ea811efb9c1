"""A TCP proxy in front of a server of the tests, through which connections can be delayed, held up, and cut.

    client --- TCP, 127.0.0.1 --->  Proxy  --- the server's Unix socket --->  server

A `Rule` looks at what a client sends, so that a connection can be cut at a certain statement: before the server gets
it, or after it has carried it out while its answer is on the way.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal

import sqlalchemy as sa

from tests.servers import Server

Moment = Literal["before", "after", "silent"]


class Rule:
    """Cuts the connection at the `nth` message that holds `words`, once; `cut` tells that it was done.

    `before` the server gets it; `after` it was carried out, with the answer lost; `silent`: it is carried out, and from
    then on nothing passes any more, without a word to anybody.

    With `after`, messages are counted from the first one on that holds those words.
    """

    def __init__(self, words: bytes, moment: Moment, nth: int = 1, after: bytes = b"") -> None:
        self.words = words
        self.moment = moment
        self.left = nth
        self.after = after
        self.cut = threading.Event()
        self._lock = threading.Lock()

    def fits(self, data: bytes) -> bool:
        with self._lock:
            if self.after in data:
                self.after = b""
            if self.after or self.words not in data or self.left == 0:
                return False
            self.left -= 1
            return self.left == 0


class Link:
    """One client's connection and ours to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = socket.socket(socket.AF_UNIX)
        self.server.connect(proxy.target)
        # The server's next answer is thrown away, and the connection cut.
        self.doomed: Rule | None = None
        self.threads = [
            threading.Thread(target=self._pump, args=(client, self.server, self._from_client), daemon=True),
            threading.Thread(target=self._pump, args=(self.server, client, self._from_server), daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, look: Callable[[bytes], bool]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.proxy.wait()
                if not look(data):
                    self.cut()
                    return
                target.sendall(data)
            self.proxy.wait()
            target.shutdown(socket.SHUT_WR)
            return
        self.cut()

    def _from_client(self, data: bytes) -> bool:
        for rule in self.proxy.rules:
            if rule.fits(data):
                if rule.moment == "silent":
                    self.proxy.hang()
                    rule.cut.set()
                elif rule.moment == "before":
                    self.cut()
                    rule.cut.set()
                    return False
                else:
                    self.doomed = rule
        return True

    def _from_server(self, data: bytes) -> bool:
        if self.doomed is None:
            return True
        self.cut()
        self.doomed.cut.set()
        return False

    def cut(self) -> None:
        """Both sides see a reset, as from a machine that was switched off and answers again."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                end.close()

    def half_close(self) -> None:
        """The client is told that the server sends no more; what it sends itself still arrives."""
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)


class Proxy:
    """Forwards connections until it is told otherwise; a context manager."""

    def __init__(self, server: Server) -> None:
        url = sa.make_url(server.url)
        if server.kind == "postgresql":
            self.target = f"{server.folder}/.s.PGSQL.5432"
        else:
            self.target = str(url.query["unix_socket"])
        self.kind = server.kind
        self.rules: list[Rule] = []
        self.delay = 0.0
        self.links: list[Link] = []
        self._refusing = False
        self._flows = threading.Event()
        self._flows.set()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        if server.kind == "postgresql":
            self.url = f"postgresql+psycopg://test@127.0.0.1:{self.port}/postgres"
        else:
            self.url = f"mysql+pymysql://root@127.0.0.1:{self.port}/test?charset=utf8mb4"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._flows.set()
        # A thread that waits in accept() is woken by a connection, not by the close.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self._thread.join(5)
        self._listener.close()
        self.cut()
        for link in self.links:
            for thread in link.threads:
                thread.join(5)

    def _accept(self) -> None:
        while not self._ended.is_set():
            client, _ = self._listener.accept()
            if self._ended.is_set() or self._refusing:
                client.close()
                continue
            try:
                self.links.append(Link(self, client))
            except OSError:
                client.close()  # the server is away

    def wait(self) -> None:
        """Before anything is passed on."""
        self._flows.wait()
        if self.delay:
            self._ended.wait(self.delay)

    def cut(self) -> None:
        for link in self.links:
            link.cut()

    def refuse(self) -> None:
        """Cuts what is open, and whoever comes is turned away."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        self._refusing = False

    def hang(self) -> None:
        """Nothing is passed on, and nobody is told: what is sent is taken, and that is all."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    def half_close(self) -> None:
        for link in self.links:
            link.half_close()

    def cut_at(self, words: bytes, moment: Moment, nth: int = 1, after: bytes = b"") -> Rule:
        rule = Rule(words, moment, nth, after)
        self.rules.append(rule)
        return rule
