"""Debian with cloud-init in a real cloud: once by the metadata service alone, once by the config drive alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real.cloud import NETWORK, RealCloud, new_key, running_cloud
from tests.real.outside import build_image, missing, said, timed, until

_why = missing()
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(_why is not None, reason=str(_why)),
]

DEBIAN_S = 400.0
USER_DATA = """#cloud-config
write_files:
- path: /run/from-user-data
  content: {word}
runcmd:
- [sh, -c, "echo RUNCMD-{word} > /dev/console"]
"""


@dataclass
class World:
    cloud: RealCloud
    key: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    image = build_image("build-debian", "debian.qcow2")
    with running_cloud() as (cloud, _):
        key = new_key(tmp_path_factory.mktemp("key"), cloud)
        cloud.allow("tcp", 22)
        admin = cloud.client("admin")
        record = {
            "name": "debian", "disk_format": "qcow2", "container_format": "bare",
            "visibility": "public",
        }  # fmt: skip
        made = admin.call("POST", "/image/v2/images", record)
        cloud.upload(made["id"], image)
        yield World(cloud, key)


@pytest.mark.parametrize("drive", [False, True], ids=["metadata", "config-drive"])
def test_debian_with_cloud_init(world: World, drive: bool) -> None:
    """Key, host name, user data, DNS and MTU, from one source; SMBIOS says OpenStack Nova."""
    cloud, word = world.cloud, "drive" if drive else "service"
    server = cloud.boot(
        f"deb-{word}", flavor="t512", image="debian", key_name="test", config_drive=drive,
        user_data=USER_DATA.format(word=word),
    )  # fmt: skip
    with timed(f"POST → cloud-init is done, by {word}"):
        server.status("ACTIVE")
        server.attach_floating(world.key)
        done = server.says(r"GUEST READY cloud-init final: .*", DEBIAN_S).group()
    assert ("DataSourceConfigDrive" if drive else "DataSourceOpenStack") in done, done
    server.says(f"RUNCMD-{word}")
    until(lambda: said(server.address, 22), "SSH answers")

    def tell(command: str) -> str:
        answer = server.ssh(command, user="debian", timeout_s=90)
        assert answer.returncode == 0, answer
        return answer.stdout.strip()

    network = cloud.one(f"{NETWORK}/networks", "networks", name="private")
    dhcp = cloud.one(
        f"{NETWORK}/ports", "ports", "admin", network_id=network["id"], device_owner="network:dhcp"
    )
    assert tell("hostname") == server.name
    assert tell("cat /run/from-user-data") == word
    assert tell("cat /sys/class/dmi/id/product_name") == "OpenStack Nova"
    assert tell("sudo cat /sys/class/dmi/id/product_uuid").lower() == server.id
    nic = tell("ls -d /sys/class/net/e*").split("/")[-1]
    assert tell(f"cat /sys/class/net/{nic}/mtu") == str(network["mtu"])
    assert server.fixed() in tell(f"ip -4 address show dev {nic}")
    resolvers = tell("cat /etc/resolv.conf; resolvectl dns 2>/dev/null || true")
    assert dhcp["fixed_ips"][0]["ip_address"] in resolvers
    server.delete()
    server.gone()
    cloud.check_audit()
