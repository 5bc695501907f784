"""A whole cloud with real guests on this machine for tests: started by ``kilonova up``, used over HTTP and SSH.

Each cloud has a state directory, addresses and names of its own, so that it stands beside others. Times are printed.
"""

import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kilonova.agent.helper import names
from kilonova.agent.helper.run import links, namespaces, run
from kilonova.agent.helper.verbs import libvirt
from kilonova.agent.helper.verbs.purge import list_leftovers
from kilonova.cli.client import Client, Refused
from kilonova.server import state
from tests.real.machine import end_runtime
from tests.real.outside import (
    GUARD_S,
    REPOSITORY,
    Outside,
    build_image,
    said,
    timed,
    until,
)

COMPUTE, NETWORK = "/compute/v2.1", "/network/v2.0"
BOOT_S = 120.0  # a guest by software emulation, on a machine that does other things too


@dataclass
class RealCloud:
    """One cloud. ``directory``: its state. ``env``: what ``up`` is started with. hosts: on this machine.

    program: what is run as ``kilonova`` (tests/real/dying.py kills itself). options: more words for ``up``.
    """

    directory: Path
    image: Path
    env: dict[str, str]
    hosts: int = 1
    cells: int = 1
    program: str = "kilonova.cli.main"
    options: tuple[str, ...] = ()
    clients: dict[str, Client] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return names.tag_of(self.directory)

    @property
    def instances(self) -> Path:
        return self.directory / "agent" / "instances"

    # -- the processes

    def kilonova(self, *words: str, check: bool = True) -> str:
        """Run one command of ours on this cloud."""
        command = [sys.executable, "-m", self.program, *words, "--state-dir"]
        done = subprocess.run(
            [*command, str(self.directory)],
            env={**os.environ, **self.env},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}{self.log()}"
        return done.stdout

    def up(self) -> dict[str, Any]:
        """Start it, as a user does."""
        with timed("kilonova up"):
            said = self.kilonova(
                "up", "--driver", "libvirt", "--port", "0", "--image", str(self.image), "--detach",
                "--json", "--hosts", str(self.hosts), "--cells", str(self.cells),
                *self.options,
            )  # fmt: skip
        self.clients.clear()
        found: dict[str, Any] = json.loads(said)
        return found

    def log(self) -> str:
        paths = [self.directory / state.LOG, self.directory / "host" / "helper.log"]
        paths.append(self.directory / "logs" / "crash.log")
        return "".join(f"\n== {p.name}\n{p.read_text()[-3000:]}" for p in paths if p.exists())

    def run(self) -> state.Run:
        found = state.running(self.directory)
        assert found is not None, "the cloud does not run"
        return found

    def kill(self, *, helper: bool = False) -> None:
        """End the cloud's process, and the root helper's too, without a word."""
        found = self.run()
        assert found.helper_pid is not None
        victims = [found.helper_pid, found.pid] if helper else [found.pid]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(state.ticks(pid) for pid in victims), "what was killed is dead")
        helper_pid = found.helper_pid
        until(lambda: state.ticks(helper_pid) is None, "the helper ended with the cloud")

    def end_runtime(self) -> None:
        """End everything that a reboot ends: every process, namespace, link, nft table, runtime file of this cloud."""
        end_runtime(self.tag)

    def purge(self) -> list[str]:
        """End and remove all of it; return what is left."""
        self.kilonova("down", "--purge")
        left = []
        for n in range(1, self.hosts + 1):
            root = self.directory / ("host" if n == 1 else f"host-{n}")
            left += list_leftovers(names.tag_beside(self.tag, n), root)
        return [*left, *([str(self.directory)] if self.directory.exists() else [])]

    # -- its APIs

    def client(self, who: str = "demo") -> Client:
        """Return a client of one of the people: admin, demo, or a member of a project of their own."""
        if who not in self.clients:
            passwords = json.loads((self.directory / "passwords.json").read_text())
            password = passwords.get(who, "correct-horse-battery-7")
            made = Client(self.run().url, who, password, who, None)
            if who not in ("admin", "demo"):
                self._person(who, password)
            made.login()
            self.clients[who] = made
        return self.clients[who]

    def _person(self, name: str, password: str) -> None:
        admin, identity = self.client("admin"), "/identity/v3"
        if admin.get(f"{identity}/users", name=name)["users"]:
            return
        user = {"user": {"name": name, "password": password}}
        made = admin.call("POST", f"{identity}/users", user)["user"]["id"]
        project = admin.call("POST", f"{identity}/projects", {"project": {"name": name}})
        role = admin.get(f"{identity}/roles", name="member")["roles"][0]["id"]
        path = f"{identity}/projects/{project['project']['id']}/users/{made}/roles/{role}"
        admin.call("PUT", path)

    def one(self, path: str, kind: str, who: str = "demo", **query: object) -> Any:
        """Return the one record of a list."""
        found = self.client(who).get(path, **query)[kind]
        assert len(found) == 1, (kind, query, found)
        return found[0]

    def boot(self, name: str, who: str = "demo", **more: Any) -> "Server":
        """Ask for a server on the private network (``networks`` overrides), 192 MiB unless ``flavor`` says other."""
        client = self.client(who)
        user_data = more.pop("user_data", None)
        flavor, image = more.pop("flavor", "t192"), more.pop("image", "tiny-linux")
        body = {
            "name": name,
            "flavorRef": self._flavor(flavor),
            "imageRef": self.one("/image/v2/images", "images", who, name=image)["id"],
            **more,
        }
        if "networks" not in body:
            private = self.one(f"{NETWORK}/networks", "networks", who, name="private")
            body["networks"] = [{"uuid": private["id"]}]
        if user_data is not None:
            body["user_data"] = base64.b64encode(user_data.encode()).decode()
        made = client.call("POST", f"{COMPUTE}/servers", {"server": body})["server"]
        return Server(self, made["id"], name, who)

    def _flavor(self, name: str) -> str:
        admin = self.client("admin")
        for flavor in admin.get(f"{COMPUTE}/flavors")["flavors"]:
            if flavor["name"] == name:
                return str(flavor["id"])
        body = {"name": name, "vcpus": 1, "ram": int(name.removeprefix("t")), "disk": 1}
        return str(admin.call("POST", f"{COMPUTE}/flavors", {"flavor": body})["flavor"]["id"])

    def upload(self, image: str, path: Path) -> None:
        """Send an image its bytes, as admin."""
        self.client("admin").login()
        link = http.client.HTTPConnection(urlsplit(self.run().url).netloc, timeout=300)
        headers = {
            "X-Auth-Token": str(self.client("admin")._token),
            "Content-Type": "application/octet-stream",
            "Content-Length": str(path.stat().st_size),
        }
        with path.open("rb") as data, contextlib.closing(link):
            link.request("PUT", f"/image/v2/images/{image}/file", data, headers)
            answer = link.getresponse()
            assert answer.status == 204, answer.read()

    def group(self, who: str = "demo", name: str = "default") -> Any:
        mine = self.client(who).project_id
        return self.one(
            f"{NETWORK}/security-groups", "security_groups", who, name=name, project_id=mine
        )

    def allow(self, protocol: str, port: int | None = None, **more: Any) -> str:
        """Add a rule to the default group; return its id."""
        rule = {
            "security_group_id": self.group()["id"],
            "direction": "ingress",
            "ethertype": "IPv4",
            "protocol": protocol,
            "port_range_min": port,
            "port_range_max": port,
            **more,
        }
        path = f"{NETWORK}/security-group-rules"
        made = self.client().call("POST", path, {"security_group_rule": rule})
        return str(made["security_group_rule"]["id"])

    def refuse(self, rule: str) -> None:
        """Remove a rule again."""
        self.client().call("DELETE", f"{NETWORK}/security-group-rules/{rule}")

    def settled(self) -> bool:
        """Tell whether no operation is under way."""
        path = "/kilonova/v1/operations"
        return not self.client("admin").get(path, all_projects="1", live="1")["operations"]

    def check_audit(self) -> None:
        """Wait until nothing is under way; then nothing may be stuck, orphaned or left."""
        until(self.settled, "no operation is under way")
        findings: list[Any] = []

        def clean() -> bool:
            findings[:] = self.client("admin").get("/kilonova/v1/audit")["findings"]
            return not findings

        with contextlib.suppress(AssertionError):
            until(clean, "the audit finds nothing", 30)
        assert findings == []

    # -- what is on the host

    def virsh(self, *words: str) -> str:
        sock = f"/run/kilonova-{self.tag}/libvirt/libvirt-sock"
        return run(["virsh", "-c", f"qemu+unix:///system?socket={sock}", *words])

    def ledger(self) -> dict[str, list[str]]:
        """Return everything on the host that a server or a network can leave behind."""
        host, runtime = names.host_ns(self.tag), Path(f"/run/kilonova-{self.tag}")
        leases = [line for p in runtime.glob("net/*/leases") for line in p.read_text().splitlines()]
        found = {
            "namespaces": [n for n in namespaces() if names.is_ours(n, self.tag)],
            "links": list(links(host)),
            "domains": self.virsh("list", "--all", "--name").split(),
            "QEMUs": [name for _, name in libvirt.guests(self.tag)],
            "instances": [p.name for p in self.instances.iterdir()],
            "documents": [p.name for p in (self.directory / "agent" / "metadata").iterdir()],
            "DHCP": [p.name for p in runtime.glob("net/*")],
            "leases": [line for line in leases if not line.startswith("duid")],
            "chains": re.findall(r"chain (\S+) \{", run(["nft", "list", "ruleset"], ns=host)),
        }
        return {kind: sorted(values) for kind, values in found.items()}

    def idle(self) -> dict[str, list[str]]:
        """Return the ledger once the first network and its router are in force."""
        router, network = f"kilonova-{self.tag}-r-", f"kilonova-{self.tag}-d-"

        def there() -> bool:
            mine = " ".join(namespaces())
            return router in mine and network in mine

        until(there, "the first network and its router are in force")
        before = self.ledger()

        def steady() -> Any:
            nonlocal before
            last, before = before, self.ledger()
            return last == before and before["DHCP"]

        until(steady, "the host is at rest", pause_s=0.3)
        return before

    def check_ledger(self, before: dict[str, list[str]]) -> None:
        """Wait until the host is as it was before."""
        now: dict[str, list[str]] = {}

        def same() -> bool:
            now.update(self.ledger())
            return now == before

        with contextlib.suppress(AssertionError):
            until(same, "the host is as before", 30)
        more = {k: sorted(set(v) - set(before[k])) for k, v in now.items() if v != before[k]}
        less = {k: sorted(set(v) - set(now[k])) for k, v in before.items() if v != now[k]}
        assert now == before, f"more: {more}, less: {less}"


@dataclass
class Server:
    """One server of a cloud, as its owner meets it."""

    cloud: RealCloud
    id: str
    name: str
    who: str
    address: str = ""  # by which SSH reaches it
    key: Path | None = None

    @property
    def path(self) -> str:
        return f"{COMPUTE}/servers/{self.id}"

    def show(self) -> Any:
        return self.cloud.client(self.who).get(self.path)["server"]

    def act(self, action: str, value: Any = None) -> Any:
        return self.cloud.client(self.who).call("POST", f"{self.path}/action", {action: value})

    def status(self, wanted: str, guard_s: float = GUARD_S) -> Any:
        """Wait for a status with nothing under way; ERROR unasked fails at once."""

        def there() -> Any:
            shown = self.show()
            assert shown["status"] in (wanted, "ERROR") or shown["status"] != "ERROR"
            if wanted != "ERROR":
                assert shown["status"] != "ERROR", f"{shown.get('fault')}{self.cloud.log()}"
            fits = shown["status"] == wanted and shown["OS-EXT-STS:task_state"] is None
            return shown if fits else None

        try:
            return until(there, f"{self.name} is {wanted}", guard_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.show()}{self.cloud.log()}") from exc

    def console(self, length: int | None = None) -> str:
        words = {} if length is None else {"length": length}
        return str(self.act("os-getConsoleOutput", words)["output"])

    def says(self, pattern: str, guard_s: float = BOOT_S) -> re.Match[str]:
        """Wait until the console has a line that fits; return the match."""
        text = ""

        def found() -> Any:
            nonlocal text
            text = self.console()
            return re.search(pattern, text, re.MULTILINE)

        try:
            match: re.Match[str] = until(found, f"{self.name} says {pattern!r}", guard_s, 0.3)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{text[-3000:]}{self.cloud.log()}") from exc
        return match

    def ready(self, boots: int = 1) -> str:
        """Wait until the guest said so in its boot number ``boots``; return the line."""
        return self.says(rf"^.*GUEST READY .*boots={boots} .*$").group()

    def boots(self) -> int:
        """Return how often it was ready so far."""
        return self.console().count("GUEST READY")

    def port(self) -> Any:
        return self.cloud.one(f"{NETWORK}/ports", "ports", self.who, device_id=self.id)

    def fixed(self) -> str:
        return str(self.port()["fixed_ips"][0]["ip_address"])

    def attach_floating(self, key: Path) -> str:
        """Give it a floating address, by which and with the key it is spoken to from here on."""
        public = self.cloud.one(f"{NETWORK}/networks", "networks", self.who, name="public")
        body = {"floating_network_id": public["id"], "port_id": self.port()["id"]}
        path = f"{NETWORK}/floatingips"
        made = self.cloud.client(self.who).call("POST", path, {"floatingip": body})["floatingip"]
        self.address, self.key = str(made["floating_ip_address"]), key
        return str(made["id"])

    def answers_ssh(self) -> None:
        """Wait until somebody listens for SSH at its floating address."""
        until(lambda: said(self.address, 22, 0.5), f"{self.name} answers SSH")

    def reaches(self, address: str) -> bool:
        """Tell whether a ping from the guest comes back."""
        return self.ssh(f"ping -c 1 -W 2 {address}").returncode == 0

    def ssh(
        self, command: str, user: str = "root", timeout_s: float = 30
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the guest."""
        options = [
            "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes",
            "LogLevel=ERROR", "ConnectTimeout=10",
        ]  # fmt: skip
        line = ["ssh", "-i", str(self.key), *(w for o in options for w in ("-o", o))]
        return subprocess.run(
            [*line, f"{user}@{self.address}", command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def tell(self, command: str, timeout_s: float = 30) -> str:
        """Return what a command printed in the guest; it must succeed."""
        done = self.ssh(command, timeout_s=timeout_s)
        assert done.returncode == 0, f"{command}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def qemu(self) -> int | None:
        """Return the process of the guest, None when it does not run."""
        wanted = f"kn-{self.id}"
        return next((pid for pid, name in libvirt.guests(self.cloud.tag) if name == wanted), None)

    def delete(self) -> None:
        self.cloud.client(self.who).call("DELETE", self.path)

    def exists(self) -> bool:
        try:
            self.show()
        except Refused as exc:
            assert exc.http_status == 404, exc
            return False
        return True

    def gone(self, guard_s: float = GUARD_S) -> None:
        """Wait until it is deleted."""
        until(lambda: not self.exists(), f"{self.name} is gone", guard_s)


def new_key(directory: Path, *clouds: RealCloud, name: str = "test") -> Path:
    """Make an SSH key and tell the clouds its public half as key pair ``name`` of demo."""
    key = directory / f"{name}-key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    public = key.with_suffix(".pub").read_text().strip()
    body = {"keypair": {"name": name, "public_key": public, "type": "ssh"}}
    for cloud in clouds:
        cloud.client().call("POST", f"{COMPUTE}/os-keypairs", body)
    return key


@contextlib.contextmanager
def running_cloud(
    outside: bool = False,
    hosts: int = 1,
    cells: int = 1,
    program: str = "kilonova.cli.main",
    options: tuple[str, ...] = (),
) -> Iterator[tuple[RealCloud, Outside | None]]:
    """A cloud that answers; afterwards it is purged, and nothing of it may be left."""
    image = build_image("build", "tiny-linux.qcow2")
    base = Path(tempfile.mkdtemp(prefix="kntest-cloud-", dir="/tmp"))  # others may pass there
    base.chmod(0o755)
    world = Outside(base) if outside else None
    env = {
        "KILONOVA_PUBLIC_CIDR": f"172.30.{secrets.randbelow(256)}.0/24",
        "KILONOVA_PRIVATE_CIDR": f"10.{secrets.randbelow(200) + 20}.0.0/24",
        "KILONOVA_VIRT_TYPE": os.environ.get("KILONOVA_VIRT_TYPE", "qemu"),
    }
    if world is not None:
        env["KILONOVA_RESOLV_CONF"] = str(world.resolv_conf)
    cloud = RealCloud(base / "s", image, env, hosts, cells, program, options)
    forward = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    try:
        cloud.up()
        yield cloud, world
    finally:
        with timed("kilonova down --purge"):
            left = cloud.purge()
        if world is not None:
            world.remove()
        shutil.rmtree(base)
        assert left == []
        others = any(link.startswith("kn-pub-") for link in links())
        assert others or Path("/proc/sys/net/ipv4/ip_forward").read_text() == forward
