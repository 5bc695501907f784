"""/attachments, and what compute asks of the service (kilonova/volume/interface.py)."""

import uuid

import pytest

from kilonova.common import certificates
from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound
from kilonova.common.host_certificates import HostAuthority, name_of, new_request
from kilonova.objects.base import decode, encode
from kilonova.objects.volume import Connector, FileConnection, NbdConnection
from kilonova.objects.volume_orders import ExportsApplied, ExportsRequest, VolumeExports
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


def test_a_host_gets_a_certificate_of_its_own_name(api: Client) -> None:
    """Of the name that the bus knows it by, whatever its request says; not for another host, not for what is none."""
    from cryptography import x509

    bus, host, other = api.whole.cloud.bus, "cell1-host1", "cell1-host2"
    key, asked = new_request(other, None)
    request = ExportsRequest(host=host, certificate=asked)
    got = decode(bus.request(f"volume.state.{host}", encode(request), 5.0), VolumeExports)
    made = x509.load_pem_x509_certificate(got.certificate.encode())
    authority = x509.load_pem_x509_certificate(got.authority.encode())
    assert made.subject.rfc4514_string() == f"CN={name_of(host)}" != f"CN={name_of(other)}"
    made.verify_directly_issued_by(authority)
    ours = certificates.load_key(key).public_key().public_numbers()
    assert made.public_key().public_numbers() == ours  # type: ignore[union-attr]
    with pytest.raises(KilonovaError):
        bus.request(f"volume.state.{other}", encode(request), 0.2)
    for wrong in ("", "no request", asked.replace("A", "B")):
        request = ExportsRequest(host=host, certificate=wrong)
        got = decode(bus.request(f"volume.state.{host}", encode(request), 5.0), VolumeExports)
        assert (got.host, got.certificate) == (host, "")


def test_authorities_of_one_secret_stand_for_each_other() -> None:
    """Every api signs alike with nothing stored; another secret is another authority."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    one, two, other = (HostAuthority(s * 32) for s in (b"a", b"a", b"b"))
    made = x509.load_pem_x509_certificate(one.sign("h", new_request("h", None)[1]).encode())
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(two.certificate.encode()))
    with pytest.raises(InvalidSignature):
        made.verify_directly_issued_by(x509.load_pem_x509_certificate(other.certificate.encode()))


def test_a_volume_with_a_port_of_its_own(api: Client) -> None:
    """What a host reports of TLS is what compute is told; a host that is silent of it is reached in the clear."""
    service, volume = api.whole.cloud.volumes, api.make()
    host = api.show(volume)["os-vol-host-attr:host"].partition("@")[0]
    other = next(h for h in ("cell1-host1", "cell1-host2") if h != host)
    made = service.ensure_attachment((str(uuid.uuid4()), "vol0"), volume_id=volume, server_id="")

    def look() -> NbdConnection | None:
        try:
            found = service.connect(made.id, Connector(host=other))
        except NotReady:
            return None
        return found if isinstance(found, NbdConnection) else None

    plain = until(look)
    assert plain is not None and plain.tls_name == ""
    wanted = service.exports.wanted(host)
    assert [e.host for e in wanted.exports if e.attachment_id == made.id] == [other]
    said = ExportsApplied(
        host=host,
        generation=wanted.generation,
        address="10.0.0.1",
        tls_name="h",
        ports=((made.id, 1234),),
    )
    api.whole.cloud.bus.publish(f"volume.report.{host}", encode(said))

    def told() -> NbdConnection | None:
        found = look()
        return found if found is not None and found.tls_name else None

    found = until(told)
    assert found is not None
    assert (found.host, found.port, found.tls_name) == ("10.0.0.1", 1234, "h")
    service.remove_attachment(attachment_id=made.id)
    api.delete(volume)
