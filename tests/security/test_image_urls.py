"""Signed URLs of images' bytes: good for one host, image, method and day; a wrong one says nothing. DESIGN §3."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from kilonova.common.errors import Forbidden
from kilonova.image.signing import UrlSigner
from tests import places
from tests.whole import Whole, running

ID = "3b0f6a3e-0d6e-4d3b-9b62-3b1a3b0d7a10"
KEY = bytes(range(32))


def parts(url: str) -> tuple[str, str, str, str]:
    """Return (host, image, expires, signature)."""
    split = urlsplit(url)
    host, image = split.path.split("/")[-2:]
    query = dict(p.split("=") for p in split.query.split("&"))
    return host, image, query["expires"], query["signature"]


def test_a_url_is_good_for_what_it_says() -> None:
    now = 1000.0
    signer = UrlSigner(KEY, "https://x", lambda: now, life_s=60)
    host, image, expires, signature = parts(signer.url(ID, "h1", "GET"))
    assert (host, image, expires) == ("h1", ID, "1060")
    signer.check(ID, "h1", "GET", expires, signature)
    for wrong in (
        (ID, "h2", "GET", expires, signature),
        (ID, "h1", "PUT", expires, signature),
        (ID.replace("3", "4"), "h1", "GET", expires, signature),
        (ID, "h1", "GET", "9999", signature),
        (ID, "h1", "GET", expires, signature[:-1]),
        (ID, "h1", "GET", expires, "ü" * 64),
        (ID, "h1", "GET", "", ""),
    ):
        with pytest.raises(Forbidden):
            signer.check(*wrong)
    other = UrlSigner(bytes(32), "https://x", lambda: now)
    with pytest.raises(Forbidden):
        other.check(ID, "h1", "GET", expires, signature)
    late = UrlSigner(KEY, "https://x", lambda: now + 61)
    with pytest.raises(Forbidden):
        late.check(ID, "h1", "GET", expires, signature)


@pytest.fixture(scope="module")
def shared() -> Iterator[Whole]:
    """A cloud whose hosts use URLs, though they are in its process."""
    with places.place("shared") as path:
        made = Whole(path, hosts=1, shares=True)
        try:
            yield made
        finally:
            made.close()


def test_bytes_come_and_go_by_url(shared: Whole) -> None:
    image = shared.demo.get("/image/v2/images")["images"][0]["id"]
    signer = shared.cloud.signer
    good = urlsplit(signer.url(image, "cell1-host1", "GET"))
    path = f"{good.path}?{good.query}"
    got = shared.call("GET", path, who=None)
    assert got.status == 200
    assert len(got.raw) == shared.demo.get(f"/image/v2/images/{image}")["size"]
    for bad in (path[:-1], path.replace("cell1-host1", "cell1-host2"), good.path):
        assert shared.call("GET", bad, who=None).status == 403
    assert shared.call("PUT", path, b"x", who=None).status == 403
    taken = urlsplit(signer.url(image, "cell1-host1", "PUT"))
    again = shared.call(
        "PUT",
        f"{taken.path}?{taken.query}",
        b"x",
        who=None,
        headers={"Content-Type": "application/octet-stream"},
    )
    assert again.status == 409  # it has its bytes
    missing = urlsplit(signer.url(ID, "cell1-host1", "GET"))
    assert shared.call("GET", f"{missing.path}?{missing.query}", who=None).status == 404


def test_one_process_serves_no_such_path() -> None:
    with running(hosts=1) as alone:
        assert (
            alone.call("GET", f"/image-data/h/{ID}?expires=1&signature=x", who=None).status == 404
        )
