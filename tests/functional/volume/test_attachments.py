"""/attachments, and what compute asks of the service (kilonova/volume/interface.py)."""

import uuid

import pytest

from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.objects.volume import Connector, FileConnection, NbdConnection
from kilonova.volume.interface import NotReady
from tests.functional.volume.conftest import Client
from tests.whole import until


def test_reserve_connect_complete_delete(api: Client) -> None:
    """As Nova uses the attachments API; only a service lets go of what a server has (OSSA-2023-003)."""
    volume, server = api.make(), str(uuid.uuid4())
    host = api.show(volume)["os-vol-host-attr:host"].partition("@")[0]
    asked = {"attachment": {"volume_uuid": volume, "instance_uuid": server}}
    got = api.call("POST", "/attachments", asked)
    assert got.status == 200, got
    one = got.json["attachment"]
    assert (one["status"], one["connection_info"]) == ("reserved", {})
    assert api.show(volume)["status"] == "reserved"
    assert api.call("POST", "/attachments", {"attachment": {"volume_uuid": volume}}).status == 400
    path = f"/attachments/{one['id']}"
    got = api.call("PUT", path, {"attachment": {"connector": {"host": host}}})
    assert got.json["attachment"]["connection_info"]["driver_volume_type"] == "kilonova-file"
    assert api.call("POST", f"{path}/action", {"os-complete": {}}).status == 204
    shown = api.show(volume)
    assert shown["status"] == "in-use" and shown["attachments"][0]["server_id"] == server
    assert api.call("DELETE", f"/volumes/{volume}").status == 400
    assert api.call("DELETE", path).status == 409
    assert api.call("DELETE", path, who="admin").status == 409
    got = api.call("DELETE", path, who="service")
    assert (got.status, got.json) == (200, {"attachments": []})
    api.delete(volume)


def test_attachments_of_others(api: Client) -> None:
    """Neither seen nor listed; microversions before 3.27 know none."""
    volume = api.make()
    got = api.call("POST", "/attachments", {"attachment": {"volume_uuid": volume}})
    path = f"/attachments/{got.json['attachment']['id']}"
    assert api.call("GET", path, who="other").status == 404
    assert api.call("GET", "/attachments", who="other").json["attachments"] == []
    assert len(api.call("GET", f"/attachments?volume_id={volume}").json["attachments"]) == 1
    project = api.whole.project("demo")
    assert api.call("GET", f"/{project}/attachments", version="3.26").status == 404
    assert api.call("DELETE", path).status == 200
    assert api.show(volume)["status"] == "available"
    api.delete(volume)


@pytest.fixture
def connected(api: Client) -> str:
    """A volume."""
    return api.make()


def test_compute_over_nbd(api: Client, connected: str) -> None:
    """From another host the volume is an export, once it is in force; the name cannot be guessed."""
    service = api.whole.cloud.volumes
    server, key = str(uuid.uuid4()), (str(uuid.uuid4()), "vol0")
    made = service.ensure_attachment(key, volume_id=connected, server_id=server)
    assert service.ensure_attachment(key, volume_id=connected, server_id=server) == made
    host = api.show(connected)["os-vol-host-attr:host"].partition("@")[0]
    other = next(h for h in ("cell1-host1", "cell1-host2") if h != host)

    def look() -> object:
        try:
            return service.connect(made.id, Connector(host=other))
        except NotReady:
            return None

    found = until(look)
    assert isinstance(found, NbdConnection) and len(found.export) == 32 and found.port > 0
    service.complete(made.id)
    service.complete(made.id)
    assert service.connections(server) == {made.id: found}
    [held] = service.attachments_of([server])[server]
    assert (held.status, held.host) == ("attached", other)
    service.begin_detaching(connected, server)
    assert service.get(_ctx(api), connected).status == "detaching"
    service.roll_detaching(connected, server)
    with pytest.raises(Conflict):
        service.begin_detaching(connected, str(uuid.uuid4()))
    assert service.remove_attachment(key=key) == 1
    assert service.remove_attachment(key=key) == 0
    with pytest.raises(NotFound):
        service.connect(made.id, Connector(host=other))
    assert service.exports.wanted(host).exports == ()
    api.delete(connected)


def _ctx(api: Client) -> object:
    from kilonova.common.context import service_context

    return service_context(api.whole.project("demo"))


def test_compute_on_the_volumes_own_host(api: Client, connected: str) -> None:
    """A file; a second server is refused, a second attachment of the same server (a move) is not."""
    service = api.whole.cloud.volumes
    server, operation = str(uuid.uuid4()), str(uuid.uuid4())
    host = api.show(connected)["os-vol-host-attr:host"].partition("@")[0]
    one = service.ensure_attachment((operation, "a"), volume_id=connected, server_id=server)
    found = service.connect(one.id, Connector(host=host))
    assert isinstance(found, FileConnection) and found.volume_id == connected
    service.complete(one.id)
    with pytest.raises(BadRequest):
        service.check_attach(service.find(connected))
    with pytest.raises(BadRequest):
        service.ensure_attachment(
            (operation, "b"), volume_id=connected, server_id=str(uuid.uuid4())
        )
    two = service.ensure_attachment((operation, "c"), volume_id=connected, server_id=server)
    assert service.remove_attachment(attachment_id=one.id) == 1
    assert service.find(connected).status == "reserved"
    assert service.sweep([(operation, "c")]) == 1 and service.find(connected).status == "available"
    assert two.id not in {a.id for a in service.all_attachments()}
    api.delete(connected)
