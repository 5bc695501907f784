"""External events, extensions, proxies, what Nova gave up, and what is not built: each says so clearly."""

from typing import Any

import pytest

from kilonova.api.compute import proxies, server_unbuilt
from kilonova.api.compute.service import NOUNS, service
from kilonova.common.ids import new_uuid
from kilonova.http.policy import PUBLIC
from tests.functional.compute.conftest import Cloud

EVENTS = "/os-server-external-events"


def test_external_events(cloud: Cloud) -> None:
    server, waiting, missing = cloud.server(), cloud.server(host=None), new_uuid()
    cloud.port(server)
    event = {"name": "network-changed", "server_uuid": server}
    cloud.call("POST", EVENTS, {"events": [event]}, status=403)
    seen = cloud.call("POST", EVENTS, {"events": [event]}, as_="service", status=200)
    assert seen == {"events": [{**event, "status": "completed", "code": 200}]}
    assert cloud.get(f"/servers/{server}/ips")["addresses"]["private"]
    many = [
        event,
        {"name": "network-vif-plugged", "server_uuid": waiting},
        {"name": "network-vif-plugged", "server_uuid": missing},
        {"name": "power-update", "server_uuid": server},
    ]
    seen = cloud.call("POST", EVENTS, {"events": many}, as_="service", status=207)
    assert [e["code"] for e in seen["events"]] == [200, 422, 404, 400]
    for name, minor in (
        ("volume-extended", 51),
        ("power-update", 76),
        ("accelerator-request-bound", 82),
        ("volume-reimaged", 93),
    ):
        body = {"events": [{"name": name, "server_uuid": server, "tag": "t"}]}
        cloud.call("POST", EVENTS, body, as_="service", at=minor - 1, status=400)
        cloud.call("POST", EVENTS, body, as_="service", at=minor, status=200)
    cloud.call("POST", EVENTS, {"events": []}, as_="service", status=400)


def test_extensions(cloud: Cloud) -> None:
    found = {e["alias"] for e in cloud.get("/extensions")["extensions"]}
    assert "os-keypairs" in found and "os-volumes" not in found
    one = cloud.get("/extensions/os-keypairs")["extension"]
    assert set(one) == {"alias", "name", "description", "links", "namespace", "updated"}
    cloud.get("/extensions/os-volumes", status=404)


def fill(path: str) -> str:
    for part in ("image_id", "id", "key", "name"):
        path = path.replace("{" + part + "}", "1")
    return path


@pytest.mark.parametrize(("path", "methods"), [(p, m) for _, p, m in proxies._PROXIED])
def test_proxies_are_501_then_404(cloud: Cloud, path: str, methods: dict[str, str]) -> None:
    for method in methods:
        cloud.call(method, fill(path), {}, as_="admin", at=35, status=501)
        cloud.call(method, fill(path), {}, as_="admin", at=36, status=404)


def test_image_metadata_proxy(cloud: Cloud) -> None:
    cloud.get("/images/1/metadata", at=38, status=501)
    cloud.get("/images/1/metadata", at=39, status=404)


def test_given_up_by_nova(cloud: Cloud) -> None:
    server = cloud.server()
    for path, methods in proxies._GONE.items():
        path = fill(path).replace("{server_id}", server)
        for method in methods:
            cloud.call(method, path, {"x": None}, as_="admin", at=104, status=410)


@pytest.mark.parametrize("name", sorted(server_unbuilt.ACTIONS))
def test_unbuilt_actions(cloud: Cloud, name: str) -> None:
    _, rule, role, since, until = server_unbuilt.ACTIONS[name]
    server, at = cloud.server(), until or 104
    path, body = f"/servers/{server}/action", {name: None}
    say = cloud.message("POST", path, body, as_="admin", at=at, status=501)
    assert say.endswith("is not offered by this cloud yet.")
    cloud.call("POST", path, body, as_="reader", at=at, status=403)
    cloud.call("POST", f"/servers/{new_uuid()}/action", body, as_="admin", at=at, status=404)
    if since > 1:
        cloud.call("POST", path, body, as_="admin", at=since - 1, status=404)
    if until is not None:
        cloud.call("POST", path, body, as_="admin", at=until + 1, status=404)
    say = cloud.message("POST", path, body, as_="reader", at=at, status=403)
    assert say == f"Policy doesn't allow os_compute_api:{rule} to be performed."
    assert role


@pytest.mark.parametrize("part", server_unbuilt.PARTS, ids=lambda p: f"{p[1]} {p[2]}")
def test_unbuilt_parts(cloud: Cloud, part: tuple[str, str, str, str, str, int]) -> None:
    _, method, path, _, _, since = part
    path = f"/servers/{cloud.server()}{path}".replace("{share_id}", "1")
    cloud.call(method, path, {}, as_="admin", at=since, status=501)
    if since > 1:
        cloud.call(method, path, {}, as_="admin", at=since - 1, status=404)


def test_every_route_has_a_known_rule() -> None:
    """S22: deny by default; a rule that nobody wrote down would deny even admins."""
    api: Any = service()
    known = set(api.policy.names()) | {PUBLIC}
    assert not [r.policy for r in api.routes if r.policy not in known]
    names = [n for noun in NOUNS for n in noun.RULES]
    assert all(n in known for n in names)


@pytest.mark.parametrize("at", [1, 36, 53, 75, 104])
def test_without_a_token_nothing_is_told(cloud: Cloud, at: int) -> None:
    for path in ("/flavors", "/limits", "/os-hypervisors", "/os-services", "/extensions"):
        cloud.call("GET", path, as_="nobody", at=at, status=401)
