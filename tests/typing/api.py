"""Real uses of the public names, which must pass the type checker; nothing here is run."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, assert_type

from pooltable import (
    Event,
    Fail,
    Later,
    Pace,
    Pool,
    PoolExecutor,
    PoolStats,
    PooltableError,
    RemoteError,
    Retry,
    Row,
    Runner,
    Summary,
    TaskTable,
    TimeLimitExceeded,
    Words,
    WorkerLost,
    Workers,
    current,
    run,
)
from pooltable.events import RowsFinished, WorkerPrinted

# ---- the process pool


def length(text: str) -> int:
    return len(text)


def power(base: int, exponent: int) -> int:
    return int(base**exponent)


def load_model(name: str) -> None: ...


def the_pool_of_the_standard_library_with_another_import() -> None:
    with Pool(4, load_model, ("large",), maxtasksperchild=100) as pool:
        assert_type(pool.apply(length, ("word",)), int)
        result = pool.apply_async(length, ("word",), callback=print, error_callback=print)
        assert_type(result.get(timeout=1.0), int)
        assert_type(result.ready(), bool)
        assert_type(result.successful(), bool)
        result.wait(1.0)
        assert_type(pool.map(length, ["a", "b"], chunksize=2), list[int])
        assert_type(pool.map_async(length, ["a", "b"]).get(), list[int])
        assert_type(pool.starmap(power, [(2, 3), (4, 5)]), list[int])
        assert_type(pool.starmap_async(power, [(2, 3)]).get(), list[int])
        for one in pool.imap(length, iter(["a", "b"])):
            assert_type(one, int)
        for one in pool.imap_unordered(length, ["a", "b"], 10):
            assert_type(one, int)
        pool.close()
        pool.join()
    pool.terminate()


def what_the_standard_library_does_not_have() -> None:
    pool = Pool(
        context=multiprocessing.get_context("fork"), min_processes=0, idle_timeout=60.0, time_limit=5.0, max_pending=99
    )
    result = pool.apply_async(length, ("word",), time_limit=0.5)
    assert_type(result.cancel(kill=True), bool)
    assert_type(pool.map(length, ["a", "b"], progress="lengths"), list[int])
    for one in pool.imap_unordered(length, ["a", "b"], progress=True):
        assert_type(one, int)
    assert_type(pool.stats(), PoolStats)
    assert_type(pool.stats().workers[0].memory, int | None)
    Pool(4, preload=["numpy"], devices="auto", memory=("4GB", 6_000_000_000), context="forkserver")
    try:
        result.get()
    except WorkerLost as lost:
        assert_type(lost.pid, int)
        assert_type(lost.exitcode, int | None)
        assert_type(lost.signal, str | None)
    except TimeLimitExceeded as late:
        assert_type(late.seconds, float)
    except RemoteError as remote:
        assert_type(remote.traceback, str)


def an_executor_like_any_other() -> None:
    with PoolExecutor(2, initializer=load_model, initargs=("small",), max_tasks_per_child=10) as executor:
        as_such: Executor = executor
        future: Future[int] = executor.submit(length, "word")
        assert_type(future.result(), int)
        assert_type(executor.map(power, [1, 2], [3, 4], timeout=5.0, chunksize=1), Iterator[int])
        as_such.shutdown(wait=True, cancel_futures=True)


# ---- the table and the runner


def mission(row: Row) -> dict[str, Any]:
    id, content = row
    if row["count"] is None:
        raise Fail("no count")
    if not content:
        raise Later(60.0, "not there yet")
    attempt = current()
    assert_type(attempt.attempt, int)
    assert_type(attempt.idempotency_key, str)
    assert_type(attempt.device, str | None)
    attempt.recycle()
    return {"caption": row.content, "id": id}


def predict(rows: list[Row]) -> list[str | Exception | None]:
    for attempt in current().rows:
        assert_type(attempt.idempotency_key, str)
    return [row.content or ValueError("there is nothing") for row in rows]


def done(row: Row, value: Any) -> None: ...


def failed(row: Row, error: BaseException) -> None: ...


def listener(event: Event) -> None:
    match event:
        case RowsFinished(rows=rows):
            for end in rows:
                assert_type(end.attempt, int)
        case WorkerPrinted(text=text):
            assert_type(text, str)


def a_script() -> int:
    videos = TaskTable("sqlite:///videos.db", "video", write=("caption",))
    summary = run(mission, videos, processes=4, initializer=load_model, initargs=("large",))
    assert_type(summary, Summary)
    assert_type(summary.done, int)
    assert_type(summary.failures, dict[str, int])
    run(predict, videos, batch=32)
    assert_type(videos.sample(10), list[Row])
    return summary.exit_code


def slips() -> None:
    videos = TaskTable("sqlite:///videos.db", "video", write=("caption",))
    run(mission, videos, proceses=4)  # type: ignore[call-arg]
    run(mission, videos, processes="4")  # type: ignore[arg-type]
    run(mission, videos, retry=3)  # type: ignore[arg-type]
    run(mission, "video")  # type: ignore[arg-type]
    run(mission)  # type: ignore[call-arg]
    run(mission, videos, 4)  # type: ignore[call-arg]
    Runner(mission, videos, halt=3)  # type: ignore[call-arg]
    Runner(mission, videos, pace=Pace(leese=3.0))  # type: ignore[call-arg]
    Pool("4")  # type: ignore[arg-type]
    Pool(4, procceses=4)  # type: ignore[call-arg]


def a_service() -> None:
    videos = TaskTable(
        "postgresql+psycopg:///video",
        "media.video",
        job="caption",
        columns=("content", "count"),
        key=("id",),
        status="state",
        words=Words(pending=None, doing=1, done=2, failed=3),
        result="answer",
        order_by=("priority", "id"),
        where="kind = 'clip'",
    )
    runner = Runner(
        mission,
        videos,
        processes=8,
        initializer=load_model,
        initargs=("large",),
        callback=done,
        error_callback=failed,
        time_limit=600.0,
        retry=Retry(fails=3, lost=2, pause=5.0),
        forever=True,
        poll=1.0,
        max_rows=None,
        workers=Workers(
            threads=2, devices="cuda:0,cuda:1", memory=("4GB", "6GB"), preload="torch", setup="app:prepare"
        ),
        pace=Pace(lease=30.0, grace=8.0, halt=20),
        listeners=(listener, print),
    )
    threading.Timer(60.0, runner.stop).start()
    try:
        runner.run()
    except PooltableError as error:
        assert_type(error.exit_code, int)


def somebody_elses_processes() -> None:
    with ThreadPoolExecutor(4) as executor:
        run(mission, TaskTable("sqlite:///videos.db", "video"), executor=executor)


def looking_at_the_table() -> None:
    videos = TaskTable("sqlite:///videos.db", "video")
    videos.prepare()
    counts = videos.counts()
    print(counts.pending, counts.doing, counts.done, counts.failed)
    for entry in videos.failures(limit=10):
        print(entry.key, entry.attempt)
    assert_type(videos.add([{"content": "a"}]), int)
    assert_type(videos.requeue(failed=True), int)
    videos.pause()
    videos.resume()
