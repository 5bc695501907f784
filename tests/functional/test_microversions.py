"""Microversions of the compute API, by real requests to a running cloud: TAG-1 … TAG-4, TAG-6, TAG-9, and all fields.

The expected fields are written by hand from the public API reference, not taken from the code.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.api.compute.service import service
from kilonova.http.microversion import V
from kilonova.http.routing import Route
from kilonova.http.schema import vanished
from tests.whole import Answer, Whole, running

MINORS = range(1, 105)
SERVERS = "/compute/v2.1/servers"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2M9DnSGRcyRvuPtVMSLYiPrN5tLxQVvNPpqM4WmXJH nobody@nowhere"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=4) as made:
        for name in ("demo", "admin"):
            limits = {"cores": -1, "instances": -1, "ram": -1}
            path = f"/compute/v2.1/os-quota-sets/{made.project(name)}"
            got = made.call("PUT", path, {"quota_set": limits}, who="admin")
            assert got.status == 200, got
            quota = {"quota": {"port": -1}}
            path = f"/network/v2.0/quotas/{made.project(name)}"
            assert made.call("PUT", path, quota, who="admin").status == 200
        yield made


# -- the type


def test_a_microversion_has_no_equality() -> None:
    """TAG-3, TAG-4"""
    for question in (
        lambda: V(2, 32) == V(2, 32),
        lambda: V(2, 32) != V(2, 37),
        lambda: V(2, 32) == "2.32",
        lambda: V(2, 32) in (V(2, 32),),
        lambda: V(2, 32) <= V(2, 37),
        lambda: V(2, 32) > V(2, 37),
    ):
        with pytest.raises(TypeError):
            question()
    with pytest.raises(TypeError):
        hash(V(2, 32))
    assert V(2, 100) >= V(2, 99)
    assert V(2, 9) < V(2, 10)
    assert V(2, 32).between(V(2, 32), V(2, 32))


# -- device tags


def nic_tag_is_there(minor: int) -> bool:
    return 32 <= minor <= 36 or minor >= 42


def disk_tag_is_there(minor: int) -> bool:
    return minor == 32 or minor >= 42


@pytest.fixture(scope="module")
def network(whole: Whole) -> str:
    found = whole.call("GET", "/network/v2.0/networks?name=private")
    return str(found.json["networks"][0]["id"])


def _create(whole: Whole, minor: int, **more: Any) -> Answer:
    body = {"name": "tagged", "flavorRef": "42", "imageRef": whole.image(), **more}
    return whole.call("POST", SERVERS, {"server": body}, version=f"2.{minor}")


def _accepted_or_not(whole: Whole, got: Answer, expected: bool, field: str) -> None:
    if expected:
        assert got.status == 202, got
        whole.call("DELETE", f"{SERVERS}/{got.json['server']['id']}")
    else:
        assert got.status == 400, got
        message = got.json["badRequest"]["message"]
        assert field in message and "tag" in message


@pytest.mark.parametrize("minor", MINORS)
def test_a_nic_tag_at_every_version(whole: Whole, network: str, minor: int) -> None:
    """TAG-1"""
    got = _create(whole, minor, networks=[{"uuid": network, "tag": "public"}])
    _accepted_or_not(whole, got, nic_tag_is_there(minor), "networks")


@pytest.mark.parametrize("minor", MINORS)
def test_a_disk_tag_at_every_version(whole: Whole, minor: int) -> None:
    """TAG-1"""
    disk = {
        "source_type": "image",
        "destination_type": "local",
        "boot_index": 0,
        "uuid": whole.image(),
        "tag": "root",
    }
    more = {"networks": "none"} if minor >= 37 else {}
    got = _create(whole, minor, block_device_mapping_v2=[disk], **more)
    _accepted_or_not(whole, got, disk_tag_is_there(minor), "block_device_mapping_v2")


@pytest.mark.parametrize("minor", MINORS)
def test_networks_are_required_from_2_37(whole: Whole, minor: int) -> None:
    """TAG-2"""
    for value in ("auto", "none"):
        got = _create(whole, minor, flavorRef="no-such-flavor", networks=value)
        assert got.status == 400, got
        fits = got.json["badRequest"]["message"].startswith("Flavor no-such")
        assert fits == (minor >= 37), got
    got = _create(whole, minor, flavorRef="no-such-flavor")
    assert got.status == 400
    assert got.json["badRequest"]["message"].startswith("Flavor no-such") == (minor < 37), got


@pytest.mark.parametrize("minor", [1, 32, 37, 42, 104])
def test_networks_must_be_a_list_of_objects_with_uuids(whole: Whole, minor: int) -> None:
    """TAG-2, TAG-9: the object of the seed's own example is refused by name."""
    wrong: list[Any] = [
        {"uuid": whole.image(), "tag": "x"},
        [{"uuid": "not-a-uuid"}],
        [{"port": "not-a-uuid"}],
        ["auto"],
        "manual",
        7,
    ]
    for value in wrong:
        got = _create(whole, minor, networks=value)
        assert got.status == 400, (value, got)
        assert "networks" in got.json["badRequest"]["message"], (value, got)


# -- negotiation


@pytest.mark.parametrize("header", ["OpenStack-API-Version", "X-OpenStack-Nova-API-Version"])
def test_both_headers_choose_the_version(whole: Whole, header: str) -> None:
    prefix = "compute " if header.startswith("OpenStack") else ""
    for asked, given in (("2.42", "2.42"), ("latest", "2.104"), ("2.1", "2.1")):
        got = whole.call("GET", SERVERS, headers={header: prefix + asked})
        assert got.status == 200
        assert got.headers["openstack-api-version"] == f"compute {given}"
        assert got.headers["x-openstack-nova-api-version"] == given
        varies = got.headers["vary"].lower()
        assert "openstack-api-version" in varies and "x-openstack-nova-api-version" in varies


def test_without_a_header_the_oldest_answers(whole: Whole) -> None:
    got = whole.call("GET", SERVERS)
    assert got.headers["openstack-api-version"] == "compute 2.1"


def test_the_newer_header_wins_and_foreign_parts_are_skipped(whole: Whole) -> None:
    got = whole.call(
        "GET",
        SERVERS,
        headers={
            "OpenStack-API-Version": "volume 3.50, compute 2.60",
            "X-OpenStack-Nova-API-Version": "2.10",
        },
    )
    assert got.headers["openstack-api-version"] == "compute 2.60"
    got = whole.call(
        "GET",
        SERVERS,
        headers={"OpenStack-API-Version": "volume 3.50", "X-OpenStack-Nova-API-Version": "2.10"},
    )
    assert got.headers["openstack-api-version"] == "compute 2.10"


@pytest.mark.parametrize("text", ["2.105", "2.0", "3.1", "1.1", "2.999", "99.1"])
def test_a_version_out_of_range_is_406(whole: Whole, text: str) -> None:
    got = whole.call("GET", SERVERS, version=text)
    assert got.status == 406, got
    message = got.json["notAcceptable"]["message"]
    assert "2.1" in message and "2.104" in message


@pytest.mark.parametrize("text", ["2", "2.", "two", "2.01", "-2.1", "2.1.1", "2,1", "x" * 300])
def test_a_malformed_version_is_400(whole: Whole, text: str) -> None:
    got = whole.call("GET", SERVERS, version=text)
    assert got.status == 400, got
    assert "badRequest" in got.json


def test_version_documents_tell_the_range(whole: Whole) -> None:
    shown = whole.call("GET", "/compute/v2.1", who=None).json["version"]
    assert (shown["min_version"], shown["version"]) == ("2.1", "2.104")
    (listed,) = whole.call("GET", "/compute", who=None).json["versions"]
    assert listed["id"] == "v2.1" and listed["status"] == "CURRENT"


# -- the fields of each version, written by hand

SERVER_2_1 = {
    "id", "name", "status", "tenant_id", "user_id", "metadata", "hostId", "image", "flavor",
    "created", "updated", "addresses", "accessIPv4", "accessIPv6", "links", "progress",
    "OS-DCF:diskConfig", "OS-EXT-AZ:availability_zone", "config_drive", "key_name",
    "OS-SRV-USG:launched_at", "OS-SRV-USG:terminated_at", "security_groups",
    "OS-EXT-STS:task_state", "OS-EXT-STS:vm_state", "OS-EXT-STS:power_state",
    "os-extended-volumes:volumes_attached",
}  # fmt: skip
A = "OS-EXT-SRV-ATTR:"
ADMIN_2_1 = {A + n for n in ("host", "hypervisor_hostname", "instance_name")}
ADMIN_2_3 = {
    A + n
    for n in (
        "hostname", "reservation_id", "launch_index", "root_device_name", "kernel_id",
        "ramdisk_id", "user_data",
    )
}  # fmt: skip
SINCE = {  # field -> (first minor version, who sees it)
    "locked": (9, "all"),
    "host_status": (16, "admin"),
    "description": (19, "all"),
    "tags": (26, "all"),
    "trusted_image_certificates": (63, "all"),
    "locked_reason": (73, "all"),
    A + "hostname": (90, "all"),
    "pinned_availability_zone": (96, "all"),
    "scheduler_hints": (100, "all"),
}


def server_fields(minor: int, who: str, *, single: bool) -> set[str]:
    out = set(SERVER_2_1)
    if who == "admin":
        out |= ADMIN_2_1
        if minor >= 3:
            out |= ADMIN_2_3
    for name, (since, seen) in SINCE.items():
        if minor >= since and seen in ("all", who):
            out.add(name)
    if single and minor >= 71:
        out.add("server_groups")
    return out


UPDATED_2_1 = {
    "id", "name", "status", "tenant_id", "user_id", "metadata", "hostId", "image", "flavor",
    "created", "updated", "addresses", "accessIPv4", "accessIPv6", "links", "progress",
    "OS-DCF:diskConfig",
}  # fmt: skip


def updated_fields(minor: int) -> set[str]:
    if minor >= 75:
        return server_fields(minor, "demo", single=True)
    late = {
        "locked": 9,
        "description": 19,
        "tags": 26,
        "trusted_image_certificates": 63,
        "server_groups": 71,
        "locked_reason": 73,
    }
    return UPDATED_2_1 | {n for n, since in late.items() if minor >= since}


def flavor_of_server(minor: int) -> set[str]:
    if minor < 47:
        return {"id", "links"}
    return {"vcpus", "ram", "disk", "ephemeral", "swap", "original_name", "extra_specs"}


def flavor_fields(minor: int) -> set[str]:
    out = {
        "id", "name", "ram", "disk", "swap", "OS-FLV-EXT-DATA:ephemeral", "vcpus",
        "os-flavor-access:is_public", "links",
    }  # fmt: skip
    if minor < 102:
        out |= {"OS-FLV-DISABLED:disabled", "rxtx_factor"}
    if minor >= 55:
        out.add("description")
    if minor >= 61:
        out.add("extra_specs")
    return out


def basic_flavor_fields(minor: int) -> set[str]:
    return {"id", "name", "links"} | ({"description"} if minor >= 55 else set())


def key_fields(minor: int) -> set[str]:
    return {"name", "public_key", "fingerprint"} | ({"type"} if minor >= 2 else set())


SHOWN_KEY = {"user_id", "created_at", "deleted", "deleted_at", "id", "updated_at"}


@pytest.fixture(scope="module")
def server(whole: Whole, network: str) -> str:
    key = {"keypair": {"name": "mine", "public_key": KEY}}
    assert whole.call("POST", "/compute/v2.1/os-keypairs", key, version="2.2").status == 201
    return whole.server("shown", networks=[{"uuid": network}], key_name="mine")


@pytest.mark.parametrize("minor", MINORS)
def test_servers_have_exactly_the_fields_of_the_version(
    whole: Whole, server: str, minor: int
) -> None:
    for who in ("demo", "admin"):
        version = f"2.{minor}"
        query = "?all_tenants=1&name=shown" if who == "admin" else "?name=shown"
        shown = whole.call("GET", f"{SERVERS}/{server}", who=who, version=version).json["server"]
        assert set(shown) == server_fields(minor, who, single=True)
        assert set(shown["flavor"]) == flavor_of_server(minor)
        assert set(shown["image"]) == {"id", "links"} | ({"properties"} if minor >= 98 else set())
        (listed,) = whole.call("GET", f"{SERVERS}/detail{query}", who=who, version=version).json[
            "servers"
        ]
        assert set(listed) == server_fields(minor, who, single=False)
        same = {k: v for k, v in shown.items() if k in listed}
        assert listed == same
        (brief,) = whole.call("GET", SERVERS + query, who=who, version=version).json["servers"]
        assert set(brief) == {"id", "name", "links"}


@pytest.mark.parametrize("minor", MINORS)
def test_an_update_answers_with_the_fields_of_the_version(
    whole: Whole, server: str, minor: int
) -> None:
    body = {"server": {"name": "shown"}}
    got = whole.call("PUT", f"{SERVERS}/{server}", body, version=f"2.{minor}")
    assert got.status == 200, got
    assert set(got.json["server"]) == updated_fields(minor)


@pytest.mark.parametrize("minor", MINORS)
def test_flavors_and_keys_have_exactly_the_fields_of_the_version(
    whole: Whole, server: str, minor: int
) -> None:
    version, base = f"2.{minor}", "/compute/v2.1"
    shown = whole.call("GET", f"{base}/flavors/42", version=version).json["flavor"]
    assert set(shown) == flavor_fields(minor)
    assert shown["swap"] == (0 if minor >= 75 else "")
    for item in whole.call("GET", f"{base}/flavors/detail", version=version).json["flavors"]:
        assert set(item) == flavor_fields(minor)
    for item in whole.call("GET", f"{base}/flavors", version=version).json["flavors"]:
        assert set(item) == basic_flavor_fields(minor)
    key = whole.call("GET", f"{base}/os-keypairs/mine", version=version).json["keypair"]
    assert set(key) == key_fields(minor) | SHOWN_KEY
    (listed,) = whole.call("GET", f"{base}/os-keypairs", version=version).json["keypairs"]
    assert set(listed) == {"keypair"} and set(listed["keypair"]) == key_fields(minor)


# -- every route at every version

ROUTES = service().routes
PLAIN = sorted({r.path for r in ROUTES if r.method == "GET" and "{" not in r.path})


def _routes_at(method: str, path: str, minor: int) -> list[Route]:
    at = V(2, minor)
    return [
        r for r in ROUTES if (r.method, r.path) == (method, path) and at.between(r.since, r.until)
    ]


@pytest.mark.parametrize("minor", MINORS)
def test_every_list_answers_at_every_version_as_described(
    whole: Whole, server: str, minor: int
) -> None:
    for path in PLAIN:
        got = whole.call("GET", "/compute" + path, who="admin", version=f"2.{minor}")
        there = _routes_at("GET", path, minor)
        if not there:
            assert got.status in (404, 410), (path, got)
            continue
        declared = {there[0].success, *there[0].errors}
        assert got.status in declared and got.status != 500, (path, got)


def _filled(path: str, server: str) -> str:
    known = {"server_id": server, "flavor_id": "42", "name": "mine"}
    out = path
    for part in path.split("/"):
        if part.startswith("{"):
            name = part[1:-1]
            out = out.replace(part, known.get(name, "no-such-thing"))
    return out


@pytest.mark.parametrize("minor", MINORS)
def test_every_route_with_an_id_answers_at_every_version(
    whole: Whole, server: str, minor: int
) -> None:
    for path in sorted({r.path for r in ROUTES if r.method == "GET" and "{" in r.path}):
        full = "/compute" + _filled(path, server)
        got = whole.call("GET", full, who="admin", version=f"2.{minor}")
        there = _routes_at("GET", path, minor)
        if not there:
            assert got.status in (404, 410), (path, got)
        else:
            allowed = {there[0].success, *there[0].errors, 400, 404} - {500}
            assert got.status in allowed, (path, got)


# -- schemas

DECLARED_REMOVALS = {
    ("POST", "/v2.1/servers", 33): ["/server/block_device_mapping_v2[]/tag"],
    ("POST", "/v2.1/servers", 37): ["/server/networks[]/tag"],
    ("POST", "/v2.1/servers", 57): ["/server/personality"],
    ("POST", "/v2.1/servers/{server_id}/action#rebuild", 57): ["/rebuild/personality"],
    ("POST", "/v2.1/servers/{server_id}/action#evacuate", 14): ["/evacuate/onSharedStorage"],
    ("POST", "/v2.1/servers/{server_id}/action#evacuate", 68): ["/evacuate/force"],
    ("POST", "/v2.1/servers/{server_id}/action#os-migrateLive", 25): [
        "/os-migrateLive/disk_over_commit"
    ],
    ("POST", "/v2.1/servers/{server_id}/action#os-migrateLive", 68): ["/os-migrateLive/force"],
    ("POST", "/v2.1/flavors", 102): ["/flavor/rxtx_factor"],
    ("PUT", "/v2.1/os-quota-sets/{project_id}", 36): [
        "/quota_set/fixed_ips",
        "/quota_set/floating_ips",
        "/quota_set/security_group_rules",
        "/quota_set/security_groups",
    ],
    ("PUT", "/v2.1/os-quota-sets/{project_id}", 57): [
        "/quota_set/injected_file_content_bytes",
        "/quota_set/injected_file_path_bytes",
        "/quota_set/injected_files",
    ],
    ("PUT", "/v2.1/os-quota-class-sets/{name}", 50): [
        "/quota_class_set/fixed_ips",
        "/quota_class_set/floating_ips",
        "/quota_class_set/security_group_rules",
        "/quota_class_set/security_groups",
    ],
    ("PUT", "/v2.1/os-quota-class-sets/{name}", 57): [
        "/quota_class_set/injected_file_content_bytes",
        "/quota_class_set/injected_file_path_bytes",
        "/quota_class_set/injected_files",
    ],
    ("POST", "/v2.1/os-server-groups", 64): ["/server_group/policies"],
    ("PUT", "/v2.1/os-services/{service_id}", 53): ["/binary", "/host"],
}


def test_a_property_that_vanishes_is_declared() -> None:
    """TAG-6: over every chain of request schemas of every route."""
    chains: dict[tuple[str, str, str | None], list[Route]] = {}
    for r in ROUTES:
        chains.setdefault((r.method, r.path, r.action), []).append(r)
    found = {}
    for (method, path, action), routes in chains.items():
        ordered = sorted(routes, key=lambda r: r.since.minor)
        for a, b in itertools.pairwise(ordered):
            assert a.until is not None and a.until.minor < b.since.minor
            if a.body is not None and b.body is not None:
                lost = vanished(a.body.document, b.body.document)
                if lost:
                    found[method, path + (f"#{action}" if action else ""), b.since.minor] = lost
    assert found == DECLARED_REMOVALS


def test_vanished_sees_through_branches() -> None:
    """TAG-6: the copied schema that once lost ``tag`` would have been seen."""
    item = {"type": "object", "properties": {"uuid": {}, "tag": {}}}
    lost = {"type": "object", "properties": {"uuid": {}}}
    older = {"properties": {"networks": {"type": "array", "items": item}}}
    branch = {"oneOf": [{"type": "array", "items": lost}, {"type": "string"}]}
    assert vanished(older, {"properties": {"networks": branch}}) == ["/networks[]/tag"]
    assert vanished(older, {"properties": {}}) == ["/networks"]
    assert vanished(older, older) == []
