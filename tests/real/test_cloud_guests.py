"""One cloud, at most two guests at a time: what a user meets from POST /servers to a shell in the guest.

The tests build on each other in their order (a guest by software emulation is dear); run the file as a whole.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kilonova.agent.helper import names
from tests.consoles import log_in_prompt, opened
from tests.real.cloud import NETWORK, RealCloud, Server, new_key, running_cloud
from tests.real.outside import Outside, comes_in, missing, said, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]

ANNA_SAYS = """#!/bin/sh
echo "hello from user data of $(hostname)"
listen tcp 8080 anna-8080
listen tcp 8081 anna-8081
"""
BERT_SAYS = """#!/bin/sh
echo "drive for $(hostname)"
listen tcp 8080 bert-8080
"""


@dataclass
class World:
    """What the tests share. idle: the host before the first server."""

    cloud: RealCloud
    outside: Outside
    key: Path
    idle: dict[str, list[str]]
    anna: Server
    bert: Server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_cloud(outside=True) as (cloud, outside):
        assert outside is not None
        key = new_key(tmp_path_factory.mktemp("key"), cloud)
        idle = cloud.idle()
        private = cloud.one(f"{NETWORK}/networks", "networks", name="private")["id"]
        image = cloud.one("/image/v2/images", "images", name="tiny-linux")["id"]
        anna = cloud.boot(
            "anna",
            key_name="test",
            user_data=ANNA_SAYS,
            metadata={"color": "green"},
            networks=[{"uuid": private, "tag": "front"}],
            block_device_mapping_v2=[
                {
                    "boot_index": 0, "uuid": image, "source_type": "image",
                    "destination_type": "local", "tag": "system",
                    "delete_on_termination": True,
                }
            ],
        )  # fmt: skip
        bert = cloud.boot(
            "bert",
            key_name="test",
            user_data=BERT_SAYS,
            config_drive=True,
            networks=[{"uuid": private, "tag": "back"}],
        )
        yield World(cloud, outside, key, idle, anna, bert)


def test_metadata_service(world: World) -> None:
    """Address by DHCP; name, key, user data, tags from the metadata service alone. TAG-8"""
    anna = world.anna
    with timed("create → ACTIVE and GUEST READY, two at once"):
        shown = anna.status("ACTIVE")
        ready = anna.ready()
    assert f"uuid={anna.id}" in ready
    assert "hostname=anna" in ready
    assert "source=http" in ready
    assert "keys=1" in ready
    text, port = anna.console(), anna.port()
    mac, fixed = port["mac_address"], port["fixed_ips"][0]["ip_address"]
    nic = re.search(r"GUEST NIC name=eth0 mac=(\S+) mtu=(\d+) ip=(\S+)/24", text)
    assert nic is not None, text
    network = world.cloud.one(f"{NETWORK}/networks", "networks", name="private")
    assert (nic[1], int(nic[2]), nic[3]) == (mac, network["mtu"], fixed)
    assert shown["addresses"]["private"][0]["addr"] == fixed
    assert shown["power_state"] if "power_state" in shown else shown["OS-EXT-STS:power_state"] == 1
    assert "GUEST USER-DATA hello from user data of anna" in text
    assert "GUEST USER-DATA rc=0" in text
    assert "GUEST CONFIG-DRIVE" not in text
    tags = re.findall(
        r"GUEST TAG type=(\S+) bus=(\S+) address=(\S+) mac=(\S*) serial=(\S*) tags=(\S+)", text
    )
    assert {(t[0], t[5]) for t in tags} == {("nic", "front"), ("disk", "system")}
    assert next(t for t in tags if t[0] == "nic")[3] == mac
    disk = re.search(r"GUEST DISK name=vda .* pci=(\S+)", text)
    assert disk is not None
    assert disk[1] == next(t for t in tags if t[0] == "disk")[2]


def test_config_drive(world: World) -> None:
    """The same from the config drive alone: the metadata service was not asked. TAG-8"""
    bert = world.bert
    bert.status("ACTIVE")
    ready, text = bert.ready(), bert.console()
    assert f"uuid={bert.id}" in ready
    assert "hostname=bert" in ready
    assert "source=config-drive" in ready
    assert "keys=1" in ready
    assert "GUEST USER-DATA drive for bert" in text
    assert re.search(rf"GUEST TAG type=nic .* mac={bert.port()['mac_address']} .*tags=back", text)


def test_closed_until_a_rule_opens(world: World) -> None:
    """The default group lets nothing in; a rule opens its port and its removal closes it again."""
    cloud, outside, anna = world.cloud, world.outside, world.anna
    anna.attach_floating(world.key)
    # members of the group are let in, so the way is there; but nobody else comes in
    assert not outside.reaches(anna.address, 8080, 3.0)
    assert not comes_in(anna.address, 22)
    for _ in range(3):
        rule = cloud.allow("tcp", 8080)
        began = time.monotonic()
        until(lambda: comes_in(anna.address, 8080, 0.2), "8080 opens", pause_s=0.01)
        print(f"time: rule added → port open: {time.monotonic() - began:.2f} s")
        until(lambda: said(anna.address, 8080) == b"anna-8080\n", "the guest answers there")
        until(lambda: outside.reaches(anna.address, 8080), "packets from outside come in")
        assert not comes_in(anna.address, 8081)
        cloud.refuse(rule)
        began = time.monotonic()
        until(lambda: not comes_in(anna.address, 8080, 0.2), "8080 closes", pause_s=0.01)
        print(f"time: rule removed → port closed: {time.monotonic() - began:.2f} s")


def test_ssh_by_floating_address(world: World) -> None:
    """A floating address reaches the guest; the key opens it, for both users, and no other key does."""
    anna, bert = world.anna, world.bert
    world.cloud.allow("tcp", 22)
    bert.attach_floating(world.key)
    for server in (anna, bert):
        server.answers_ssh()
        assert server.tell("hostname; id -u").split() == [server.name, "0"]
        assert server.ssh("id -un", user="guest").stdout.strip() == "guest"
        addresses = [a["addr"] for a in server.show()["addresses"]["private"]]
        assert server.address in addresses
    assert "anna" in anna.tell(
        "wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json"
    )
    assert "green" in anna.tell(
        "wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json"
    )
    assert (
        anna.tell("wget -q -O - http://169.254.169.254/latest/meta-data/local-ipv4") == anna.fixed()
    )
    public = "wget -q -O - http://169.254.169.254/latest/meta-data/public-ipv4"
    until(lambda: anna.tell(public) == anna.address, "the metadata tell the floating address")


def test_neighbours_ping(world: World) -> None:
    """Two guests on one network ping each other, as members of one group; each has its own metadata."""
    for server, other in ((world.anna, world.bert), (world.bert, world.anna)):
        assert server.reaches(other.fixed())
        assert (
            server.tell(f"nc -w 3 {other.fixed()} 8080 </dev/null").strip() == f"{other.name}-8080"
        )


def test_spoofing_is_dropped(world: World) -> None:
    """A guest cannot send from an address or a MAC that is not its own, nor claim a neighbour's by ARP."""
    anna, bert = world.anna, world.bert
    base, mac = bert.fixed().rsplit(".", 1)[0], anna.port()["mac_address"]
    false = f"{base}.222"
    anna.tell(f"ip address add {false}/24 dev eth0")
    assert anna.ssh(f"ping -c 2 -W 1 -I {false} {bert.fixed()}").returncode != 0
    assert anna.ssh(f"ping -c 2 -W 1 {bert.fixed()}").returncode == 0
    assert false not in bert.tell(
        f"ping -c 1 -W 1 {false} >/dev/null; ip neigh | grep lladdr || true"
    )
    anna.tell(f"ip address del {false}/24 dev eth0")
    script = (
        f"ip link set eth0 address fa:16:3e:00:be:ef; ping -c 3 -W 1 {bert.fixed()} >/dev/null;"
        f" echo LIE rc=$? >/dev/console; ip link set eth0 address {mac};"
        f" ping -c 3 -W 1 {bert.fixed()} >/dev/null; echo TRUTH rc=$? >/dev/console"
    )
    anna.tell(f"setsid sh -c '{script}' >/dev/null 2>&1 &")
    assert anna.says(r"LIE rc=(\d+)", 30)[1] != "0"
    assert anna.says(r"TRUTH rc=(\d+)", 30)[1] == "0"


def test_out_by_snat_and_names(world: World) -> None:
    """A guest reaches out, by its floating address or by the router's, and resolves names of the world outside."""
    cloud, outside, anna, bert = world.cloud, world.outside, world.anna, world.bert
    assert outside.address in anna.ssh("nslookup outside.test").stdout
    path = f"{NETWORK}/floatingips"
    mine = cloud.one(path, "floatingips", floating_ip_address=bert.address)["id"]
    with outside.bind() as listener:
        port = listener.getsockname()[1]
        word = f"until nc -w 3 outside.test {port} </dev/null | grep out-there; do sleep 0.3; done"
        for server in (anna, bert):
            server.tell(f"setsid sh -c '{word}; echo WENT-OUT >/dev/console' >/dev/null 2>&1 &")
        cloud.client().call("DELETE", f"{path}/{mine}")
        until(lambda: not comes_in(bert.address, 22, 0.3), "the floating address is gone")
        listener.listen()
        for _ in (anna, bert):
            sock, peer = listener.accept()
            with sock:
                sock.sendall(b"out-there\n")
            assert peer[0] == outside.host  # behind this machine's own address
    for server in (anna, bert):  # bert by the router's address, anna by her own
        server.says("WENT-OUT")


def test_console_log_is_what_the_guest_printed(world: World) -> None:
    """The console log is what the guest printed, as long as asked for."""
    anna = world.anna
    anna.tell("for i in 1 2 3; do echo line-$i-of-mine; done >/dev/console")
    anna.says("line-3-of-mine")
    # as with Nova, what comes after the last line break is a line too
    assert anna.console(3).split() == ["line-2-of-mine", "line-3-of-mine"]
    assert "GUEST START" in anna.console()


def test_display_and_serial_port_by_websocket(world: World) -> None:
    """The display speaks RFB; the serial port is the guest's own login. S28"""
    world.anna.ready()

    def console(protocol: str, type_: str) -> Any:
        asked = {"remote_console": {"protocol": protocol, "type": type_}}
        client = world.cloud.client()
        made = client.call("POST", f"{world.anna.path}/remote-consoles", asked)
        return opened(made["remote_console"]["url"])

    with console("vnc", "novnc") as display:
        assert display.recv(timeout=30) == b"RFB 003.008\n"
    with console("serial", "serial") as port:
        log_in_prompt(port)


def test_pause_suspend_resume(world: World) -> None:
    """A paused guest stands still and goes on; a suspended one leaves the host and comes back as it was."""
    anna = world.anna
    anna.tell("echo still-here >/run/mark")
    pid = anna.qemu()
    anna.act("pause")
    anna.status("PAUSED")
    assert said(anna.address, 22, 1.0) is None
    assert anna.qemu() == pid
    anna.act("unpause")
    anna.status("ACTIVE")
    until(lambda: said(anna.address, 22), "SSH answers again")
    assert anna.tell("cat /run/mark").strip() == "still-here"
    with timed("suspend"):
        anna.act("suspend")
        anna.status("SUSPENDED")
    assert anna.qemu() is None
    with timed("resume"):
        anna.act("resume")
        anna.status("ACTIVE")
    until(lambda: said(anna.address, 22), "SSH answers again")
    assert anna.tell("cat /run/mark").strip() == "still-here"


def test_reboots(world: World) -> None:
    """A soft reboot is obeyed by the guest; a hard one does not ask. Both keep disk, address, host key."""
    anna = world.anna
    before = anna.tell("cat /etc/dropbear/*_host_key | md5sum")
    with timed("reboot --soft → GUEST READY"):
        anna.act("reboot", {"type": "SOFT"})
        anna.ready(boots=2)
    anna.status("ACTIVE")
    assert "GUEST STOP" in anna.console()
    stops = anna.console().count("GUEST STOP")
    with timed("reboot --hard → GUEST READY"):
        anna.act("reboot", {"type": "HARD"})
        anna.ready(boots=3)
    anna.status("ACTIVE")
    assert anna.console().count("GUEST STOP") == stops
    assert anna.tell("cat /etc/dropbear/*_host_key | md5sum") == before


def test_stop_is_an_acpi_shutdown_and_states_follow_the_guest(world: World) -> None:
    """Stop presses the power button and the guest obeys; a guest that powers itself off becomes SHUTOFF."""
    anna = world.anna
    stops = anna.console().count("GUEST STOP")
    with timed("stop, obeyed by the guest"):
        anna.act("os-stop")
        shown = anna.status("SHUTOFF")
    assert shown["OS-EXT-STS:power_state"] == 4
    assert anna.console().count("GUEST STOP") == stops + 1
    assert "GUEST POWER button" in anna.console()
    assert anna.qemu() is None
    anna.act("os-start")
    anna.status("ACTIVE")
    anna.ready(boots=4)
    anna.ssh("poweroff")
    began = time.monotonic()
    shown = anna.status("SHUTOFF")
    print(f"time: poweroff inside → SHUTOFF: {time.monotonic() - began:.2f} s")
    assert shown["OS-EXT-STS:power_state"] == 4
    anna.act("os-start")
    anna.status("ACTIVE")
    anna.ready(boots=5)


def test_projects_with_one_subnet_do_not_meet(world: World) -> None:
    """Another project's guest has the very address of ours, and sees neither our router nor our metadata."""
    cloud, anna = world.cloud, world.anna
    world.bert.delete()
    carl = cloud.client("carl")
    cidr = cloud.env["KILONOVA_PRIVATE_CIDR"]
    network = carl.call("POST", f"{NETWORK}/networks", {"network": {"name": "private-2"}})[
        "network"
    ]
    subnet = {"network_id": network["id"], "cidr": cidr, "ip_version": 4}
    carl.call("POST", f"{NETWORK}/subnets", {"subnet": subnet})
    gateway = f"{cidr.rsplit('.', 1)[0]}.1"
    assert anna.ssh(f"ping -c 1 -W 2 {gateway}").returncode == 0
    script = (
        f"#!/bin/sh\nping -c 3 -W 1 {gateway} >/dev/null && echo MET || echo ALONE\n"
        f"ping -c 2 -W 1 {cidr.rsplit('.', 1)[0]}.2 >/dev/null && echo OWN-DHCP\n"
    )
    server = cloud.boot(
        "carl-1", "carl", user_data=script,
        networks=[{"uuid": network["id"], "fixed_ip": anna.fixed()}],
    )  # fmt: skip
    server.status("ACTIVE")
    ready = server.ready()
    assert f"uuid={server.id}" in ready
    assert "hostname=carl-1" in ready
    assert f"ip={anna.fixed()}/24" in server.console()
    assert "GUEST USER-DATA ALONE" in server.console()
    assert "GUEST USER-DATA OWN-DHCP" in server.console()
    assert anna.id in anna.tell(
        "wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json"
    )
    assert server.id not in [
        s["id"] for s in cloud.client().get("/compute/v2.1/servers")["servers"]
    ]
    server.delete()
    server.gone()
    carl.call("DELETE", f"{NETWORK}/networks/{network['id']}")


def test_delete_leaves_nothing(world: World) -> None:
    """After the last delete the host is as before the first create: no domain, disk, tap, namespace, lease."""
    cloud = world.cloud
    world.bert.gone()
    for one in cloud.client().get(f"{NETWORK}/floatingips")["floatingips"]:
        cloud.client().call("DELETE", f"{NETWORK}/floatingips/{one['id']}")
    with timed("delete"):
        world.anna.delete()
        world.anna.gone()
    cloud.check_ledger(world.idle)
    assert names.host_ns(cloud.tag) in world.idle["namespaces"]
    cloud.check_audit()
