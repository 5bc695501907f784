"""What tests of a real cloud stand on: what the machine must have, guest images, and a world outside the cloud."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.agent.helper.run import CommandFailed, inside, ip, run
from tests.real import netguest

REPOSITORY = Path(__file__).resolve().parents[2]
GUARD_S = 60.0
NEEDED = (
    "qemu-system-x86_64", "qemu-img", "libvirtd", "virsh", "dnsmasq", "nft", "ip", "genisoimage",
    "ssh", "ssh-keygen", "apt-get", "dpkg-deb",
)  # fmt: skip


def missing() -> str | None:
    """Return why real guests cannot run here, or None."""
    if os.geteuid() != 0:
        return "real guests need root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [p for p in NEEDED if shutil.which(p, path=path) is None]
    return f"needs {', '.join(lacking)}" if lacking else netguest.missing()


def cache() -> Path:
    return Path(os.environ.get("KILONOVA_CACHE", "/var/cache/kilonova"))


def build_image(program: str, name: str, *options: str) -> Path:
    """Return a guest image, built unless it is up to date; skips when it cannot be built. options: of the program."""
    target = cache() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [REPOSITORY / "guest-image" / program, "--cache", cache(), *options, target],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"guest-image/{program} failed: {done.stderr.strip()[-300:]}")
    return target


def until(ask: Callable[[], Any], what: str, guard_s: float = GUARD_S, pause_s: float = 0.1) -> Any:
    """Ask until the answer is true and return it."""
    deadline = time.monotonic() + guard_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"never happened within {guard_s:.0f} s: {what}"
        time.sleep(pause_s)
    return answer


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something took; nothing is asserted about it."""
    began = time.monotonic()
    yield
    print(f"time: {what}: {time.monotonic() - began:.2f} s")


class Outside:
    """The world beyond the cloud: a namespace with an address, a resolver and a listener of its own."""

    def __init__(self, directory: Path) -> None:
        self.ns = f"kntest-out-{secrets.token_hex(3)}"
        self.link = f"knt{self.ns[-6:]}"
        net = f"198.18.{secrets.randbelow(254) + 1}"
        self.host, self.address = f"{net}.1", f"{net}.2"
        run(["ip", "netns", "add", self.ns])
        ip([f"link add {self.link} type veth peer name eth0 netns {self.ns}"])
        ip([f"address add {self.host}/24 dev {self.link}", f"link set {self.link} up"])
        ip(
            [f"address add {self.address}/24 dev eth0", "link set eth0 up", "link set lo up"],
            self.ns,
        )
        ip([f"route add default via {self.host}"], self.ns)
        self._dns = subprocess.Popen(
            [
                "nsenter", f"--net=/run/netns/{self.ns}", "dnsmasq", "--conf-file=/dev/null",
                "--no-hosts", "--no-resolv", "--keep-in-foreground", f"--listen-address={self.address}",
                "--bind-interfaces", f"--address=/outside.test/{self.address}", "--pid-file",
                "--user=root", "--log-facility=-",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text(f"nameserver {self.address}\n")
        self.resolv_conf.chmod(0o644)

    def bind(self) -> socket.socket:
        """Return a socket out there, on a port that the system picked; it refuses until it is told to listen."""

        def make() -> socket.socket:
            made = socket.socket()
            made.bind((self.address, 0))
            made.settimeout(GUARD_S)
            return made

        return inside(self.ns, make)

    def reaches(self, address: str, port: int, timeout_s: float = 1.0) -> bool:
        """Tell whether packets from out there come in."""
        return inside(self.ns, lambda: comes_in(address, port, timeout_s))

    def remove(self) -> None:
        self._dns.kill()
        self._dns.wait()
        with contextlib.suppress(CommandFailed):
            ip([f"link delete {self.link}"])
        run(["ip", "netns", "del", self.ns])


def said(address: str, port: int, timeout_s: float = 1.0) -> bytes | None:
    """Return the first words of whoever listens there; None when no connection comes about."""
    try:
        with socket.create_connection((address, port), timeout=timeout_s) as sock:
            return sock.recv(200)
    except OSError:
        return None


def comes_in(address: str, port: int, timeout_s: float = 1.0) -> bool:
    """Tell whether packets to a port arrive: a refusal is an answer too, silence is none."""
    try:
        with socket.create_connection((address, port), timeout=timeout_s):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
