"""The ends of a connection: whatever the pieces in which bytes come, lines and bodies are the same."""

import io
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from kilonova.http.connection import Reader, Writer

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    yield ours, theirs
    ours.close()
    theirs.close()


def feed(sock: socket.socket, data: bytes, rng: random.Random) -> threading.Thread:
    """Send data in random pieces from another thread, then end the stream."""

    def run() -> None:
        at = 0
        while at < len(data):
            size = rng.choice((1, 2, 7, 100, 5000))
            sock.sendall(data[at : at + size])
            at += size
        sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("seed", range(20))
def test_reads_like_a_file(seed: int, pair: Pair) -> None:
    rng = random.Random(seed)
    data = b"".join(rng.randbytes(rng.randrange(300)) + b"\r\n" for _ in range(60))
    sender = feed(pair[1], data, random.Random(seed + 1000))
    reader, same = Reader(pair[0]), io.BytesIO(data)
    while True:
        size = rng.choice((0, 1, 3, 50, 256, 4096))
        if rng.random() < 0.5:
            got, expected = reader.readline(size), same.readline(size)
        else:
            got, expected = reader.read(size), same.read(size)
        assert got == expected
        if size and not got:
            break
    sender.join()
    assert reader.bytes_read == len(data)
    assert not reader.has_data()


def test_reads_to_the_end(pair: Pair) -> None:
    data = bytes(range(256)) * 5000
    sender = feed(pair[1], b"one\ntwo" + data, random.Random(1))
    reader = Reader(pair[0])
    assert reader.readline() == b"one\n"
    assert reader.read() == b"two" + data
    assert reader.readline() == b""
    sender.join()


def test_the_next_request_is_seen(pair: Pair) -> None:
    pair[1].sendall(b"first\nsecond\n")
    reader = Reader(pair[0])
    assert reader.readline() == b"first\n"
    assert reader.has_data()
    assert reader.readline() == b"second\n"
    assert not reader.has_data()


def test_silence_is_a_time_out(pair: Pair) -> None:
    pair[0].settimeout(0.01)
    reader = Reader(pair[0])
    with pytest.raises(TimeoutError):
        reader.readline(256)
    with pytest.raises(TimeoutError):
        reader.read(1)


def test_headers_go_with_what_follows(pair: Pair) -> None:
    writer = Writer(pair[0])
    writer.hold()
    writer.write(b"head ")
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(100)
    writer.write(b"body")
    assert pair[1].recv(100) == b"head body"


def test_headers_alone_go_when_they_are_released(pair: Pair) -> None:
    writer = Writer(pair[0])
    writer.hold()
    writer.write(b"head")
    writer.release()
    writer.release()
    assert pair[1].recv(100) == b"head"
    writer.write(b"more")
    assert pair[1].recv(100) == b"more"


def test_a_large_answer_arrives_whole(pair: Pair) -> None:
    body = random.Random(3).randbytes(3_000_000)
    got: list[bytes] = []

    def take() -> None:
        while piece := pair[1].recv(100_000):
            got.append(piece)

    taker = threading.Thread(target=take)
    taker.start()
    writer = Writer(pair[0])
    writer.hold()
    writer.write(b"head")
    writer.write(body)
    pair[0].shutdown(socket.SHUT_WR)
    taker.join()
    assert b"".join(got) == b"head" + body
    assert writer.bytes_written == len(body) + 4
