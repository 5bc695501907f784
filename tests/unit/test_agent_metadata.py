"""The metadata documents, their paths, the config drive, and the store."""

import base64
import json
import shutil
import socket
import stat
import subprocess
from http import HTTPStatus
from pathlib import Path

import msgspec
import pytest

from kilonova.agent.metadata import configdrive, documents
from kilonova.agent.metadata.server import MetadataService
from kilonova.agent.metadata.store import FileMetadataStore
from kilonova.objects.guest import AddressConfig, DeviceAddress, MetadataDocument, NicConfig

NETWORK = "11111111-1111-4111-8111-111111111111"
NIC = NicConfig(
    port_id="22222222-2222-4222-8222-222222222222", network_id=NETWORK, mac="fa:16:3e:00:00:01",
    mtu=1400, floating_ip="172.24.4.9",
    addresses=(
        AddressConfig(
            address="192.168.7.11", cidr="192.168.7.0/24", gateway="192.168.7.1", dns=("192.168.7.2",)
        ),
    ),
)  # fmt: skip
DOCUMENT = MetadataDocument(
    server_id="33333333-3333-4333-8333-333333333333", generation=3, name="Hello ☃", hostname="hello",
    project_id="p1", availability_zone="nova", reservation_id="r-abc", instance_type="m1.nano",
    image_id="44444444-4444-4444-8444-444444444444", meta={"role": "db"},
    keys=(("mine", "ssh", "ssh-ed25519 AAAA x"),), user_data=base64.b64encode(b"#!/bin/sh\n\xff").decode(),
    security_groups=("default", "web"), networks=(NIC,),
    vendor_data={"static": msgspec.Raw(b'{"a": 1}'), "other": msgspec.Raw(b"[2]")},
)  # fmt: skip
DEVICES = (
    DeviceAddress(kind="nic", bus="pci", address="0000:00:03.0", mac=NIC.mac, tag="front"),
    DeviceAddress(
        kind="disk", bus="pci", address="0000:00:04.0", serial="v1", path="/dev/vdb", tag="data"
    ),
    DeviceAddress(kind="disk", bus="pci", address="0000:00:05.0"),
)


def read(path: str) -> bytes:
    found = documents.lookup(DOCUMENT, DEVICES, path)
    assert found is not None, path
    return found[1]


def test_devices_carry_their_tags() -> None:
    """TAG-8"""
    shown = json.loads(read("/openstack/latest/meta_data.json"))["devices"]
    assert shown == [
        {"type": "nic", "bus": "pci", "address": "0000:00:03.0", "mac": NIC.mac, "tags": ["front"]},
        {
            "type": "disk", "bus": "pci", "address": "0000:00:04.0", "serial": "v1",
            "path": "/dev/vdb", "tags": ["data"],
        },
    ]  # fmt: skip


@pytest.mark.parametrize("version", documents.OPENSTACK_VERSIONS)
def test_each_version_shows_what_it_had(version: str) -> None:
    shown = json.loads(read(f"/openstack/{version}/meta_data.json"))
    assert shown["uuid"] == DOCUMENT.server_id
    assert shown["public_keys"] == {"mine": "ssh-ed25519 AAAA x"}
    assert ("random_seed" in shown) is (version >= "2013-04-04")
    assert ("project_id" in shown) is (version >= "2015-10-15")
    assert ("devices" in shown) is (version >= "2016-06-30")
    listed = read(f"/openstack/{version}").decode().split("\n")
    assert ("network_data.json" in listed) is (version >= "2015-10-15")
    assert ("vendor_data2.json" in listed) is (version >= "2016-10-06")
    assert ("password" in listed) is (version >= "2013-04-04")
    assert read(f"/openstack/{version}/user_data") == b"#!/bin/sh\n\xff"


def test_vendor_data_and_network_data() -> None:
    assert json.loads(read("/openstack/latest/vendor_data.json")) == {"a": 1}
    assert json.loads(read("/openstack/latest/vendor_data2.json")) == {
        "static": {"a": 1},
        "other": [2],
    }
    data = json.loads(read("/openstack/latest/network_data.json"))
    assert data["links"][0]["ethernet_mac_address"] == NIC.mac
    assert data["networks"][0]["type"] == "ipv4_dhcp"
    assert data["services"] == [{"type": "dns", "address": "192.168.7.2"}]
    static = NIC.replace(addresses=(NIC.addresses[0].replace(dhcp=False),))
    shown = documents.network_data(DOCUMENT.replace(networks=(static,)))["networks"][0]
    assert (shown["ip_address"], shown["netmask"]) == ("192.168.7.11", "255.255.255.0")
    assert shown["routes"] == [
        {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.168.7.1"}
    ]


def test_network_data_says_how_an_ipv6_address_is_made() -> None:
    """source: Nova, network_data.json: the type of a network is the subnet's ipv6_address_mode."""
    address = AddressConfig(address="fd00::1", cidr="fd00::/64", ipv6_mode="slaac")
    nic = NIC.replace(addresses=(address, address.replace(ipv6_mode=None)))
    shown = documents.network_data(DOCUMENT.replace(networks=(nic,)))
    assert [n["type"] for n in shown["networks"]] == ["ipv6_slaac", "ipv6_dhcp"]


def test_ec2_tree() -> None:
    assert read("/latest/meta-data/local-ipv4") == b"192.168.7.11"
    assert read("/latest/meta-data/public-ipv4") == b"172.24.4.9"
    assert read("/latest/meta-data/instance-id") == b"i-33333333"
    assert read("/latest/meta-data/public-keys/") == b"0=mine"
    assert read("/latest/meta-data/public-keys/0/openssh-key") == b"ssh-ed25519 AAAA x"
    assert read("/latest/meta-data/placement/availability-zone") == b"nova"
    assert read("/latest/meta-data/security-groups") == b"default\nweb"
    assert b"placement/" in read("/2009-04-04/meta-data/").split(b"\n")
    assert b"placement/" not in read("/2007-12-15/meta-data").split(b"\n")
    assert (
        read("/latest") == b"meta-data/\nuser-data" or read("/latest") == b"meta-data/\nuser-data"
    )
    assert read("/latest/user-data") == b"#!/bin/sh\n\xff"
    assert read("/").split(b"\n")[-1] == b"latest"
    for missing in (
        "/2031-01-01",
        "/latest/meta-data/x",
        "/openstack/latest/x",
        "/latest/user-data/x",
    ):
        assert documents.lookup(DOCUMENT, DEVICES, missing) is None, missing


@pytest.mark.skipif(shutil.which("genisoimage") is None, reason="needs genisoimage")
def test_config_drive_has_the_same_documents_and_the_password(tmp_path: Path) -> None:
    """TAG-8: tags on the config drive; the admin password is on it and in no metadata answer."""
    target = configdrive.build(DOCUMENT, DEVICES, tmp_path / "drive.iso", admin_password="s3cret")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.read_bytes()[16 * 2048 + 40 :].startswith(b"config-2 ")
    shown = subprocess.run(
        ["isoinfo", "-R", "-i", str(target), "-x", "/openstack/latest/meta_data.json"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    data = json.loads(shown)
    assert data["admin_pass"] == "s3cret"
    assert data["devices"][0]["tags"] == ["front"]
    assert list(tmp_path.iterdir()) == [target]


def test_store_keeps_the_newest_and_survives(tmp_path: Path) -> None:
    store = FileMetadataStore(tmp_path / "m")
    store.put(DOCUMENT.replace(admin_password="s3cret"), DEVICES)
    store.put(DOCUMENT.replace(generation=2, name="old"), None)
    again = FileMetadataStore(tmp_path / "m")
    served = again.find(NETWORK, "192.168.7.11")
    assert served is not None
    assert (served.document.name, served.devices) == ("Hello ☃", DEVICES)
    assert served.document.admin_password is None
    (file,) = (tmp_path / "m").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"s3cret" not in file.read_bytes()
    moved = NIC.replace(addresses=(NIC.addresses[0].replace(address="192.168.7.12"),))
    again.put(DOCUMENT.replace(generation=4, networks=(moved,)), None)
    assert again.find(NETWORK, "192.168.7.11") is None
    assert again.find(NETWORK, "192.168.7.12") is not None
    plugged = DEVICES[0].replace(mac="fa:16:3e:00:00:99", tag="late")
    again.plugged(DOCUMENT.server_id, plugged)
    again.plugged(DOCUMENT.server_id, plugged)
    late = FileMetadataStore(tmp_path / "m").get(DOCUMENT.server_id)
    assert late is not None
    assert late.devices == (*DEVICES, plugged)
    again.unplugged(DOCUMENT.server_id, "fa:16:3e:00:00:99")
    again.unplugged(DOCUMENT.server_id, "fa:16:3e:00:00:99")
    late = again.get(DOCUMENT.server_id)
    assert late is not None
    assert late.devices == DEVICES
    again.remove(DOCUMENT.server_id)
    again.remove(DOCUMENT.server_id)
    assert again.find(NETWORK, "192.168.7.12") is None
    assert list((tmp_path / "m").iterdir()) == []


def test_password_is_posted_once_and_strangers_get_nothing(tmp_path: Path) -> None:
    def no_socket(network_id: str) -> socket.socket:
        raise OSError("no namespace here")

    told: list[tuple[str, str]] = []
    store = FileMetadataStore(tmp_path / "m")
    store.put(DOCUMENT, DEVICES)
    service = MetadataService(store, no_socket, lambda server, text: told.append((server, text)))
    try:
        here, path = (NETWORK, "192.168.7.11"), "/openstack/latest/password"
        assert service.answer(*here, "GET", path, b"")[::2] == (HTTPStatus.OK, b"")
        assert service.answer(*here, "POST", path, b"x" * 2000)[0] == HTTPStatus.BAD_REQUEST
        assert service.answer(*here, "POST", path, b"enc")[0] == HTTPStatus.OK
        assert service.answer(*here, "POST", path, b"two")[0] == HTTPStatus.CONFLICT
        assert service.answer(*here, "GET", path, b"")[2] == b"enc"
        assert told == [(DOCUMENT.server_id, "enc")]
        assert service.answer(NETWORK, "192.168.7.12", "GET", "/", b"")[0] == HTTPStatus.NOT_FOUND
        assert service.answer(*here, "PUT", "/latest", b"")[0] == HTTPStatus.METHOD_NOT_ALLOWED
        kind = service.answer(*here, "GET", "/openstack/latest/user_data", b"")[1]
        assert kind == "application/octet-stream"
    finally:
        service.close()
