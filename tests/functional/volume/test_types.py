"""/types, extra specs, access, default types, retype, multiattach."""

import uuid
from collections.abc import Iterator

import pytest

from kilonova.objects.volume import Connection, Connector, NbdConnection
from kilonova.volume.interface import NotReady, VolumeService
from tests.functional.volume.conftest import Client
from tests.whole import until


@pytest.fixture
def kind(api: Client) -> Iterator[str]:
    """A type that is not public."""
    body = {"name": f"t-{uuid.uuid4().hex[:8]}", "os-volume-type-access:is_public": False}
    got = api.call("POST", "/types", {"volume_type": body}, who="admin")
    assert got.status == 200, got
    yield str(got.json["volume_type"]["id"])
    assert api.call("DELETE", f"/types/{got.json['volume_type']['id']}", who="admin").status == 202


def test_default(api: Client) -> None:
    """Everybody sees the default; it cannot be deleted."""
    [one] = api.call("GET", "/types").json["volume_types"]
    assert one["name"] == "__DEFAULT__"
    assert api.call("GET", "/types/default").json["volume_type"]["id"] == one["id"]
    assert api.call("DELETE", f"/types/{one['id']}", who="admin").status == 400
    assert api.call("POST", "/types", {"volume_type": {"name": "x"}}).status == 403
    assert api.call("POST", "/types", {"volume_type": {"name": " "}}, who="admin").status == 400
    assert (
        api.call("POST", "/types", {"volume_type": {"name": "__DEFAULT__"}}, who="admin").status
        == 409
    )


def test_access(api: Client, kind: str) -> None:
    """A private type is there for those projects alone that were let in."""
    path, project = f"/types/{kind}", api.whole.project("demo")
    assert api.call("GET", path).status == 404
    assert api.call("POST", "/volumes", {"volume": {"size": 1, "volume_type": kind}}).status == 404
    add = {"addProjectAccess": {"project": project}}
    assert api.call("POST", f"{path}/action", add, who="admin").status == 202
    assert api.call("POST", f"{path}/action", add, who="admin").status == 409
    assert api.call("GET", path).status == 200
    got = api.call("GET", f"{path}/os-volume-type-access", who="admin")
    assert got.json == {"volume_type_access": [{"volume_type_id": kind, "project_id": project}]}
    volume = api.make(volume_type=kind)
    assert api.call("DELETE", path, who="admin").status == 400
    api.delete(volume)
    gone = {"removeProjectAccess": {"project": project}}
    assert api.call("POST", f"{path}/action", gone, who="admin").status == 202
    assert api.call("POST", f"{path}/action", gone, who="admin").status == 404


def test_specs(api: Client, kind: str) -> None:
    """Extra specs, set and removed; only administrators see all of them."""
    path = f"/types/{kind}/extra_specs"
    body = {"extra_specs": {"multiattach": "<is> True", "secret": "x"}}
    assert api.call("POST", path, body, who="admin").json == body
    assert api.call("PUT", f"{path}/secret", {"secret": "y"}, who="admin").json == {"secret": "y"}
    assert api.call("PUT", f"{path}/secret", {"other": "y"}, who="admin").status == 400
    assert api.call("GET", f"{path}/secret", who="admin").json == {"secret": "y"}
    assert api.call("DELETE", f"{path}/secret", who="admin").status == 202
    assert api.call("GET", f"{path}/secret", who="admin").status == 404
    assert api.call("POST", path, {"extra_specs": {"a/b": "x"}}, who="admin").status == 400
    assert api.call("POST", path, {"extra_specs": {"a": {"b": 1}}}, who="admin").status == 400
    update = {"volume_type": {"description": "d", "is_public": True}}
    assert api.call("PUT", f"/types/{kind}", update, who="admin").json["volume_type"]["is_public"]
    seen = api.call("GET", f"/types/{kind}").json["volume_type"]["extra_specs"]
    assert seen == {"multiattach": "<is> True"}
    assert (
        api.call("POST", f"/types/{kind}/encryption", {"encryption": {}}, who="admin").status == 501
    )
    assert api.call("GET", f"/types/{kind}/encryption", who="admin").json == {}


def test_multiattach_and_retype(api: Client, kind: str) -> None:
    """A volume of such a type takes two servers; a retype changes the record."""
    body = {"extra_specs": {"multiattach": "<is> True"}}
    api.call("POST", f"/types/{kind}/extra_specs", body, who="admin")
    api.call("PUT", f"/types/{kind}", {"volume_type": {"is_public": True}}, who="admin")
    volume = api.make()
    retype = {"os-retype": {"new_type": kind, "migration_policy": "never"}}
    assert api.call("POST", f"/volumes/{volume}/action", retype).status == 202
    assert api.call("POST", f"/volumes/{volume}/action", retype).status == 400
    shown = api.show(volume)
    assert shown["multiattach"] is True and shown["volume_type_id"] == kind
    service, made = api.whole.cloud.volumes, []
    for _ in range(2):
        key = (str(uuid.uuid4()), "m")
        made.append(service.ensure_attachment(key, volume_id=volume, server_id=str(uuid.uuid4())))
        reached = until(lambda: _connect(service, made[-1].id, shown))
        assert isinstance(
            reached, NbdConnection
        )  # beside its data too: one process writes the file
        service.complete(made[-1].id)
    assert len(api.show(volume)["attachments"]) == 2
    for one in made:
        service.remove_attachment(attachment_id=one.id)
    api.delete(volume)


def _connect(
    service: VolumeService, attachment_id: str, shown: dict[str, str]
) -> Connection | None:
    """Connect the volume's own host; None until that is ready."""
    host = shown["os-vol-host-attr:host"].partition("@")[0]
    try:
        return service.connect(attachment_id, Connector(host=host))
    except NotReady:
        return None


def test_default_types(api: Client, kind: str) -> None:
    """A project's own default."""
    api.call("PUT", f"/types/{kind}", {"volume_type": {"is_public": True}}, who="admin")
    path = f"/default-types/{api.whole.project('demo')}"
    assert api.call("GET", path, who="admin").status == 404
    body = {"default_type": {"volume_type": kind}}
    assert api.call("PUT", path, body, who="admin").status == 200
    assert api.call("PUT", path, body).status == 403
    volume = api.make()
    assert api.show(volume)["volume_type_id"] == kind
    api.delete(volume)
    assert api.call("DELETE", path, who="admin").status == 204
