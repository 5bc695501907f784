"""A guest without QEMU: a network namespace behind the tap's name, with a small DHCP client, and a helper to drive."""

import contextlib
import os
import pwd
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kilonova.agent.helper import names
from kilonova.agent.helper.client import HelperClient
from kilonova.agent.helper.protocol import HelperGone
from kilonova.agent.helper.run import CommandFailed, drop_namespace, inside, ip, links, run
from kilonova.agent.helper.run import command as inner

GUARD_S = 30.0


def missing() -> str | None:
    """Return why the real network cannot be tested here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("ip", "nft", "dnsmasq", "nsenter"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return f"needs {program}"
    name = f"kntry{os.getpid()}"
    try:
        run(["ip", "netns", "add", name])
        drop_namespace(name)
    except CommandFailed as exc:
        return f"no network namespaces: {exc.message}"
    return None


def until(condition: Callable[[], object], what: str, guard_s: float = GUARD_S) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + guard_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


class Helper:
    """A root helper process of its own, with a tag of its own."""

    def __init__(
        self, directory: Path, tag: str, resolv_conf: Path | None = None, ns: str | None = None
    ) -> None:
        self._ns = ns  # the machine that this helper sees as its own; None: this one
        self.tag, self.directory = tag, directory
        self._resolv = resolv_conf
        self._socket = directory / "helper.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = HelperClient(self._socket)

    def start(self) -> None:
        command = [
            sys.executable, "-m", "kilonova.agent.helper", "--socket", str(self._socket),
            "--state-dir", str(self.directory / "host"), "--tag", self.tag, "--owner",
            pwd.getpwuid(os.geteuid()).pw_name, "--log", str(self.directory / "helper.log"),
            "--qemu-user", "root", "--qemu-group", "root",
        ]  # fmt: skip
        if self._resolv is not None:
            command += ["--resolv-conf", str(self._resolv)]
        self.process = subprocess.Popen(inner(command, self._ns))

        def answers() -> bool:
            with contextlib.suppress(HelperGone):
                return bool(self.client.status())
            return False

        until(answers, "the helper answers")

    def kill(self) -> None:
        self.client.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log(self) -> str:
        return (self.directory / "helper.log").read_text()


class Guest:
    """A namespace whose eth0 is the other end of the port's tap name; unprivileged in nothing, so it can lie."""

    def __init__(self, tag: str, label: str, port_id: str, mac: str) -> None:
        self.ns = f"kntest-{tag}-{label}"
        self.host, self.tap, self.mac = names.host_ns(tag), names.tap(port_id), mac
        run(["ip", "netns", "add", self.ns])
        ip([f"link add {self.tap} type veth peer name eth0 netns {self.ns}"], self.host)
        ip([f"link set eth0 address {mac}", "link set lo up", "link set eth0 up"], self.ns)

    def run(self, *args: str) -> str:
        return run(list(args), ns=self.ns)

    def use(self, address: str, gateway: str | None = None) -> None:
        ip([f"address add {address} dev eth0"], self.ns)
        if gateway is not None:
            ip([f"route add default via {gateway}"], self.ns)

    def tcp(self, host: str, port: int, timeout_s: float = 1.0) -> bool:
        """Tell whether a TCP connection comes about."""

        def attempt() -> bool:
            with socket.socket() as sock:
                sock.settimeout(timeout_s)
                try:
                    sock.connect((host, port))
                except OSError:
                    return False
                return True

        return inside(self.ns, attempt)

    def ping(self, host: str) -> bool:
        try:
            return self.tcp_refused(host)
        except CommandFailed:
            return False

    def tcp_refused(self, host: str) -> bool:
        """Tell whether the other side answers at all (a refusal is an answer)."""

        def attempt() -> bool:
            with socket.socket() as sock:
                sock.settimeout(1.0)
                try:
                    sock.connect((host, 9))
                except ConnectionRefusedError:
                    return True
                except OSError:
                    return False
                return True

        return inside(self.ns, attempt)

    def http(self, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
        import http.client

        def attempt() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("169.254.169.254", 80, timeout=10)
            try:
                connection.request(method, path, body or None)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return inside(self.ns, attempt)

    def dhcp(self, timeout_s: float = 2.0) -> dict[int, bytes] | None:
        """Ask for a lease as a client does; return the options of the ACK (0: the address), None without answer."""
        return inside(self.ns, lambda: _dhcp(self.mac, timeout_s))

    def serve(self, port: int) -> "Listener":
        return Listener(self.ns, port)

    def remove(self) -> None:
        drop_namespace(self.ns)
        with contextlib.suppress(CommandFailed):
            if self.tap in links(self.host):
                ip([f"link delete {self.tap}"], self.host)


class Listener:
    """A TCP service in a namespace that says who called, and echoes."""

    def __init__(self, ns: str, port: int) -> None:
        self.callers: list[str] = []

        def make() -> socket.socket:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", port))
            sock.listen(16)
            return sock

        self._sock = inside(ns, make)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, peer = self._sock.accept()
            except OSError:
                return
            self.callers.append(peer[0])
            threading.Thread(target=self._echo, args=(sock,), daemon=True).start()

    def _echo(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(1000):
                sock.sendall(data)

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def resolve(guest: Guest, server: str, name: str) -> str | None:
    """Ask a DNS server for an A record."""
    question = os.urandom(2) + b"\x01\x00\x00\x01\0\0\0\0\0\0"
    question += b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\x01\0\x01"

    def ask() -> str | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            sock.sendto(question, (server, 53))
            try:
                answer = sock.recv(512)
            except TimeoutError:
                return None
            return socket.inet_ntoa(answer[-4:]) if answer[7] else None

    return inside(guest.ns, ask)


def _packet(mac: bytes, xid: bytes, kind: int, extra: bytes) -> bytes:
    head = struct.pack("!BBBB", 1, 1, 6, 0) + xid + struct.pack("!HH", 0, 0x8000)
    fixed = head + b"\0" * 16 + mac + b"\0" * 10 + b"\0" * 192 + b"\x63\x82\x53\x63"
    wanted = bytes([1, 3, 6, 12, 15, 26, 121, 67, 66])
    return fixed + bytes([53, 1, kind, 55, len(wanted)]) + wanted + extra + b"\xff"


def _options(packet: bytes) -> dict[int, bytes]:
    found, at = {0: packet[16:20]}, 240
    while at < len(packet) and packet[at] != 255:
        if packet[at] == 0:
            at += 1
            continue
        length = packet[at + 1]
        found[packet[at]] = packet[at + 2 : at + 2 + length]
        at += 2 + length
    return found


def _dhcp(mac_text: str, timeout_s: float) -> dict[int, bytes] | None:
    mac, xid = bytes.fromhex(mac_text.replace(":", "")), os.urandom(4)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        sock.bind(("0.0.0.0", 68))
        sock.settimeout(timeout_s)

        def ask(kind: int, extra: bytes) -> dict[int, bytes] | None:
            sock.sendto(_packet(mac, xid, kind, extra), ("255.255.255.255", 67))
            while True:
                try:
                    data = sock.recv(4096)
                except TimeoutError:
                    return None
                if data[4:8] == xid:
                    return _options(data)

        offer = ask(1, b"")
        if offer is None:
            return None
        return ask(3, b"\x32\x04" + offer[0] + b"\x36\x04" + offer[54])
