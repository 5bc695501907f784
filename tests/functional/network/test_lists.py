"""List semantics that clients lean on (DESIGN §9)."""

from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.functional.network.conftest import Cloud


@pytest.fixture
def many(cloud: Cloud) -> list[dict[str, Any]]:
    made = []
    for i in range(5):
        made.append(cloud.make("network", name=f"n{i % 3}", description="x" if i % 2 else ""))
        cloud.clock.advance(1)
    return made


def names(cloud: Cloud, query: str, who: str = "demo:member") -> list[str]:
    return [n["name"] for n in cloud.ok("GET", f"/networks?{query}", who)["networks"]]


def ids(cloud: Cloud, query: str) -> list[str]:
    return [n["id"] for n in cloud.ok("GET", f"/networks?{query}")["networks"]]


def test_filters(cloud: Cloud, many: list[dict[str, Any]]) -> None:
    assert names(cloud, "name=n0") == ["n0", "n0"]
    assert sorted(names(cloud, "name=n0&name=n2")) == ["n0", "n0", "n2"]
    assert names(cloud, "name=n0&description=x") == ["n0"]
    assert len(names(cloud, "admin_state_up=True&shared=false&status=ACTIVE&mtu=1450")) == 5
    assert names(cloud, f"id={many[1]['id']}&id={many[2]['id']}") == ["n1", "n2"]
    assert names(cloud, f"project_id={'d' * 32}&tenant_id={'d' * 32}&limit=1") == ["n0"]
    assert names(cloud, "description=") == ["n0", "n2", "n1"]
    assert names(cloud, "name=none") == []
    assert names(cloud, "revision_number=1&name=n2") == ["n2"]


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("foo=1", "foo"),
        ("mtu=x", "mtu"),
        ("shared=maybe", "shared"),
        ("limit=-1", "Limit"),
        ("limit=x", "Limit"),
        ("sort_key=subnets", "subnets"),
        ("sort_key=name&sort_dir=up", "sort_dir"),
        ("sort_key=name&sort_key=id&sort_dir=asc", "sort_dirs"),
        ("created_at=yesterday", "created_at"),
        ("changed_since=x", "changed_since"),
    ],
)
def test_bad_queries_name_the_parameter(cloud: Cloud, query: str, word: str) -> None:
    result = cloud.call("GET", f"/networks?{query}")
    assert result.status_code == 400, result.text
    assert word in result.json["NeutronError"]["message"]


def test_fields_keep_only_what_was_asked(cloud: Cloud, many: list[dict[str, Any]]) -> None:
    found = cloud.ok("GET", "/networks?fields=id&fields=name")["networks"]
    assert all(set(n) == {"id", "name"} for n in found)
    shown = cloud.ok("GET", f"/networks/{many[0]['id']}?fields=name")["network"]
    assert shown == {"name": "n0"}


def test_sort_and_pages_both_ways(cloud: Cloud, many: list[dict[str, Any]]) -> None:
    assert names(cloud, "sort_key=name&sort_dir=desc") == ["n2", "n1", "n1", "n0", "n0"]
    everything = ids(cloud, "sort_key=name&sort_dir=asc&sort_key=created_at&sort_dir=desc")
    query = "sort_key=name&sort_dir=asc&sort_key=created_at&sort_dir=desc&limit=2"
    seen: list[str] = []
    url: str | None = f"/networks?{query}"
    pages = 0
    while url:
        body = cloud.ok("GET", url)
        seen += [n["id"] for n in body["networks"]]
        pages += 1
        links = {link["rel"]: link["href"] for link in body.get("networks_links", [])}
        url = None
        if "next" in links:
            parts = urlsplit(links["next"])
            assert parts.path == "/network/v2.0/networks"
            url = f"/networks?{parts.query}"
    assert seen == everything and pages == 3
    back = ids(cloud, f"{query}&marker={everything[4]}&page_reverse=True")
    assert back == everything[2:4]
    assert (
        cloud.call(
            "GET", f"/networks?limit=2&marker={'0' * 8}-0000-4000-8000-{'0' * 12}"
        ).status_code
        == 404
    )


def test_nullable_sort_keys_page_completely(seeded: Cloud) -> None:
    net = seeded.ok("GET", "/networks?name=private")["networks"][0]
    for cidr, gateway in (
        ("10.1.0.0/24", None),
        ("10.2.0.0/24", "10.2.0.9"),
        ("10.3.0.0/24", None),
    ):
        seeded.make("subnet", network_id=net["id"], cidr=cidr, ip_version=4, gateway_ip=gateway)
    for way in ("asc", "desc"):
        base = f"/subnets?network_id={net['id']}&sort_key=gateway_ip&sort_dir={way}"
        whole = [s["id"] for s in seeded.ok("GET", base)["subnets"]]
        paged: list[str] = []
        while True:
            marker = f"&marker={paged[-1]}" if paged else ""
            page = seeded.ok("GET", f"{base}&limit=1{marker}")["subnets"]
            if not page:
                break
            paged += [s["id"] for s in page]
        assert paged == whole and len(whole) == 4


def test_tags(cloud: Cloud, many: list[dict[str, Any]]) -> None:
    a, b, c = (f"/networks/{n['id']}" for n in many[:3])
    assert cloud.ok("PUT", a + "/tags", body={"tags": ["red", "blue"]}) == {"tags": ["blue", "red"]}
    assert cloud.call("PUT", b + "/tags/red").status_code == 201
    assert cloud.call("GET", b + "/tags/red").status_code == 204
    assert cloud.call("GET", b + "/tags/green").status_code == 404
    assert cloud.call("DELETE", b + "/tags/green").status_code == 404
    assert names(cloud, "tags=red,blue") == ["n0"]
    assert names(cloud, "tags=red") == ["n0", "n1"]
    assert names(cloud, "tags-any=blue,red") == ["n0", "n1"]
    assert len(names(cloud, "not-tags=red,blue")) == 4
    assert len(names(cloud, "not-tags-any=red,blue")) == 3
    assert cloud.ok("GET", a)["network"]["tags"] == ["blue", "red"]
    assert cloud.ok("GET", a)["network"]["revision_number"] == 2
    assert cloud.call("PUT", c + "/tags", body={"tags": ["a,b"]}).status_code == 400
    cloud.ok("DELETE", a + "/tags")
    assert cloud.ok("GET", a + "/tags") == {"tags": []}
    assert cloud.call("PUT", a + "/tags/x", "other:member").status_code == 404


def test_port_filters(seeded: Cloud) -> None:
    net = seeded.ok("GET", "/networks?name=private")["networks"][0]
    subnet = net["subnets"][0]
    made = seeded.make(
        "port", network_id=net["id"], device_id="dev", fixed_ips=[{"ip_address": "10.10.0.77"}]
    )
    for query in (
        "fixed_ips=ip_address%3D10.10.0.77",
        f"fixed_ips=ip_address%3D10.10.0.77&fixed_ips=subnet_id%3D{subnet}",
        "fixed_ips=ip_address_substr%3D0.77",
        f"mac_address={made['mac_address'].upper()}",
        "device_id=dev",
        f"security_groups={made['security_groups'][0]}",
    ):
        assert [p["id"] for p in seeded.ok("GET", f"/ports?{query}")["ports"]] == [made["id"]], (
            query
        )
    assert seeded.call("GET", "/ports?fixed_ips=x").status_code == 400


def test_other_projects_see_nothing(cloud: Cloud, many: list[dict[str, Any]]) -> None:
    """S19"""
    assert names(cloud, "", "other:member") == []
    assert names(cloud, f"id={many[0]['id']}", "other:member") == []
    missing = cloud.call(
        "GET", "/networks/" + "0" * 8 + "-0000-4000-8000-" + "0" * 12, "other:member"
    )
    foreign = cloud.call("GET", f"/networks/{many[0]['id']}", "other:member")
    assert (missing.status_code, foreign.status_code) == (404, 404)
    assert foreign.json["NeutronError"]["type"] == "NetworkNotFound"
    for method in ("PUT", "DELETE"):
        body = {"network": {"name": "x"}} if method == "PUT" else None
        assert (
            cloud.call(method, f"/networks/{many[0]['id']}", "other:member", body).status_code
            == 404
        )
    assert len(names(cloud, "", "admin:admin")) == 5
