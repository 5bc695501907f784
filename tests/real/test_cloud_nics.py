"""A NIC comes to a guest that runs, and goes again: the guest sees both, and the metadata tells of it."""

import json

import pytest

from kilonova.agent.helper import names
from tests.real.cloud import COMPUTE, NETWORK, new_key, running_cloud
from tests.real.outside import missing, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]


def test_a_nic_is_plugged_and_unplugged(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_cloud(outside=True) as (cloud, _):
        key = new_key(tmp_path_factory.mktemp("key"), cloud)
        private = cloud.one(f"{NETWORK}/networks", "networks", name="private")["id"]
        made = cloud.client().call("POST", f"{NETWORK}/networks", {"network": {"name": "second"}})
        second = made["network"]["id"]
        subnet = {"network_id": second, "cidr": "10.88.0.0/24", "ip_version": 4, "gateway_ip": None}
        cloud.client().call("POST", f"{NETWORK}/subnets", {"subnet": subnet})
        guest = cloud.boot("carl", key_name="test", networks=[{"uuid": private}])
        guest.status("ACTIVE")
        guest.ready()
        guest.attach_floating(key)
        cloud.allow("tcp", 22)
        guest.answers_ssh()
        path = f"{COMPUTE}/servers/{guest.id}/os-interface"
        body = {"interfaceAttachment": {"net_id": second, "tag": "late"}}
        with timed("attach → the guest has its address"):
            nic = cloud.client().call("POST", path, body)["interfaceAttachment"]
            address, mac = nic["fixed_ips"][0]["ip_address"], nic["mac_addr"]
            guest.says(rf"GUEST PLUG nic=eth1 mac={mac} ip={address}")
        guest.status("ACTIVE")
        told = json.loads(
            guest.tell("wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json")
        )
        assert [d["tags"] for d in told["devices"] if d.get("mac") == mac] == [["late"]]
        where = next(d["address"] for d in told["devices"] if d.get("mac") == mac)
        assert where in guest.tell("readlink -f /sys/class/net/eth1/device")
        net = json.loads(
            guest.tell("wget -q -O - http://169.254.169.254/openstack/latest/network_data.json")
        )
        assert {link["ethernet_mac_address"] for link in net["links"]} >= {mac}
        tap = names.tap(nic["port_id"])
        assert tap in cloud.ledger()["links"]
        with timed("detach → gone from the guest"):
            cloud.client().call("DELETE", f"{path}/{nic['port_id']}")
            guest.says(r"GUEST UNPLUG nic=eth1")
        until(
            lambda: len(cloud.client().get(path)["interfaceAttachments"]) == 1,
            "the interface is gone from the list",
        )
        guest.status("ACTIVE")
        told = json.loads(
            guest.tell("wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json")
        )
        assert mac not in [d.get("mac") for d in told["devices"]]
        cloud.check_audit()
