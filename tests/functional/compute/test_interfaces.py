"""os-interface and the fixed IP actions on a whole simulated cloud: what they answer, refuse, and leave."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kilonova.common.ids import new_uuid
from tests.whole import Answer, Whole, running, until

V = "/compute/v2.1/servers"
N = "/network/v2.0"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running() as made:
        yield made


@pytest.fixture
def net(cloud: Whole) -> str:
    found = cloud.call("GET", f"{N}/networks?name=private").json["networks"]
    return str(found[0]["id"])


@pytest.fixture
def server(cloud: Whole) -> Iterator[str]:
    made = cloud.server()
    yield made
    cloud.gone(made)


def attach(cloud: Whole, server: str, version: str = "2.70", **fields: Any) -> Answer:
    body = {"interfaceAttachment": fields}
    return cloud.call("POST", f"{V}/{server}/os-interface", body, version=version)


def nics(cloud: Whole, server: str) -> list[dict[str, Any]]:
    got = cloud.call("GET", f"{V}/{server}/os-interface", version="2.70")
    found: list[dict[str, Any]] = got.json["interfaceAttachments"]
    return found


def wait_for(cloud: Whole, server: str, count: int) -> None:
    until(lambda: len(nics(cloud, server)) == count or None)
    cloud.settled(server)


def port(cloud: Whole, net: str) -> dict[str, Any]:
    got = cloud.call("POST", f"{N}/ports", {"port": {"network_id": net}})
    assert got.status == 201, got
    made: dict[str, Any] = got.json["port"]
    return made


def test_the_answer_shows_the_port_and_the_server_gets_it(
    cloud: Whole, server: str, net: str
) -> None:
    got = attach(cloud, server, net_id=net, tag="late")
    assert got.status == 200, got
    shown = got.json["interfaceAttachment"]
    assert set(shown) == {"net_id", "port_id", "mac_addr", "port_state", "fixed_ips", "tag"}
    assert (shown["net_id"], shown["tag"]) == (net, "late")
    address = shown["fixed_ips"][0]["ip_address"]
    cloud.settled(server)
    (nic,) = nics(cloud, server)
    assert {**nic, "port_state": 0} == {**shown, "port_state": 0}
    assert nic["port_state"] == "ACTIVE"
    addresses = cloud.call("GET", f"{V}/{server}").json["server"]["addresses"]
    assert [a["addr"] for a in addresses["private"]] == [address]
    owner = cloud.call("GET", f"{N}/ports/{shown['port_id']}").json["port"]
    assert (owner["device_id"], owner["device_owner"]) == (server, "compute:nova")
    gone = cloud.call("DELETE", f"{V}/{server}/os-interface/{shown['port_id']}")
    assert gone.status == 202 and gone.raw == b""
    wait_for(cloud, server, 0)
    assert cloud.call("GET", f"{V}/{server}").json["server"]["addresses"] == {}
    assert cloud.call("GET", f"{N}/ports/{shown['port_id']}").status == 404
    actions = cloud.call("GET", f"{V}/{server}/os-instance-actions").json["instanceActions"]
    assert {a["action"] for a in actions} >= {"attach_interface", "detach_interface"}


def test_a_users_port_comes_and_is_let_go(cloud: Whole, server: str, net: str) -> None:
    mine = port(cloud, net)
    got = attach(cloud, server, "2.1", port_id=mine["id"])
    assert got.json["interfaceAttachment"]["mac_addr"] == mine["mac_address"]
    assert "tag" not in got.json["interfaceAttachment"]
    again = attach(cloud, server, port_id=mine["id"])
    assert again.status == 409 and "in use" in again.json["conflictingRequest"]["message"]
    wait_for(cloud, server, 1)
    cloud.call("DELETE", f"{V}/{server}/os-interface/{mine['id']}")
    wait_for(cloud, server, 0)
    left = cloud.call("GET", f"{N}/ports/{mine['id']}").json["port"]
    assert (left["device_id"], left["status"]) == ("", "DOWN")


def test_without_a_network_the_projects_only_one_is_taken(
    cloud: Whole, server: str, net: str
) -> None:
    got = cloud.call("POST", f"{V}/{server}/os-interface", {})
    assert got.json["interfaceAttachment"]["net_id"] == net
    made = cloud.call("POST", f"{N}/networks", {"network": {"name": "second"}})
    second = made.json["network"]["id"]
    subnet = {"network_id": second, "cidr": "10.77.0.0/24", "ip_version": 4}
    cloud.call("POST", f"{N}/subnets", {"subnet": subnet})
    refused = attach(cloud, server)
    assert refused.status == 400
    assert "More than one possible network" in refused.json["badRequest"]["message"]
    wanted = attach(cloud, server, net_id=second, fixed_ips=[{"ip_address": "10.77.0.50"}])
    assert wanted.json["interfaceAttachment"]["fixed_ips"][0]["ip_address"] == "10.77.0.50"
    taken = attach(cloud, server, net_id=second, fixed_ips=[{"ip_address": "10.77.0.50"}])
    assert taken.status == 409 and "already in use" in taken.json["conflictingRequest"]["message"]
    wait_for(cloud, server, 2)
    cloud.call(
        "DELETE",
        f"{V}/{server}/os-interface/{wanted.json['interfaceAttachment']['port_id']}",
    )
    wait_for(cloud, server, 1)
    assert cloud.call("DELETE", f"{N}/networks/{second}").status == 204


@pytest.mark.parametrize(
    ("fields", "version", "status", "words"),
    [
        ({"net_id": "N", "port_id": "U"}, "2.70", 400, "both network_id and port_id"),
        ({"fixed_ips": [{"ip_address": "10.0.0.9"}]}, "2.70", 400, "Must input network_id"),
        ({"net_id": "U"}, "2.70", 404, "could not be found"),
        ({"port_id": "U"}, "2.70", 404, "could not be found"),
        ({"net_id": "N", "fixed_ips": [{"ip_address": "192.0.2.9"}]}, "2.70", 400, "not a valid"),
        ({"net_id": "N", "tag": "t"}, "2.48", 400, "Additional properties"),
        ({"net_id": "N", "tag": "a,b"}, "2.49", 400, "Invalid input"),
        ({"net_id": "N", "fixed_ips": []}, "2.1", 400, "Invalid input"),
    ],
)
def test_refusals(
    fields: dict[str, Any],
    version: str,
    status: int,
    words: str,
    cloud: Whole,
    server: str,
    net: str,
) -> None:
    stand_in = {"N": net, "U": new_uuid()}
    fields = {k: stand_in.get(v, v) if isinstance(v, str) else v for k, v in fields.items()}
    got = attach(cloud, server, version, **fields)
    assert got.status == status, got
    assert words in got.raw.decode()
    assert nics(cloud, server) == []


def test_states(cloud: Whole, server: str, net: str) -> None:
    """Stopped is fine, suspended is not; a port that is not its own is missing."""
    assert cloud.call("DELETE", f"{V}/{server}/os-interface/{new_uuid()}").status == 404
    cloud.call("POST", f"{V}/{server}/action", {"os-stop": None})
    cloud.settled(server)
    assert attach(cloud, server, net_id=net).status == 200
    cloud.call("POST", f"{V}/{server}/action", {"os-start": None})
    cloud.settled(server)
    cloud.call("POST", f"{V}/{server}/action", {"suspend": None})
    cloud.settled(server)
    got = attach(cloud, server, net_id=net)
    assert got.status == 409
    words = f"Cannot 'attach_interface' instance {server} while it is in vm_state suspended"
    assert got.json["conflictingRequest"]["message"] == words
    assert len(nics(cloud, server)) == 1


def test_locked(cloud: Whole, server: str, net: str) -> None:
    cloud.call("POST", f"{V}/{server}/action", {"lock": None})
    cloud.call("POST", f"{V}/{server}/action", {"lock": None}, who="admin")
    got = attach(cloud, server, net_id=net)
    assert got.status == 409 and "is locked" in got.raw.decode()
    cloud.call("POST", f"{V}/{server}/action", {"unlock": None}, who="admin")


def test_many_at_once(cloud: Whole, server: str, net: str) -> None:
    """What Terraform does: no request waits for the one before, and they come at the same time."""

    def one(_: int) -> Answer:
        try:
            return attach(cloud, server, net_id=net)
        finally:
            cloud.hang_up()

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(one, range(4)))
    assert [m.status for m in made] == [200] * 4
    stop = cloud.call("POST", f"{V}/{server}/action", {"os-stop": None})
    assert stop.status == 202
    cloud.settled(server)
    assert cloud.call("GET", f"{V}/{server}").json["server"]["status"] == "SHUTOFF"
    found = nics(cloud, server)
    assert len(found) == 4
    for nic in found:
        gone = cloud.call("DELETE", f"{V}/{server}/os-interface/{nic['port_id']}")
        assert gone.status == 202, gone
    wait_for(cloud, server, 0)


def test_fixed_ips(cloud: Whole, server: str, net: str) -> None:
    def act(name: str, **fields: Any) -> Answer:
        return cloud.call("POST", f"{V}/{server}/action", {name: fields}, version="2.43")

    assert act("addFixedIp", networkId=net).status == 404
    attach(cloud, server, net_id=net)
    wait_for(cloud, server, 1)
    assert act("addFixedIp", networkId=net).status == 202
    (nic,) = nics(cloud, server)
    assert len(nic["fixed_ips"]) == 2
    extra = nic["fixed_ips"][1]["ip_address"]
    assert act("removeFixedIp", address=extra).status == 202
    assert act("removeFixedIp", address=extra).status == 400
    assert len(nics(cloud, server)[0]["fixed_ips"]) == 1
    late = cloud.call(
        "POST", f"{V}/{server}/action", {"addFixedIp": {"networkId": net}}, version="2.44"
    )
    assert late.status == 404
