"""What compute may rely on, whichever block storage there is: the embedded one, and Cinder's API by openstacksdk.

The second runs against our own API over HTTP: the driver for a real Cinder is exercised to the last byte.
"""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.common.context import Context, service_context
from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound, QuotaExceeded
from kilonova.objects.volume import Connector, FileConnection, NbdConnection, VolumeWanted
from kilonova.volume.interface import NotReady, VolumeService
from kilonova.volume.openstack import OpenStackVolumes
from tests.whole import PASSWORD, Whole, running, until

pytestmark = pytest.mark.filterwarnings("ignore")  # openstacksdk warns of itself
HOSTS = ("cell1-host1", "cell1-host2")


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(driver="fake", hosts=2) as made:
        yield made


def _service_user(whole: Whole) -> None:
    """Make the user that a compute service is to a Cinder: administrator and service, where it makes volumes."""
    user = {"user": {"name": "nova", "password": PASSWORD}}
    made = whole.call("POST", "/identity/v3/users", user, who="admin").json["user"]["id"]
    for role in ("admin", "service", "member"):
        found = whole.call("GET", f"/identity/v3/roles?name={role}", who="admin")
        role_id = found.json["roles"][0]["id"]
        path = f"/identity/v3/projects/{whole.project('demo')}/users/{made}/roles/{role_id}"
        assert whole.call("PUT", path, who="admin").status == 204


def _by_sdk(whole: Whole) -> OpenStackVolumes:
    import openstack

    _service_user(whole)
    made: dict[str | None, Any] = {}

    def connect(project: str | None) -> Any:
        if project not in made:
            made[project] = openstack.connect(
                auth_url=f"{whole.url}/identity/v3",
                username="nova",
                password=PASSWORD,
                project_id=project or whole.project("demo"),
                user_domain_id="default",
                region_name="RegionOne",
                load_yaml_config=False,
                load_envvars=False,
            )
        return made[project]

    return OpenStackVolumes(connect, whole.cloud.plan.clock.now)


_services: dict[str, VolumeService] = {}


@pytest.fixture(params=["embedded", "openstack"])
def service(request: pytest.FixtureRequest, whole: Whole) -> VolumeService:
    """The service under test; the embedded one is behind both."""
    if request.param not in _services:
        embedded = whole.cloud.volumes
        _services[request.param] = embedded if request.param == "embedded" else _by_sdk(whole)
    return _services[request.param]


@pytest.fixture
def project(whole: Whole) -> str:
    """A project with room."""
    return whole.project("demo")


def wanted(project: str, size_gib: int = 1, **more: Any) -> VolumeWanted:
    """A volume of user u."""
    return VolumeWanted(project_id=project, user_id="u", size_gib=size_gib, **more)


def key() -> tuple[str, str]:
    """Another operation's first item."""
    return (str(uuid.uuid4()), "volume0")


@pytest.fixture
def volume(service: VolumeService, project: str) -> Iterator[str]:
    """An available volume, gone with the test."""
    made = service.ensure_volume(key(), wanted(project))
    until(lambda: _status(service, made.id) == "available" or None)
    yield made.id
    service.remove_volume(volume_id=made.id)
    until(lambda: service.find(made.id) is None or None)


def _status(service: VolumeService, volume_id: str) -> str:
    found = service.find(volume_id)
    assert found is not None
    return found.status


def test_a_volume_by_its_key(service: VolumeService, project: str) -> None:
    """ensure twice is one; remove removes it, twice is fine."""
    mine = key()
    made = service.ensure_volume(mine, wanted(project, 2, name="data"))
    assert service.ensure_volume(mine, wanted(project, 2)).id == made.id
    until(lambda: _status(service, made.id) == "available" or None)
    found = service.find(made.id)
    assert found is not None
    assert (found.size_gib, found.name, found.project_id, found.metadata) == (
        2,
        "data",
        project,
        {},
    )
    assert found.host in HOSTS
    service.check_attach(found)
    assert service.remove_volume(key=mine) == 1
    until(lambda: service.find(made.id) is None or None)
    assert service.remove_volume(key=mine) == 0


def test_who_sees_what(service: VolumeService, project: str, volume: str) -> None:
    """NotFound alike for a missing and a foreign one."""
    assert service.get(service_context(project), volume).id == volume
    stranger = Context(request_id="req-1", project_id="0" * 32, roles=("member", "reader"))
    for ctx, one in ((stranger, volume), (stranger, str(uuid.uuid4())), (stranger, "../x")):
        with pytest.raises(NotFound):
            service.get(ctx, one)
    assert service.find(str(uuid.uuid4())) is None
    assert service.find_snapshot(str(uuid.uuid4())) is None


def test_what_is_checked_before(service: VolumeService, project: str) -> None:
    """Zones, types, quota."""
    ctx = service_context(project)
    service.check_new(ctx, [wanted(project), wanted(project)])
    with pytest.raises(QuotaExceeded):
        service.check_new(ctx, [wanted(project, 600), wanted(project, 600)])
    for more in ({"availability_zone": "mars"}, {"volume_type": "none"}):
        with pytest.raises((BadRequest, NotFound)):
            service.check_new(ctx, [wanted(project, **more)])


def reached(service: VolumeService, attachment: str, host: str) -> Any:
    """Connect, as often as it takes."""

    def look() -> Any:
        try:
            return service.connect(attachment, Connector(host=host))
        except NotReady:
            return None

    return until(look)


@pytest.mark.parametrize("near", [True, False])
def test_an_attachment(service: VolumeService, volume: str, near: bool) -> None:
    """Reserved, connected, complete, detaching, ended; a second server is refused meanwhile."""
    server, mine = str(uuid.uuid4()), key()
    made = service.ensure_attachment(mine, volume_id=volume, server_id=server)
    assert service.ensure_attachment(mine, volume_id=volume, server_id=server).id == made.id
    assert (made.status, made.server_id, made.mode) == ("reserved", server, "rw")
    with pytest.raises(KilonovaError):
        service.ensure_attachment(key(), volume_id=volume, server_id=str(uuid.uuid4()))
    found = service.find(volume)
    assert found is not None and found.status == "reserved"
    with pytest.raises(BadRequest):
        service.check_attach(found)
    host = found.host if near else next(h for h in HOSTS if h != found.host)
    connection = reached(service, made.id, host)
    assert isinstance(connection, FileConnection if near else NbdConnection)
    assert (connection.attachment_id, connection.volume_id) == (made.id, volume)
    service.complete(made.id)
    service.complete(made.id)
    assert _status(service, volume) == "in-use"
    assert service.connections(server) == {made.id: connection}
    [held] = service.attachments_of([server, str(uuid.uuid4())])[server]
    assert (held.id, held.status) == (made.id, "attached") and held.attached_at
    assert made.id in {a.id for a in service.all_attachments()}
    with pytest.raises(Conflict):
        service.begin_detaching(volume, str(uuid.uuid4()))
    service.begin_detaching(volume, server)
    service.begin_detaching(volume, server)
    assert _status(service, volume) == "detaching"
    service.roll_detaching(volume, server)
    assert _status(service, volume) == "in-use"
    assert service.loose() == []
    assert service.remove_attachment(key=mine) == 1
    assert service.remove_attachment(key=mine) == 0
    assert _status(service, volume) == "available"
    with pytest.raises(NotFound):
        service.connect(made.id, Connector(host=host))


def test_snapshots(service: VolumeService, project: str, volume: str) -> None:
    """By key; a volume is made of one; the volume stays while it has snapshots."""
    mine = key()
    made = service.ensure_snapshot(mine, volume_id=volume, name="s", metadata={"a": "b"})
    assert service.ensure_snapshot(mine, volume_id=volume, name="s").id == made.id

    def look() -> Any:
        found = service.find_snapshot(made.id)
        return found if found is not None and found.status == "available" else None

    assert until(look).metadata == {"a": "b"}
    assert service.get_snapshot(service_context(project), made.id).volume_id == volume
    assert service.remove_volume(volume_id=volume) == 0
    copy = service.ensure_volume(key(), wanted(project, snapshot_id=made.id))
    until(lambda: _status(service, copy.id) == "available" or None)
    assert service.remove_volume(volume_id=copy.id) == 1
    assert service.remove_snapshot(key=mine) == 1
    until(lambda: service.find_snapshot(made.id) is None or None)


def test_reimage(service: VolumeService, whole: Whole, volume: str) -> None:
    """A volume that a server reserved is written anew from an image; asked for again, it is done once."""
    mine, server, image = key(), str(uuid.uuid4()), whole.image()
    with pytest.raises(
        BadRequest, match="status must be"
    ):  # this is what a server that runs would lose
        held = service.ensure_attachment(key(), volume_id=volume, server_id=server)
        host = service.find(volume)
        service.connect(held.id, Connector(host="" if host is None else host.host))
        service.reimage(mine, volume_id=volume, image_id=image)
    service.remove_attachment(attachment_id=held.id)
    held = service.ensure_attachment(mine, volume_id=volume, server_id=server)
    with pytest.raises(NotReady):
        service.reimage(mine, volume_id=volume, image_id=image)

    def done() -> bool | None:
        try:
            service.reimage(mine, volume_id=volume, image_id=image)
        except NotReady:
            return None
        return True

    until(done)
    service.reimage(mine, volume_id=volume, image_id=image)
    found = service.find(volume)
    assert found is not None
    assert (found.status, found.image["image_id"], found.bootable) == ("reserved", image, True)
    assert service.end_reimage(mine, volume_id=volume) is True
    assert service.end_reimage(key(), volume_id=volume) is False
    service.remove_attachment(attachment_id=held.id)
    with pytest.raises((BadRequest, NotFound)):
        service.reimage(key(), volume_id=volume, image_id=str(uuid.uuid4()))


def test_what_does_not_migrate(service: VolumeService, project: str, volume: str) -> None:
    """Nobody completes what was not begun."""
    found = service.find(volume)
    assert found is not None and found.migration_status == ""
    other = service.ensure_volume(key(), wanted(project))
    for error in (False, True):
        with pytest.raises(Conflict):
            service.complete_migration(volume, other.id, error=error)
    with pytest.raises(NotFound):
        service.complete_migration(str(uuid.uuid4()), other.id)
    service.remove_volume(volume_id=other.id)


def test_claims_and_sweep(service: VolumeService, project: str) -> None:
    """All that was made for a key is found and removed by it."""
    mine = key()
    made = service.ensure_volume(mine, wanted(project))
    until(lambda: _status(service, made.id) == "available" or None)
    held = service.ensure_attachment(mine, volume_id=made.id, server_id=str(uuid.uuid4()))
    claims = {(c.kind, c.id) for c in service.claims(0.0) if (c.operation, c.item) == mine}
    assert claims == {("volume", made.id), ("attachment", held.id)}
    assert service.claims(3600.0) == []
    assert service.sweep([mine, key()]) == 2
    until(lambda: service.find(made.id) is None or None)


def test_a_volume_that_only_says_that_it_is_held(
    service: VolumeService, whole: Whole, volume: str
) -> None:
    """Somebody wrote a status: it is found."""
    path, version = f"/volume/v3/volumes/{volume}/action", {"OpenStack-API-Version": "volume 3.70"}
    for status, found in (("in-use", [volume]), ("available", [])):
        reset = {"os-reset_status": {"status": status}}
        assert whole.call("POST", path, reset, who="admin", headers=version).status == 202
        assert [v.id for v in service.loose()] == found
