"""What databases.py needs of each peer: fill a queue, work on it, count what is done.

    python _peers.py PEER version             prints it, or says what is not installed
    python _peers.py PEER fill URL COUNT KIND
    python _peers.py PEER work URL
    python _peers.py PEER done URL COUNT      prints how many of them are finished whenever a line comes in

It is run with the interpreter of an environment that has the peers, and imports nothing of pooltable. Each peer is
set up as its documentation says for two processes, with the settings that were fastest in a short search.
_graphile.mjs is the same for a peer that is not written in Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

PER_MS = int(os.environ.get("BENCH_PER_MS", "10000"))


def spin(count: int) -> int:
    x = 0
    for k in range(count):
        x = (x + k * k) % 1000003
    return x


begun = False


def job(kind: str) -> int:
    """A peer's job: the work, and a note of when the first one in this process began."""
    global begun
    if not begun:
        begun = True
        note(f"{time.time():.6f}")
    return work(kind)


def work(kind: str) -> int:
    """The work of every job, everywhere: nothing, so many milliseconds of CPU, or a note of when it began."""
    if kind == "noop":
        return 1
    if kind.startswith("cpu"):
        spin(PER_MS * int(kind[3:]))
        return 1
    if kind == "stamp":
        note(f"{time.time():.6f}")
    return 1


def note(text: str) -> None:
    descriptor = os.open(os.environ["BENCH_NOTES"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, (text + "\n").encode())
    os.close(descriptor)


class Procrastinate:
    """Two worker programs with ten asynchronous jobs each."""

    needs = ("procrastinate", "psycopg")
    programs = 2

    def __init__(self, url: str) -> None:
        import procrastinate

        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=12))

        @self.app.task(name="work")
        async def run_it(kind: str) -> None:
            job(kind)

        self.url = url

    def fill(self, count: int, kind: str) -> None:
        with self.app.open():
            with contextlib.suppress(Exception):
                self.app.schema_manager.apply_schema()
            for start in range(0, count, 5000):
                jobs = [{"kind": kind}] * min(5000, count - start)
                self.app.configure_task("work").batch_defer(*jobs)

    def work(self) -> None:
        self.app.run_worker(concurrency=10)

    def counter(self, filled: int) -> Callable[[], int]:
        return counted_by(self.url, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")


class PgQueuer:
    """Two worker programs that fetch a thousand jobs at a time."""

    needs = ("pgqueuer", "asyncpg", "psycopg")
    programs = 2

    def __init__(self, url: str) -> None:
        self.url = url

    def fill(self, count: int, kind: str) -> None:
        import asyncpg
        from pgqueuer import AsyncpgDriver, Queries

        async def go() -> None:
            connection = await asyncpg.connect(self.url)
            queries = Queries(AsyncpgDriver(connection))
            if not await connection.fetchval("SELECT to_regclass('pgqueuer') IS NOT NULL"):
                await queries.install()
            for start in range(0, count, 5000):
                size = min(5000, count - start)
                await queries.enqueue(["work"] * size, [kind.encode()] * size, [0] * size)
            await connection.close()

        asyncio.run(go())

    def work(self) -> None:
        import asyncpg
        import pgqueuer

        @contextlib.asynccontextmanager
        async def main() -> AsyncIterator[Any]:
            manager = pgqueuer.PgQueuer(pgqueuer.AsyncpgDriver(await asyncpg.connect(self.url)))

            @manager.entrypoint("work")
            async def run_it(each: Any) -> None:
                job(each.payload.decode())

            yield manager

        asyncio.run(pgqueuer.run(main, batch_size=1000))

    def counter(self, filled: int) -> Callable[[], int]:
        return counted_by(self.url, "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'")


class Huey:
    """One consumer with two worker processes; every commit is synced, as with the others."""

    needs = ("huey",)
    programs = 1

    def __init__(self, url: str) -> None:
        from huey import SqliteHuey

        self.huey = SqliteHuey("bench", filename=url, fsync=True)
        self.job = self.huey.task(name="work")(job)

    def fill(self, count: int, kind: str) -> None:
        for _ in range(count):
            self.job(kind)

    def work(self) -> None:
        self.huey.create_consumer(workers=2, worker_type="process").run()

    def counter(self, filled: int) -> Callable[[], int]:
        return lambda: int(self.huey.result_count())


class LiteQueue:
    """Two programs with the loop that its user writes; it waits long for locks, as with its own 5 s it dies of them."""

    needs = ("litequeue",)
    programs = 2

    def __init__(self, url: str) -> None:
        from litequeue import LiteQueue as Queue

        self.queue = Queue(url, timeout=60)

    def fill(self, count: int, kind: str) -> None:
        for _ in range(count):
            self.queue.put(kind)

    def work(self) -> None:
        while True:
            message = self.queue.pop()
            if message is None:
                time.sleep(0.05)
                continue
            job(message.data)
            self.queue.done(message.message_id)

    def counter(self, filled: int) -> Callable[[], int]:
        return lambda: int(self.queue.conn.execute("SELECT count(*) FROM Queue WHERE status = 2").fetchone()[0])


class Celery:
    """One worker with its usual pool of two processes. A job is acknowledged when it was done; no results are kept.

    Two workers with a pool of one thread each (solo) did more jobs that do nothing, but such a worker hears of nothing
    while it runs one.
    """

    needs = ("celery", "redis")
    programs = 1

    def __init__(self, url: str) -> None:
        from celery import Celery as App

        self.url = url
        self.app = App("bench", broker=url.replace("unix://", "redis+socket://"))
        self.app.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=128)
        self.job = self.app.task(name="work")(job)

    def fill(self, count: int, kind: str) -> None:
        with self.app.producer_pool.acquire() as producer:
            for _ in range(count):
                self.job.apply_async((kind,), producer=producer)

    def work(self) -> None:
        alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        self.app.worker_main(["worker", "--pool=prefork", "--concurrency=2", *alone])

    def counter(self, filled: int) -> Callable[[], int]:
        # Those that wait and those that a worker has fetched.
        return counted_down(self.url, filled, lambda redis: redis.llen("celery").hlen("unacked"))


class Dramatiq:
    """One program with two processes of eight threads each, as by default."""

    needs = ("dramatiq", "redis")
    programs = 1

    def __init__(self, url: str) -> None:
        import dramatiq
        from dramatiq.brokers.redis import RedisBroker

        self.url = url
        dramatiq.set_broker(RedisBroker(url=url))

        @dramatiq.actor(actor_name="work")
        def run_it(kind: str) -> None:
            # It warns of every value that is returned and not kept.
            job(kind)

        self.job = run_it

    def fill(self, count: int, kind: str) -> None:
        for _ in range(count):
            self.job.send(kind)

    def work(self) -> None:
        # Its processes import this module and call served().
        os.environ["BENCH_URL"] = self.url
        from dramatiq import cli

        cli.main(cli.make_argument_parser().parse_args(["_peers:served", "--processes", "2", "--threads", "8"]))

    def counter(self, filled: int) -> Callable[[], int]:
        # A message stays here until it is acknowledged, and that is after the job.
        return counted_down(self.url, filled, lambda redis: redis.hlen("dramatiq:default.msgs"))


def served() -> None:
    Dramatiq(os.environ["BENCH_URL"])


def counted_by(url: str, sql: str) -> Callable[[], int]:
    import psycopg

    connection = psycopg.connect(url, autocommit=True)
    return lambda: int(connection.execute(sql).fetchone()[0])  # type: ignore[arg-type,index]


def counted_down(url: str, filled: int, ask: Callable[[Any], Any]) -> Callable[[], int]:
    """Finished are those that the queue no longer holds: nothing is added to a job to count it."""
    import redis

    client = redis.Redis.from_url(url)
    return lambda: filled - sum(ask(client.pipeline()).execute())


PEERS: dict[str, type[Any]] = {
    "procrastinate": Procrastinate,
    "pgqueuer": PgQueuer,
    "huey": Huey,
    "litequeue": LiteQueue,
    "celery": Celery,
    "dramatiq": Dramatiq,
}


def version(needs: tuple[str, ...]) -> str:
    """The first one's; SystemExit if one of them is not installed."""
    try:
        found = [importlib.metadata.version(name) for name in needs]
    except importlib.metadata.PackageNotFoundError as error:
        raise SystemExit(f"{error.name} is not installed for {sys.executable}") from None
    return found[0]


def main() -> None:
    name, role, *rest = sys.argv[1:]
    if role == "version":
        print(version(PEERS[name].needs))
        return
    url, *more = rest
    peer = PEERS[name](url)
    if role == "fill":
        peer.fill(int(more[0]), more[1])
    elif role == "work":
        peer.work()
    else:
        count = peer.counter(int(more[0]))
        for _ in sys.stdin:
            print(count(), flush=True)


if __name__ == "__main__":
    main()
