"""What compute expects of any image service; the embedded one today, a real Glance under the same tests later."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.common.context import Context
from kilonova.common.errors import Conflict, NotFound
from kilonova.common.ids import new_uuid
from kilonova.image.embedded.store import EmbeddedImages
from kilonova.image.inspect import Refused
from kilonova.image.interface import ImageService
from kilonova.objects.base import decode, encode
from kilonova.objects.image import Image
from tests import databases


def caller(project: str, *roles: str) -> Context:
    return Context(request_id="req", user_id="u", project_id=project, roles=roles or ("member",))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ImageService]:
    database = databases.at(tmp_path / "image.sqlite", "image")
    images = EmbeddedImages(database, tmp_path / "data")
    yield images
    images.close()
    database.close()


def wanted(**fields: object) -> Image:
    base = Image(
        id=new_uuid(),
        status="queued",
        owner="alpha",
        name="snapshot",
        visibility="private",
        disk_format="raw",
        container_format="bare",
        properties={"hw_disk_bus": "scsi"},
    )
    return base.replace(**fields)


def test_ensure_is_repeatable_and_found_by_key(service: ImageService) -> None:
    first = service.ensure("op1/root", wanted())
    again = service.ensure("op1/root", wanted(name="another"))
    assert (again.id, again.name) == (first.id, "snapshot")
    assert service.ensure("op2/root", wanted()).id != first.id
    found = service.find_by_key("alpha", "op1/root")
    assert found is not None and found.id == first.id
    assert service.find_by_key("beta", "op1/root") is None
    assert service.find_by_key("alpha", "op3/root") is None


def test_bytes_go_up_and_come_down(service: ImageService) -> None:
    image = service.ensure("op/root", wanted())
    data = b"disk" * 100_000
    done = service.upload(image.id, (data[i : i + 65536] for i in range(0, len(data), 65536)))
    assert (done.status, done.size, done.virtual_size) == ("active", len(data), len(data))
    assert done.os_hash_algo == "sha512"
    assert done.os_hash_value == hashlib.sha512(data).hexdigest()
    with service.open(image.id) as got:
        assert got.size == len(data)
        assert got.read(10) == data[:10]
        assert b"".join(got) == data[10:]
    with pytest.raises(Conflict):
        service.upload(image.id, [b"other"])


def test_missing_and_foreign_are_alike(service: ImageService) -> None:
    """S19"""
    image = service.ensure("op/root", wanted())
    assert service.get(caller("alpha"), image.id).properties == {"hw_disk_bus": "scsi"}
    texts = []
    missing = new_uuid()
    for image_id in (image.id, missing, "not-an-id"):
        with pytest.raises(NotFound) as refusal:
            service.get(caller("beta"), image_id)
        texts.append(refusal.value.message.replace(image_id, "ID"))
    assert len(set(texts)) == 1


def test_there_is_nothing_to_open_before_there_are_bytes(service: ImageService) -> None:
    image = service.ensure("op/root", wanted())
    with pytest.raises(Conflict):
        service.open(image.id)
    with pytest.raises(NotFound):
        service.open(new_uuid())


def test_refused_bytes_leave_a_queued_image(service: ImageService) -> None:
    image = service.ensure("op/root", wanted(disk_format="qcow2"))
    with pytest.raises(Refused):
        service.upload(image.id, [b"not a qcow2" * 100])
    assert service.get(caller("alpha"), image.id).status == "queued"


def test_delete_is_repeatable(service: ImageService) -> None:
    image = service.ensure("op/root", wanted())
    service.upload(image.id, [b"x" * 100])
    for _ in range(2):
        service.delete(image.id)
    service.delete(new_uuid())
    assert service.find_by_key("alpha", "op/root") is None
    with pytest.raises(NotFound):
        service.get(caller("alpha", "admin"), image.id)


def test_an_image_crosses_processes(service: ImageService) -> None:
    """OBJ-1"""
    image = service.ensure("op/root", wanted(tags=("a",)))
    assert decode(encode(image), Image) == image
