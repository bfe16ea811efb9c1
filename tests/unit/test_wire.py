"""Messages over a socket pair, and the slab."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from pooltable.pool import wire
from pooltable.pool.slab import Slab, Tokens, new_slab, new_tokens

Ends = tuple[wire.Channel, wire.Channel]


@pytest.fixture(params=["packets", "stream"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    """The parent's end, which does not block, and the worker's, which does; on each kind of socket."""
    if request.param == "stream":
        monkeypatch.delattr(socket, "SOCK_SEQPACKET")
    ours, theirs = wire.pair()
    assert (ours.type == socket.SOCK_STREAM) == (request.param == "stream")
    parent, worker = wire.channel(ours), wire.channel(theirs)
    yield parent, worker
    parent.close()
    worker.close()


MESSAGES = [
    None,
    (),
    [(1, 0, 0.5, b"value"), (2, 1, 1e-6, ("ValueError", "text \ud800", None, True))],
    ("L", 2**70, -1, b"", "", 0.0),
    b"x" * wire.PACKET,
    (b"y" * 1_000_000, 1),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_arrives_as_it_was_sent(ends: Ends, message: object) -> None:
    parent, worker = ends
    thread = threading.Thread(target=worker.send, args=(wire.pack(message),))
    thread.start()
    assert receive(parent) == message
    thread.join()


def receive(channel: wire.Channel) -> object:
    while True:
        try:
            return channel.receive()
        except BlockingIOError:
            continue


def test_messages_arrive_in_order(ends: Ends) -> None:
    parent, worker = ends
    for number in range(50):
        assert parent.send(wire.pack((number,)))
    assert [worker.receive() for _ in range(50)] == [(number,) for number in range(50)]


def test_an_empty_socket_blocks_nobody_who_does_not_want_it(ends: Ends) -> None:
    with pytest.raises(BlockingIOError):
        ends[0].receive()


def test_what_a_full_socket_does_not_take_waits_for_flush(ends: Ends) -> None:
    parent, worker = ends
    messages = [bytes([number]) * 300_000 for number in range(20)]
    sent = [parent.send(wire.pack(message)) for message in messages]
    assert not all(sent)
    assert parent.waiting
    received: list[object] = []
    thread = threading.Thread(target=lambda: received.extend(worker.receive() for _ in messages))
    thread.start()
    while not parent.flush():
        pass
    thread.join()
    assert received == messages
    assert not parent.waiting


def test_the_end_of_the_other_side_is_told(ends: Ends) -> None:
    parent, worker = ends
    worker.send(wire.pack((1,)))
    worker.close()
    assert parent.receive() == (1,)
    with pytest.raises((EOFError, ConnectionResetError)):
        parent.receive()


def test_half_a_message_is_no_message(ends: Ends) -> None:
    parent, worker = ends
    data = wire.pack(b"z" * 1_000_000)
    thread = threading.Thread(target=send_half, args=(worker, data))
    thread.start()
    with pytest.raises((EOFError, ConnectionResetError)):
        receive(parent)
    thread.join()


def send_half(channel: wire.Channel, data: bytes) -> None:
    if isinstance(channel, wire.StreamChannel):
        channel.socket.sendall(len(data).to_bytes(4, "little") + data[:500_000])
    else:
        channel.socket.send(b"L" + len(data).to_bytes(8, "little"))
        for start in range(0, 500_000, 50_000):
            channel.socket.send(data[start : start + 50_000])
    channel.close()


# ---- the slab


@pytest.fixture
def slabs() -> Iterator[tuple[Slab, Slab]]:
    """The worker's view and the parent's."""
    fd = new_slab()
    worker, parent = Slab(os.dup(fd)), Slab(fd)
    yield worker, parent
    worker.close()
    parent.close()


def test_the_parent_reads_what_the_worker_noted(slabs: tuple[Slab, Slab]) -> None:
    worker, parent = slabs
    assert parent.read(parent.mark()) == []
    worker.words[0] = 7
    records = [(7, 0, 0.001, b"seven"), (8, 1, 0.002, ("ValueError", "", "", None, True))]
    assert all(worker.write(record) for record in records)
    assert parent.started() == 7
    assert parent.read(parent.mark()) == records


def test_what_was_sent_is_no_longer_in_the_slab(slabs: tuple[Slab, Slab]) -> None:
    worker, parent = slabs
    worker.write((1, 0, 0.0, b""))
    worker.clear()
    assert parent.read(parent.mark()) == []
    worker.write((2, 0, 0.0, b""))
    assert parent.read(parent.mark()) == [(2, 0, 0.0, b"")]


def test_what_changed_since_it_was_looked_at_is_not_believed(slabs: tuple[Slab, Slab]) -> None:
    worker, parent = slabs
    worker.write((1, 0, 0.0, b""))
    mark = parent.mark()
    worker.clear()
    assert parent.read(mark) == []


def test_a_full_slab_says_so(slabs: tuple[Slab, Slab]) -> None:
    worker, parent = slabs
    written = 0
    while worker.write((written, 0, 0.0, b"x" * 1000)):
        written += 1
    assert written > 100
    assert len(parent.read(parent.mark())) == written


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="this system has no eventfd")
def test_tokens_are_taken_one_by_one_until_there_are_none() -> None:
    tokens = Tokens(new_tokens())
    assert not tokens.take()
    tokens.give(2)
    tokens.give(1)
    assert [tokens.take() for _ in range(4)] == [True, True, True, False]
    tokens.close()
