"""S8, S9, S11, S14-S16, S19, S25: the image service under faults, full disks, foreign callers and odd names."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.common.clock import ManualClock
from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, Gone, KilonovaError, NotFound, TooLarge
from kilonova.db.sqlite import SqliteDatabase
from kilonova.image.embedded import schema as s
from kilonova.image.embedded.data import Pace
from kilonova.image.embedded.store import EmbeddedImages, Settings
from kilonova.image.inspect import CHECKER_VERSION
from kilonova.objects.image import Image
from tests.functional.image.conftest import Cloud

ROOT = Path(__file__).resolve().parents[2]
MISSING = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.close()


def record(image_id: str = MISSING, owner: str = "alpha", **fields: Any) -> Image:
    return Image(
        id=image_id,
        status="queued",
        owner=owner,
        disk_format="raw",
        container_format="bare",
        **fields,
    )


def status(images: EmbeddedImages, image_id: str = MISSING) -> str:
    return images.get(Context(request_id="r", roles=("admin",)), image_id).status


class Killed(BaseException):
    """Stands for the death of the process: no code of ours may handle it."""


@pytest.mark.parametrize("point", ["receive", "inspect", "put", "finish"])
@pytest.mark.parametrize("kind", [KilonovaError, OSError, Killed])
def test_a_fault_at_any_point_leaves_nothing(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, point: str, kind: type[BaseException]
) -> None:
    """S9, R1: before and after each step of an upload."""
    images = cloud.images
    images.create(record())
    hits: list[str] = []
    owner, name = {
        "receive": (images.files, "receive"),
        "inspect": (images, "_inspect"),
        "put": (images.files, "put"),
        "finish": (images, "_finish"),
    }[point]
    real = getattr(owner, name)
    for after in (False, True) if point != "finish" else (False,):

        def faulty(*a: Any, _after: bool = after, **k: Any) -> Any:
            hits.append(point)
            if _after:
                real(*a, **k)
            raise kind("planted")

        monkeypatch.setattr(owner, name, faulty)
        with pytest.raises(kind):
            images.upload(MISSING, [b"x" * 100])
        monkeypatch.setattr(owner, name, real)
        if not (
            after and point == "receive"
        ):  # the part's path was lost with the answer: swept at start
            assert cloud.files() == []
        assert status(images) == "queued"
    assert hits, "the fault was never reached"
    images.close()  # as the process's end does
    images = EmbeddedImages(cloud.database, cloud.root / "data", cloud.clock)
    assert cloud.files() == []
    assert images.upload(MISSING, [b"x" * 100]).status == "active"
    images.close()


_CHILD = """
import os, sys
from pathlib import Path
from kilonova.db.sqlite import SqliteDatabase
from kilonova.image.embedded.store import EmbeddedImages
from kilonova.objects.image import Image

root, point, staged = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "staged"
images = EmbeddedImages(SqliteDatabase(root / "image.sqlite", "image"), root / "data")
images.create(Image(id=sys.argv[4], status="queued", owner="a", disk_format="raw", container_format="bare"))

def die(*a, **k):
    os.kill(os.getpid(), 9)

def die_after(real):
    def run(*a, **k):
        real(*a, **k)
        die()
    return run

if staged:
    images.stage(sys.argv[4], [b"x" * 1000])
def data():
    yield b"x" * 500
    if point == "reading":
        die()
    yield b"x" * 500
if point == "inspect":
    images._inspect = die
if point == "renamed":
    images.files.put = die_after(images.files.put)
if point == "recorded":
    images._finish = die_after(images._finish)
images.import_staged(sys.argv[4]) if staged else images.upload(sys.argv[4], data())
"""


@pytest.mark.parametrize(
    ("how", "point", "after"),
    [
        ("plain", "reading", "queued"),
        ("plain", "inspect", "queued"),
        ("plain", "renamed", "queued"),
        ("plain", "recorded", "active"),
        ("staged", "inspect", "uploading"),
        ("staged", "renamed", "queued"),
        ("staged", "recorded", "active"),
    ],
)
def test_kill_9_at_any_point(tmp_path: Path, how: str, point: str, after: str) -> None:
    """R2, S9: the next start puts it right, and nothing without a record stays on disk."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path), point, how, MISSING],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    assert done.returncode == -9, done.stderr.decode()
    database = SqliteDatabase(tmp_path / "image.sqlite", "image")
    images = EmbeddedImages(database, tmp_path / "data")
    assert status(images) == after
    left = sorted(p.name for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert left == ([] if after == "queued" else [MISSING])
    if after == "queued":
        assert images.upload(MISSING, [b"x"]).status == "active"
    if after == "uploading":
        assert images.import_staged(MISSING).size == 1000
    images.close()
    database.close()


def test_deleted_while_its_bytes_come(cloud: Cloud) -> None:
    images = cloud.images
    images.create(record())

    def data() -> Iterator[bytes]:
        yield b"x" * 100
        images.delete(MISSING)
        yield b"x" * 100

    with pytest.raises(Gone):
        images.upload(MISSING, data())
    assert cloud.files() == []
    with pytest.raises(NotFound):
        images.open(MISSING)
    with pytest.raises(Conflict):
        images.create(record())


def test_a_deleted_image_is_read_to_its_end(cloud: Cloud) -> None:
    images = cloud.images
    images.create(record())
    images.upload(MISSING, [b"abc" * 1000])
    with images.open(MISSING) as data:
        assert data.size == 3000 and data.read(3) == b"abc"
        images.delete(MISSING)
        images.delete(MISSING)
        assert b"".join(data) == b"abc" * 999
    assert cloud.files() == []


def test_everything_is_private(cloud: Cloud) -> None:
    """S11: whatever the umask."""
    cloud.active()
    for path in [cloud.root / "data", *(cloud.root / "data").rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """S11"""
    if os.geteuid() != 0:
        pytest.skip("needs root to make a directory of another user's")
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", 65534, 65534)
    database = SqliteDatabase(tmp_path / "image.sqlite", "image")
    with pytest.raises(KilonovaError):
        EmbeddedImages(database, tmp_path / "data")
    database.close()


def test_a_link_in_our_place_is_not_followed(cloud: Cloud) -> None:
    """S15"""
    image = cloud.active()
    path = cloud.root / "data" / "images" / image["id"]
    path.unlink()
    path.symlink_to("/etc/passwd")
    got = cloud.call("GET", f"/v2/images/{image['id']}/file")
    assert got.status_code >= 400 and b"root:" not in got.content


ODD = ["..", "%2e%2e", "..%2f..%2fetc", "a%00b", "%2fetc%2fpasswd", "é", "x" * 4000, "{}", "'--"]


@pytest.mark.parametrize("name", ODD)
def test_names_never_become_paths(cloud: Cloud, name: str) -> None:
    """S15: odd ids, tags, members, property names and values."""
    for method, path in (
        ("GET", f"/v2/images/{name}"),
        ("GET", f"/v2/images/{name}/file"),
        ("PUT", f"/v2/images/{name}/file"),
        ("DELETE", f"/v2/images/{name}"),
        ("GET", f"/v2/images/{MISSING}/members/{name}"),
    ):
        body = b"x" if method == "PUT" else None
        got = cloud.call(method, path, body=body)
        assert 400 <= got.status_code < 500, (method, path, got.text)
    image = cloud.make(name=name[:255], **{"p" + name[:200]: name})
    assert cloud.call("PUT", f"/v2/images/{image['id']}/file", body=b"x").status_code == 204
    assert cloud.files() == [image["id"]]


def test_foreign_and_missing_images_answer_alike(cloud: Cloud) -> None:
    """S19, OSSA-2013-001: every route, with another project's private image and with none."""
    image = cloud.active(visibility="private")
    cloud.call("PUT", f"/v2/images/{image['id']}/tags/t")
    kind = "application/openstack-images-v2.1-json-patch"
    calls: list[tuple[str, str, Any, str | None]] = [
        ("GET", "", None, None),
        ("PATCH", "", [{"op": "replace", "path": "/name", "value": "mine"}], kind),
        ("DELETE", "", None, None),
        ("GET", "/file", None, None),
        ("PUT", "/file", "raw", "application/octet-stream"),
        ("PUT", "/stage", "raw", "application/octet-stream"),
        ("POST", "/import", {"method": {"name": "glance-direct"}}, None),
        ("POST", "/actions/deactivate", None, None),
        ("POST", "/actions/reactivate", None, None),
        ("PUT", "/tags/u", None, None),
        ("DELETE", "/tags/t", None, None),
        ("GET", "/members", None, None),
        ("POST", "/members", {"member": "beta"}, None),
        ("GET", "/members/beta", None, None),
        ("PUT", "/members/beta", {"status": "accepted"}, None),
        ("DELETE", "/members/beta", None, None),
        ("GET", "/tasks", None, None),
    ]
    templates = {(r.method, r.path) for r in cloud.app.services[0].routes if "{image_id}" in r.path}
    assert len(templates) == len(calls), "a route is missing here"
    for method, tail, body, content_type in calls:
        answers = []
        for image_id in (image["id"], MISSING):
            headers = {"Content_Type": content_type} if content_type else {}
            got = cloud.call(
                method,
                f"/v2/images/{image_id}{tail}",
                "beta:member",
                json_body=body,
                **headers,
            )
            answers.append((got.status_code, got.text.replace(image_id, "ID")))
        assert answers[0] == answers[1] and answers[0][0] == 404, (method, tail, answers)
    after = cloud.call("GET", f"/v2/images/{image['id']}").json
    assert after == {**image, "tags": ["t"], "updated_at": after["updated_at"]}


def test_what_each_role_may_do_to_its_own_image(cloud: Cloud) -> None:
    """S19, S22: readers look, members act, publishing is for administrators."""
    image = cloud.active()
    one = f"/v2/images/{image['id']}"
    reader = "alpha:reader"
    assert cloud.call("GET", one, reader).status_code == 200
    for method, path, body in (
        ("GET", one + "/file", None),
        ("DELETE", one, None),
        ("PUT", one + "/tags/t", None),
        ("POST", one + "/members", {"member": "beta"}),
        ("POST", one + "/actions/deactivate", None),
        ("POST", "/v2/images", {"name": "x"}),
        ("GET", "/v2/tasks", None),
    ):
        assert cloud.call(method, path, reader, body).status_code == 403, (method, path)
    assert cloud.call("PUT", one + "/file", reader, body=b"x").status_code == 403
    op = [{"op": "replace", "path": "/visibility", "value": "public"}]
    assert cloud.patch(image["id"], op, reader).status_code == 403
    assert cloud.patch(image["id"], op).status_code == 403
    assert cloud.patch(image["id"], op, "root:admin").status_code == 200
    assert cloud.call("GET", one + "/file", "beta:member").status_code == 200
    assert cloud.call("DELETE", one, "beta:member").status_code == 403
    assert cloud.call("PUT", one + "/tags/t", "beta:member").status_code == 403


def test_a_member_reads_and_nothing_else(cloud: Cloud) -> None:
    """S19: sharing gives the right to look, to download, and to say yes or no for oneself."""
    image = cloud.active()
    one = f"/v2/images/{image['id']}"
    for member in ("beta", "gamma"):
        assert cloud.call("POST", one + "/members", json_body={"member": member}).status_code == 200
    assert cloud.call("POST", one + "/members", json_body={"member": "beta"}).status_code == 409
    assert cloud.call("GET", one + "/file", "beta:member").status_code == 200
    seen = cloud.call("GET", one + "/members", "beta:member").json["members"]
    assert [m["member_id"] for m in seen] == ["beta"]
    assert len(cloud.call("GET", one + "/members").json["members"]) == 2
    assert cloud.call("GET", one + "/members/gamma", "beta:member").status_code == 404
    yes = {"status": "accepted"}
    assert cloud.call("PUT", one + "/members/gamma", "beta:member", yes).status_code == 404
    assert cloud.call("PUT", one + "/members/beta", "alpha:member", yes).status_code == 403
    assert cloud.call("PUT", one + "/members/beta", "beta:member", yes).status_code == 200
    assert cloud.call("POST", one + "/members", "beta:member", {"member": "d"}).status_code == 403
    assert cloud.call("DELETE", one + "/members/beta", "beta:member").status_code == 403
    assert cloud.call("DELETE", one, "beta:member").status_code == 403
    assert cloud.call("PUT", one + "/tags/x", "beta:member").status_code == 403
    assert cloud.call("DELETE", one + "/members/beta").status_code == 204
    assert cloud.call("GET", one, "beta:member").status_code == 404
    private = cloud.make(visibility="private")
    got = cloud.call("POST", f"/v2/images/{private['id']}/members", json_body={"member": "beta"})
    assert got.status_code == 403


def test_limits_of_size(tmp_path: Path) -> None:
    """S16, S25: announced or not, one image or many."""
    cloud = Cloud(tmp_path, image_size_limit=1000, project_size_limit=1500)
    for chunked in (False, True):
        image = cloud.make()
        length = None if chunked else 1001
        with pytest.raises(TooLarge):
            cloud.images.upload(image["id"], [b"x" * 1001], length)
        assert cloud.files() == [] and status(cloud.images, image["id"]) == "queued"
    cloud.images.upload(image["id"], [b"x" * 1000], 1000)
    for length in (None, 501):
        other = cloud.make()
        with pytest.raises(TooLarge):
            cloud.images.upload(other["id"], [b"x" * 501], length)
        assert cloud.files() == [image["id"]]
    cloud.images.upload(other["id"], [b"x" * 500])
    foreign = cloud.make("beta:member")
    cloud.images.upload(foreign["id"], [b"x" * 900])
    cloud.close()


def test_parallel_uploads_do_not_pass_a_quota_together(tmp_path: Path) -> None:
    """S25: 16 at once where 3 fit."""
    cloud = Cloud(tmp_path, project_size_limit=3500)
    ids = [cloud.make()["id"] for _ in range(16)]
    together = threading.Barrier(16)
    done: list[str] = []

    def data() -> Iterator[bytes]:
        together.wait(30)
        yield b"x" * 1000

    def upload(image_id: str) -> None:
        try:
            cloud.images.upload(image_id, data())
        except TooLarge:
            return
        done.append(image_id)

    threads = [threading.Thread(target=upload, args=(i,)) for i in ids]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert 1 <= len(done) <= 3
    assert cloud.files() == sorted(done)
    cloud.close()


_FULL = """
import resource, sys
from pathlib import Path
from kilonova.common.errors import TooLarge
from kilonova.db.sqlite import SqliteDatabase
from kilonova.image.embedded.store import EmbeddedImages
from kilonova.objects.image import Image

root = Path(sys.argv[1])
images = EmbeddedImages(SqliteDatabase(root / "image.sqlite", "image"), root / "data")
i = sys.argv[2]
images.create(Image(id=i, status="queued", owner="a", disk_format="raw", container_format="bare"))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    images.upload(i, iter([b"x" * (1 << 19)] * 5))
except TooLarge as exc:
    print(exc.message)
assert not [p for p in (root / "data").rglob("*") if p.is_file()]
assert images.upload(i, [b"x" * 1000]).status == "active"
"""


def test_no_room_is_an_answer(tmp_path: Path) -> None:
    """R15: the file can grow no further; 413, nothing left, and a smaller upload works."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path), MISSING],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "not enough room" in done.stdout


def test_a_sender_that_drips_is_refused(tmp_path: Path) -> None:
    """S16: time as well as bytes."""
    database = SqliteDatabase(tmp_path / "image.sqlite", "image")
    clock = ManualClock()
    settings = Settings(pace=Pace(grace_s=60, bytes_per_s=1024))
    images = EmbeddedImages(database, tmp_path / "data", clock, settings)
    images.create(record())

    def drip() -> Iterator[bytes]:
        while True:
            clock.advance(10)
            yield b"x"

    with pytest.raises(BadRequest, match="too slow"):
        images.upload(MISSING, drip())
    assert status(images) == "queued"
    images.close()
    database.close()


def test_the_checker_that_passed_an_image_is_remembered(cloud: Cloud) -> None:
    """S8"""
    image = cloud.active()
    row = cloud.database.read(lambda tx: tx.one(s.GET, id=image["id"]))
    assert row["checker"] == CHECKER_VERSION


def test_images_of_an_older_checker_are_checked_again(cloud: Cloud, tmp_path: Path) -> None:
    """S8: after an upgrade, what only the old rules took is nobody's to boot."""
    bad, good = cloud.active(), cloud.active()
    with (cloud.root / "data" / "images" / bad["id"]).open("wb") as f:
        f.write(b"QFI\xfb" + bytes(2000))
    cloud.database.write(lambda tx: tx.change(s.image.update().values(checker=0)))
    cloud.images.close()
    images = EmbeddedImages(cloud.database, cloud.root / "data", cloud.clock)
    assert (status(images, bad["id"]), status(images, good["id"])) == ("deactivated", "active")
    with pytest.raises(Conflict):
        images.open(bad["id"])
    images.open(good["id"]).close()
    images.close()


def test_lists_have_an_index(cloud: Cloud) -> None:
    """S38: the usual lists never scan the table without one."""
    for sql in (
        "SELECT * FROM image WHERE (owner='a' OR visibility IN ('public','community')) "
        "ORDER BY created_at DESC, id DESC LIMIT 26",
        "SELECT * FROM image WHERE id IN (SELECT image_id FROM image_property WHERE name='a' AND value='b')",
        "SELECT * FROM image WHERE id IN (SELECT image_id FROM image_tag WHERE tag='a')",
        "SELECT * FROM image WHERE owner='a' AND key='b'",
    ):
        plan = cloud.database.read(
            lambda tx, sql=sql: tx._conn.execute("EXPLAIN QUERY PLAN " + sql).fetchall()  # type: ignore[misc]
        )
        scans = [r["detail"] for r in plan if r["detail"].startswith("SCAN")]
        assert all("USING" in d for d in scans), (sql, scans)
