"""Bytes through a real server on a loopback port: Content-Length and chunked, flat in memory, refused cleanly."""

import hashlib
import http.client
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from kilonova.http.serving import HttpServer
from tests.functional.image.conftest import Cloud

MIB = 1 << 20
HEADERS = {"X-Auth-Token": "alpha:member", "Content-Type": "application/octet-stream"}


@pytest.fixture
def port(cloud: Cloud) -> Iterator[int]:
    server = HttpServer(cloud.app.wsgi, "127.0.0.1", 0)
    server.start()
    yield server.port
    server.stop()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition, 30 s at most."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def pieces(count: int) -> Iterator[bytes]:
    """Give MiBs that differ."""
    for i in range(count):
        yield bytes([i % 251]) * MIB


def digest(count: int) -> str:
    h = hashlib.sha512()
    for piece in pieces(count):
        h.update(piece)
    return h.hexdigest()


@pytest.mark.parametrize("chunked", [True, False])
def test_64_mib_pass_through_in_flat_memory(cloud: Cloud, port: int, chunked: bool) -> None:
    image = cloud.make()
    path = f"/image/v2/images/{image['id']}/file"
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    tracemalloc.start()
    if chunked:
        conn.request("PUT", path, pieces(64), HEADERS, encode_chunked=True)
    else:
        conn.request("PUT", path, pieces(64), {**HEADERS, "Content-Length": str(64 * MIB)})
    answer = conn.getresponse()
    assert answer.status == 204, answer.read()
    answer.read()
    conn.request("GET", path, headers=HEADERS)
    answer = conn.getresponse()
    assert answer.getheader("Content-Length") == str(64 * MIB)
    got = hashlib.sha512()
    while piece := answer.read(MIB):
        got.update(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert got.hexdigest() == digest(64)
    assert peak < 16 * MIB, f"{peak / MIB:.1f} MiB were held at once"
    shown = cloud.call("GET", f"/v2/images/{image['id']}").json
    assert shown["status"] == "active" and shown["os_hash_value"] == digest(64)
    conn.close()


def test_one_chunk_that_says_it_is_huge_is_not_held(cloud: Cloud, port: int) -> None:
    """S16: the announced size of a chunk reserves nothing; breaking it off leaves nothing."""
    image = cloud.make()
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.sendall(_head(image["id"], "Transfer-Encoding: chunked") + b"FFFFFFFFFF\r\n" + bytes(MIB))
    eventually(lambda: bool(list((cloud.root / "data" / "parts").iterdir())))
    assert cloud.call("GET", f"/v2/images/{image['id']}").json["status"] == "saving"
    sock.close()
    eventually(lambda: cloud.files() == [])
    eventually(lambda: cloud.call("GET", f"/v2/images/{image['id']}").json["status"] == "queued")


@pytest.mark.parametrize("how", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_an_upload_that_breaks_off_leaves_nothing(cloud: Cloud, port: int, how: str) -> None:
    """S9, S16"""
    image = cloud.make()
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.sendall(_head(image["id"], how) + b"400\r\n" + b"x" * 600)
    eventually(lambda: bool(list((cloud.root / "data" / "parts").iterdir())))
    sock.shutdown(socket.SHUT_WR)
    assert b" 400 " in sock.recv(4096).split(b"\r\n")[0]
    sock.close()
    eventually(lambda: cloud.files() == [])
    assert cloud.call("GET", f"/v2/images/{image['id']}").json["status"] == "queued"


def _head(image_id: str, *lines: str) -> bytes:
    words = [f"PUT /image/v2/images/{image_id}/file HTTP/1.1", "Host: x", *lines]
    words += [f"{k}: {v}" for k, v in HEADERS.items()]
    return ("\r\n".join(words) + "\r\n\r\n").encode()


@pytest.mark.parametrize(
    "body", [b"zz\r\nab\r\n0\r\n\r\n", b"-1\r\nab", b"2\r\nabcd\r\n0\r\n\r\n", b"\r\n", b"5" * 9000]
)
def test_malformed_chunks_are_refused(cloud: Cloud, port: int, body: bytes) -> None:
    image = cloud.make()
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.sendall(_head(image["id"], "Transfer-Encoding: chunked") + body)
    sock.shutdown(socket.SHUT_WR)
    assert b" 400 " in sock.recv(4096).split(b"\r\n")[0]
    sock.close()
    eventually(lambda: cloud.files() == [])


def test_a_body_that_was_not_read_is_not_the_next_request(cloud: Cloud, port: int) -> None:
    """A refused upload's bytes look like a request; the connection ends instead."""
    image = cloud.active(b"x" * 512)
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    inner = b"GET /image/v2/schemas/image HTTP/1.1\r\nHost: x\r\nX-Auth-Token: alpha:member\r\n\r\n"
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)
    sock.sendall(_head(image["id"], "Transfer-Encoding: chunked") + body)
    said = b""
    while piece := sock.recv(65536):
        said += piece
    assert said.startswith(b"HTTP/1.1 409") and said.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in said
    sock.close()


def test_a_refused_upload_is_answered_before_its_bytes_and_not_held(
    cloud: Cloud, port: int
) -> None:
    image = cloud.active(b"x" * 512)
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    tracemalloc.start()
    path = f"/image/v2/images/{image['id']}/file"
    conn.request("PUT", path, pieces(32), {**HEADERS, "Content-Length": str(32 * MIB)})
    assert conn.getresponse().status == 409
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * MIB
    conn.close()


def test_two_uploads_of_one_image_make_one(cloud: Cloud, port: int) -> None:
    """S25 in small: the second gets 409 while the first still sends."""
    image = cloud.make()
    go = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"a" * 1000
        assert go.wait(30)
        yield b"b" * 1000

    answers: list[int] = []

    def first() -> None:
        conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        path = f"/image/v2/images/{image['id']}/file"
        conn.request("PUT", path, slowly(), HEADERS, encode_chunked=True)
        answers.append(conn.getresponse().status)
        conn.close()

    thread = threading.Thread(target=first)
    thread.start()
    eventually(lambda: cloud.call("GET", f"/v2/images/{image['id']}").json["status"] == "saving")
    second = cloud.call("PUT", f"/v2/images/{image['id']}/file", body=b"z")
    assert second.status_code == 409
    go.set()
    thread.join(30)
    assert answers == [204]
    assert cloud.call("GET", f"/v2/images/{image['id']}/file").content == b"a" * 1000 + b"b" * 1000
