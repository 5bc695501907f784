"""Addresses: never two owners, never lost, whatever the order (hypothesis), whoever races."""

import ipaddress
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilonova.common.errors import Conflict, KilonovaError
from kilonova.db.engine import Tx
from kilonova.db.sql import Q
from kilonova.network.embedded import documents
from kilonova.network.embedded.schema import address, free_range
from kilonova.network.embedded.store import addresses, subnets
from kilonova.objects.netstate import Advert
from tests.functional.network.conftest import DEMO, Cloud, context

import sqlalchemy as sa  # isort: skip

_FREE = Q(sa.select(free_range).where(free_range.c.subnet_id == sa.bindparam("subnet_id")))
_TAKEN = Q(sa.select(address.c.num).where(address.c.subnet_id == sa.bindparam("subnet_id")))


def check_books(cloud: Cloud, subnet_id: str) -> None:
    """Free and taken make up the pools, without overlap, and neighbours are merged."""

    def body(tx: Tx) -> None:
        row = subnets.get(tx, subnet_id)
        pool = {n for a, b in addresses.pools_of(row) for n in range(a, b + 1)}
        ranges = sorted(
            (int(r["first"], 16), int(r["last"], 16)) for r in tx.all(_FREE, subnet_id=subnet_id)
        )
        free = [n for a, b in ranges for n in range(a, b + 1)]
        taken = {int(r[0], 16) for r in tx.all(_TAKEN, subnet_id=subnet_id)}
        assert len(free) == len(set(free))
        assert set(free) == pool - taken
        for (_, last), (first, _) in itertools.pairwise(ranges):
            assert first > last
            in_one = any(a <= last and first <= b for a, b in addresses.pools_of(row))
            assert first > last + 1 or not in_one

    cloud.database.read(body)


def network_of(cloud: Cloud, cidr: str, **fields: Any) -> tuple[str, str]:
    net = cloud.make("network", name="n")
    subnet = cloud.make("subnet", network_id=net["id"], cidr=cidr, ip_version=4, **fields)
    return net["id"], subnet["id"]


@given(
    st.lists(
        st.one_of(
            st.just("any"), st.integers(1, 14), st.tuples(st.just("drop"), st.integers(0, 20))
        ),
        max_size=40,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_books_balance_after_any_sequence(tmp_path_factory: Any, steps: list[Any]) -> None:
    cloud = Cloud(tmp_path_factory.mktemp("net"))
    try:
        net, subnet = network_of(
            cloud,
            "10.0.0.0/28",
            allocation_pools=[
                {"start": "10.0.0.2", "end": "10.0.0.6"},
                {"start": "10.0.0.7", "end": "10.0.0.12"},
            ],
        )
        live: list[str] = []
        for step in steps:
            if isinstance(step, tuple):
                if live:
                    cloud.ok("DELETE", "/ports/" + live.pop(step[1] % len(live)))
            else:
                fixed = {} if step == "any" else {"fixed_ips": [{"ip_address": f"10.0.0.{step}"}]}
                result = cloud.call("POST", "/ports", body={"port": {"network_id": net, **fixed}})
                assert result.status_code in (201, 409), result.text
                if result.status_code == 201:
                    live.append(result.json["port"]["id"])
            check_books(cloud, subnet)
    finally:
        cloud.close()


def test_a_full_pool_says_so_and_frees_again(cloud: Cloud) -> None:
    net, subnet = network_of(cloud, "10.0.0.0/29", enable_dhcp=False)
    made = [cloud.make("port", network_id=net) for _ in range(5)]
    assert len({p["fixed_ips"][0]["ip_address"] for p in made}) == 5
    full = cloud.call("POST", "/ports", body={"port": {"network_id": net}})
    assert full.status_code == 409
    assert full.json["NeutronError"]["type"] == "IpAddressGenerationFailure"
    with pytest.raises(Conflict):
        cloud.network.ensure_port(
            ("o", "i"), project_id=DEMO, device_id="s", host="h1", network_id=net
        )
    cloud.ok("DELETE", f"/ports/{made[2]['id']}")
    again = cloud.make("port", network_id=net)
    assert again["fixed_ips"] == made[2]["fixed_ips"]
    check_books(cloud, subnet)


def test_64_threads_ask_for_the_last_address(cloud: Cloud) -> None:
    net, subnet = network_of(
        cloud,
        "10.0.0.0/24",
        enable_dhcp=False,
        allocation_pools=[{"start": "10.0.0.9", "end": "10.0.0.9"}],
    )
    won: list[str] = []
    lost: list[KilonovaError] = []
    gate = threading.Barrier(64)

    def ask(i: int) -> None:
        gate.wait(30)
        try:
            p = cloud.network.ensure_port(
                (f"o{i}", "0"), project_id=DEMO, device_id=f"s{i}", host="h1", network_id=net
            )
            won.append(p.fixed_ips[0].ip_address)
        except Conflict as exc:
            lost.append(exc)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert (won, len(lost)) == (["10.0.0.9"], 63)
    check_books(cloud, subnet)


def test_64_threads_with_one_key_make_one_port(seeded: Cloud) -> None:
    plan = seeded.network.plan(context("demo:member"), DEMO, None)[0]
    made: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: made.append(
                seeded.network.ensure_port(
                    ("o", "0"),
                    project_id=DEMO,
                    device_id="s",
                    host="h1",
                    network_id=plan.network_id,
                ).port_id
            )
        )
        for _ in range(64)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(made) == 64 and len(set(made)) == 1


def test_pools_can_shrink_and_grow_under_ports(cloud: Cloud) -> None:
    net, subnet = network_of(cloud, "10.0.0.0/24", enable_dhcp=False)
    first = cloud.make("port", network_id=net)
    cloud.ok(
        "PUT",
        f"/subnets/{subnet}",
        body={"subnet": {"allocation_pools": [{"start": "10.0.0.100", "end": "10.0.0.101"}]}},
    )
    check_books(cloud, subnet)
    second = cloud.make("port", network_id=net)
    assert second["fixed_ips"][0]["ip_address"] == "10.0.0.100"
    cloud.ok("DELETE", f"/ports/{first['id']}")
    check_books(cloud, subnet)


def test_ipv6_by_pool_and_by_slaac(cloud: Cloud) -> None:
    net = cloud.make("network", name="v6")["id"]
    cloud.make("subnet", network_id=net, cidr="10.0.0.0/24", ip_version=4)
    cloud.make("subnet", network_id=net, cidr="fd00:1::/64", ip_version=6)
    cloud.make(
        "subnet",
        network_id=net,
        cidr="fd00:2::/64",
        ip_version=6,
        ipv6_address_mode="slaac",
        ipv6_ra_mode="slaac",
    )
    port = cloud.make("port", network_id=net, mac_address="fa:16:3e:11:22:33")
    found = [f["ip_address"] for f in port["fixed_ips"]]
    assert len(found) == 3
    assert found[2] == str(ipaddress.ip_address("fd00:2::f816:3eff:fe11:2233"))
    assert ipaddress.ip_address(found[1]) in ipaddress.ip_network("fd00:1::/64")


def test_a_router_advertises_what_its_subnets_ask_for(cloud: Cloud) -> None:
    """Only subnets with ipv6_ra_mode; DNS servers of the family, else the DHCP address."""
    net = cloud.make("network", name="v6")["id"]
    common = {"network_id": net, "ip_version": 6, "ipv6_address_mode": "slaac"}
    asks = cloud.make("subnet", cidr="fd00:2::/64", ipv6_ra_mode="slaac", **common)["id"]
    other = cloud.make("subnet", cidr="fd00:3::/64", **common)["id"]
    router = cloud.make("router", name="r")["id"]
    for subnet in (asks, other):
        cloud.ok("PUT", f"/routers/{router}/add_router_interface", body={"subnet_id": subnet})

    def adverts() -> list[Advert]:
        found = cloud.network.database.read(lambda tx: documents.routers(tx, [router]))
        return [a for _, state, _ in found for leg in state.interfaces for a in leg.adverts]

    dhcp = [
        f["ip_address"]
        for p in cloud.ok("GET", f"/ports?network_id={net}&device_owner=network:dhcp")["ports"]
        for f in p["fixed_ips"]
        if f["subnet_id"] == asks
    ]
    assert adverts() == [Advert(cidr="fd00:2::/64", mode="slaac", dns=tuple(dhcp))]
    cloud.ok("PUT", f"/subnets/{asks}", body={"subnet": {"dns_nameservers": ["fd00:2::53"]}})
    assert [a.dns for a in adverts()] == [("fd00:2::53",)]


def test_the_lowest_free_address_is_given_in_order(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    net, _ = network_of(cloud, "10.0.0.0/8")
    got = [cloud.make("port", network_id=net)["fixed_ips"][0]["ip_address"] for _ in range(3)]
    assert got == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]
    cloud.close()
