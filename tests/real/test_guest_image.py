"""Boot both guest images in plain QEMU and read what they found.

Needs QEMU, genisoimage and ssh, and a Debian mirror or a filled cache (KILONOVA_CACHE);
the Debian image needs root to be built. User-mode network: nothing is changed on the host.
"""

import contextlib
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parents[2] / "guest-image"
SERVER_ID = "83679162-1378-4288-a2d4-70e13ec132aa"
MAC = "52:54:00:12:34:56"
NEEDED = (
    "qemu-system-x86_64",
    "qemu-img",
    "genisoimage",
    "ssh",
    "ssh-keygen",
    "apt-get",
    "dpkg-deb",
)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in NEEDED), reason=f"needs {', '.join(NEEDED)}"
    ),
]

# One request on stdin, one answer on stdout: QEMU starts it for each connection to 169.254.169.254.
METADATA_SERVICE = """
import pathlib, sys
path = sys.stdin.buffer.readline().decode().split(" ")[1].rstrip("/")
while sys.stdin.buffer.readline().strip():
    pass
root = pathlib.Path(sys.argv[1])
if path == "/openstack":
    body = b"2018-08-27\\nlatest\\n"
else:
    file = root / path.lstrip("/").replace("2018-08-27", "latest")
    body = file.read_bytes() if file.is_file() else None
status = b"404 Not Found" if body is None else b"200 OK"
body = body or b""
head = b"HTTP/1.0 %s\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % (status, len(body))
sys.stdout.buffer.write(head + body)
"""


@dataclass
class Guest:
    """A running QEMU: its console so far, its monitor and the host port that leads to ssh."""

    process: subprocess.Popen[bytes]
    monitor: Path
    ssh_port: int
    key: Path
    console: str = ""

    def wait_for(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Read the console until ``pattern`` is complete on it; fail with its end otherwise."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        console = select.poll()  # select() takes no descriptor beyond 1,023
        console.register(self.process.stdout, select.POLLIN)
        while (found := re.search(pattern, self.console)) is None:
            left = deadline - time.monotonic()
            readable = console.poll(max(left, 0) * 1000)
            data = os.read(self.process.stdout.fileno(), 65536) if readable else b""
            assert data, f"{pattern!r} did not appear:\n{self.console[-3000:]}"
            self.console += data.decode(errors="replace").replace("\r", "")
        return found

    def ssh(self, user: str, command: str) -> str:
        options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ]
        words = [word for option in options for word in ("-o", option)]
        return subprocess.run(
            [
                "ssh",
                "-i",
                str(self.key),
                *words,
                "-p",
                str(self.ssh_port),
                f"{user}@127.0.0.1",
                command,
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    def press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor))
            monitor.sendall(b'{"execute":"qmp_capabilities"}{"execute":"system_powerdown"}')
            answers = b""
            while answers.count(b'"return"') < 2:  # closing earlier would drop the command
                data = monitor.recv(4096)
                assert data, answers
                answers += data


@dataclass
class Bench:
    """Where one test keeps its key, metadata and sockets."""

    directory: Path
    key: Path

    def config_drive(self) -> Path:
        iso = self.directory / "config.iso"
        subprocess.run(
            [
                "genisoimage",
                "-quiet",
                "-J",
                "-r",
                "-V",
                "config-2",
                "-o",
                str(iso),
                str(self.directory / "drive"),
            ],
            check=True,
            capture_output=True,
        )
        return iso

    @contextlib.contextmanager
    def boot(self, image: Path, *more: str, metadata: bool, memory_mib: int) -> Iterator[Guest]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        service = self.directory / "service.py"
        service.write_text(METADATA_SERVICE)
        net = "user,id=n,net=169.254.0.0/16,host=169.254.0.2,dhcpstart=169.254.0.15,restrict=on"
        net += f",hostfwd=tcp:127.0.0.1:{port}-:22"
        if metadata:
            command = f"{sys.executable} -I {service} {self.directory / 'drive'}"
            net += f",guestfwd=tcp:169.254.169.254:80-cmd:{command}"
        monitor = self.directory / "qmp"
        # fmt: off
        process = subprocess.Popen(
            ["nice", "-n", "10", "qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-nodefaults",
             "-display", "none", "-serial", "stdio", "-no-reboot", "-m", str(memory_mib),
             "-qmp", f"unix:{monitor},server=on,wait=off", "-smbios", "type=1,product=OpenStack Nova",
             "-drive", f"file={image},if=virtio,format=qcow2,snapshot=on",
             "-netdev", net, "-device", f"virtio-net-pci,netdev=n,mac={MAC},romfile=", *more],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        # fmt: on
        try:
            yield Guest(process, monitor, port, self.key)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def drive_option(iso: Path) -> tuple[str, str]:
    return "-drive", f"file={iso},if=virtio,format=raw,readonly=on"


@pytest.fixture
def bench() -> Iterator[Bench]:
    # not tmp_path: its long name does not fit into a socket address
    with tempfile.TemporaryDirectory(prefix="guest-") as name:
        directory = Path(name)
        key = directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        latest = directory / "drive/openstack/latest"
        latest.mkdir(parents=True)
        meta = {
            "uuid": SERVER_ID,
            "hostname": "web-1.example.org",
            "name": "web-1",
            "public_keys": {"mine": key.with_suffix(".pub").read_text()},
            "devices": [
                {
                    "type": "nic",
                    "bus": "pci",
                    "address": "0000:00:03.0",
                    "mac": MAC,
                    "tags": ["a", "b"],
                },
                {
                    "type": "disk",
                    "bus": "pci",
                    "address": "0000:00:02.0",
                    "serial": "s",
                    "tags": ["c"],
                },
            ],
        }
        link = {
            "id": "tap0",
            "vif_id": "x",
            "type": "ovs",
            "mtu": 1400,
            "ethernet_mac_address": MAC,
        }
        network = {"id": "network0", "type": "ipv4_dhcp", "link": "tap0", "network_id": "n"}
        (latest / "meta_data.json").write_text(json.dumps(meta))
        (latest / "network_data.json").write_text(
            json.dumps({"links": [link], "networks": [network], "services": []})
        )
        (latest / "vendor_data.json").write_text("{}")
        (latest / "user_data").write_text("#!/bin/sh\necho hello from $(hostname) >/dev/ttyS0\n")
        yield Bench(directory, key)


def built(script: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = tmp_path_factory.mktemp("image") / "image.qcow2"
    made = subprocess.run(
        ["nice", "-n", "10", str(BUILD / script), str(image)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert made.returncode == 0, made.stderr
    return image


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("build", tmp_path_factory)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("build-debian needs root")
    return built("build-debian", tmp_path_factory)


def test_building_again_changes_nothing(tiny: Path) -> None:
    before = tiny.stat()
    again = subprocess.run(
        [str(BUILD / "build"), str(tiny)], capture_output=True, text=True, check=True
    )
    assert "up to date" in again.stdout
    assert tiny.stat() == before


def test_tiny_guest_reads_metadata_and_serves_ports(tiny: Path, bench: Bench) -> None:
    with bench.boot(tiny, metadata=True, memory_mib=192) as guest:
        ready = guest.wait_for(r"GUEST READY (.*)\n", 120).group(1)
        assert f"uuid={SERVER_ID} hostname=web-1 source=http keys=1" in ready
        assert f"GUEST NIC name=eth0 mac={MAC} mtu=1500 ip=169.254.0.15/16" in guest.console
        assert (
            f"GUEST TAG type=nic bus=pci address=0000:00:03.0 mac={MAC} serial= tags=a,b"
            in guest.console
        )
        assert (
            "GUEST TAG type=disk bus=pci address=0000:00:02.0 mac= serial=s tags=c" in guest.console
        )
        assert "GUEST USER-DATA rc=0" in guest.console
        assert guest.ssh("guest", "hostname; id -un").split() == ["web-1", "guest"]
        guest.ssh("guest", "listen tcp 7000 tea; listen udp 7001 milk")
        for ask, answer in (
            ("nc 127.0.0.1 7000", "tea"),
            ("echo | nc.openbsd -u -w 2 127.0.0.1 7001", "milk"),
        ):
            # the first tries may come before the listener is there
            tries = f"for t in 1 2 3 4 5; do {ask} | grep {answer} && break; sleep 1; done"
            assert guest.ssh("guest", tries).strip() == answer
        guest.press_power_button()
        guest.wait_for("GUEST POWER button", 30)
        assert guest.process.wait(60) == 0


def test_tiny_guest_reads_a_config_drive(tiny: Path, bench: Bench) -> None:
    option = drive_option(bench.config_drive())
    with bench.boot(tiny, *option, metadata=False, memory_mib=192) as guest:
        ready = guest.wait_for(r"GUEST READY (.*)\n", 120).group(1)
        assert f"uuid={SERVER_ID} hostname=web-1 source=config-drive keys=1" in ready
        assert "hello from web-1" in guest.console


@pytest.mark.slow
@pytest.mark.parametrize("source", ["DataSourceOpenStackLocal", "DataSourceConfigDrive"])
def test_cloud_init_finishes(debian: Path, bench: Bench, source: str) -> None:
    metadata = source == "DataSourceOpenStackLocal"
    option = () if metadata else drive_option(bench.config_drive())
    with bench.boot(debian, *option, metadata=metadata, memory_mib=512) as guest:
        final = guest.wait_for(r"GUEST READY cloud-init final: .* datasource (\w+) .*uptime", 240)
        assert final.group(1) == source
        assert "hello from web-1" in guest.console
        assert guest.ssh("debian", "hostname; cat /sys/class/net/eth0/mtu").split() == [
            "web-1",
            "1400",
        ]
        assert "status: done" in guest.ssh("debian", "cloud-init status")
        guest.press_power_button()
        assert guest.process.wait(120) == 0
