"""A host's image cache: nothing unchecked, nothing partial, one download for all, used images stay."""

import contextlib
import hashlib
import http.server
import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.agent.images import ImageCache
from kilonova.objects.guest import ImageSource
from kilonova.virt.driver import Again, DriverError

DATA = b"QFI\xfb" + bytes(20) + (1 << 20).to_bytes(8, "big") + b"x" * 100_000


def convert(source: Path, fmt: str, target: Path, limit: int | None) -> None:
    """The bytes are a qcow2 file already; safe_convert has tests of its own."""
    shutil.copyfile(source, target)


def source_of(data: bytes = DATA, url: str = "image:i1", **changes: object) -> ImageSource:
    source = ImageSource(
        image_id="i1",
        url=url,
        disk_format="qcow2",
        size=len(data),
        hash_algo="sha512",
        hash_value=hashlib.sha512(data).hexdigest(),
    )
    return source.replace(**changes)


class Store:
    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.opened = 0
        self.gate: threading.Event | None = None
        self.inside = threading.Event()

    def open(self, image_id: str) -> contextlib.AbstractContextManager[io.BytesIO]:
        self.opened += 1
        self.inside.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        return io.BytesIO(self.data)


def quiet(text: str) -> None:
    """Nobody watches."""


def test_fetched_once_linked_often(tmp_path: Path) -> None:
    store = Store()
    cache = ImageCache(tmp_path / "cache", convert, open_image=store.open)
    for n in (1, 2):
        found = cache.link(source_of(), tmp_path / f"base{n}", quiet)
        assert found.virtual_size == 1 << 20
        assert found.path.read_bytes() == DATA
    assert cache.link(source_of(), tmp_path / "base1", quiet).path == tmp_path / "base1"
    assert store.opened == 1
    again = ImageCache(tmp_path / "cache", convert, open_image=store.open)  # the next process
    again.link(source_of(), tmp_path / "base3", quiet)
    assert store.opened == 1


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (source_of(hash_value="0" * 128), "checksum"),
        (source_of(size=len(DATA) - 1), "longer"),
        (source_of(size=len(DATA) + 1), "early"),
        (source_of(url="file:///etc/passwd"), "cannot read"),
        (source_of(url="ftp://127.0.0.1/x"), "cannot read"),
        (source_of(url="http://127.0.0.1:1/x?signature=hidden"), "downloaded"),
    ],
)
def test_wrong_bytes_leave_nothing(tmp_path: Path, source: ImageSource, why: str) -> None:
    """S2"""
    cache = ImageCache(tmp_path / "cache", convert, open_image=Store().open)
    with pytest.raises(DriverError, match=why) as caught:
        cache.link(source, tmp_path / "base", quiet)
    assert "hidden" not in str(caught.value.facts)
    assert list((tmp_path / "cache").iterdir()) == []
    assert not (tmp_path / "base").exists()


def test_partial_files_of_a_dead_process_are_dropped(tmp_path: Path) -> None:
    (tmp_path / ".part-dead").write_bytes(b"half")
    ImageCache(tmp_path, convert, open_image=Store().open)
    assert list(tmp_path.iterdir()) == []


def test_two_builds_share_a_download(tmp_path: Path) -> None:
    store = Store()
    store.gate = threading.Event()
    cache = ImageCache(tmp_path / "cache", convert, open_image=store.open)
    first = threading.Thread(target=lambda: cache.link(source_of(), tmp_path / "base1", quiet))
    first.start()
    assert store.inside.wait(30)
    with pytest.raises(Again):
        cache.link(source_of(), tmp_path / "base2", quiet)
    store.gate.set()
    first.join(30)
    cache.link(source_of(), tmp_path / "base2", quiet)
    assert store.opened == 1


def test_limit_drops_the_unused_only(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "cache", convert, open_image=Store().open, limit_bytes=0)
    used = tmp_path / "used"
    cache.link(source_of(), used, quiet)
    assert cache.prune() == []
    used.unlink()
    assert len(cache.prune()) == 1
    assert cache.size() == 0


@pytest.fixture
def site() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/image")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_http(tmp_path: Path, site: str) -> None:
    cache = ImageCache(tmp_path / "cache", convert)
    found = cache.link(source_of(url=f"{site}/image"), tmp_path / "base", quiet)
    assert found.path.read_bytes() == DATA
    with pytest.raises(DriverError):
        cache.link(source_of(url=f"{site}/moved", hash_value=None), tmp_path / "base2", quiet)
