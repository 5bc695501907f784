"""Boot a first server, 'hello', in the demo project: key pair, SSH rule, floating address, console. Safe to repeat."""

import argparse
import re
import socket
from pathlib import Path
from typing import Any

from kilonova.cli import output
from kilonova.cli.client import Client, connect, wait_for
from kilonova.cli.common import Failed, common_options
from kilonova.cli.status import STATUS
from kilonova.server import ground, helper_beside, state

NAME = "hello"
_COMPUTE, _NETWORK = "/compute/v2.1", "/network/v2.0"
_READY = "GUEST READY"
_HOST_S = 60.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="S", help="for the guest to be ready"
    )


def run(args: argparse.Namespace) -> int:
    """Make what is missing, wait for the guest, print how to reach it."""
    directory = state.chosen(args.state_dir)
    client = connect(directory, "demo")
    client.login()
    progress = output.Progress(quiet=args.json)
    found = state.running(directory)
    real = found is not None and found.driver == "libvirt"
    if real:
        _wait_host(directory)
    key = _key_file(directory)
    _key_pair(client, key)
    progress.done(f"key pair {NAME}: {key}")
    _open_ssh(client)
    progress.done("the default security group lets SSH and ping in")
    server = _server(client)
    server = _wait_active(client, server["id"], args.timeout)
    progress.done(f"server {NAME} is ACTIVE")
    fixed, floating = _addresses(client, server["id"])
    progress.done(f"floating address {floating}")
    console = _console(client, server["id"], args.timeout) if real else []
    if real:
        wait_for(f"SSH on {floating}", lambda: _listens(floating), args.timeout)
        progress.done("the guest says that it is ready, and takes SSH")
    ssh = _ssh_line(directory, key, floating, console)
    what = {
        "server": server["id"],
        "fixed_ip": fixed,
        "floating_ip": floating,
        "ssh": ssh if real else None,
        "console": console[-12:],
    }
    if args.json:
        output.print_json(what)
    else:
        _show(what, directory, real)
    return 0


def _wait_host(directory: Path) -> None:
    """Wait until this machine takes servers. Raises Failed with where the reason stands when it does not."""
    admin = connect(directory)

    def up() -> bool:
        return any(h["state"] == "up" for h in admin.get(STATUS)["hosts"])

    try:
        wait_for("this machine to take servers", up, _HOST_S)
    except Failed as exc:
        logs = f"{directory / state.LOG} and {directory / 'host' / 'helper.log'}"
        raise Failed(f"{exc}: its agent is not registered. {logs} say why.") from exc


def _key_file(directory: Path) -> Path:
    path = directory / "hello_key"
    if not path.exists():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        state.write_text(path.with_suffix(".pub"), f"{public.decode()} kilonova-hello\n", 0o644)
        state.write_text(path, private.decode())
    return path


def _key_pair(client: Client, key: Path) -> None:
    public = key.with_suffix(".pub").read_text().strip()
    for one in client.get(f"{_COMPUTE}/os-keypairs")["keypairs"]:
        if one["keypair"]["name"] == NAME:
            if one["keypair"]["public_key"].split()[:2] == public.split()[:2]:
                return
            client.call("DELETE", f"{_COMPUTE}/os-keypairs/{NAME}")
    client.call(
        "POST",
        f"{_COMPUTE}/os-keypairs",
        {"keypair": {"name": NAME, "public_key": public, "type": "ssh"}},
    )


def _open_ssh(client: Client) -> None:
    group = _one(
        client,
        f"{_NETWORK}/security-groups",
        "security_groups",
        name="default",
        project_id=client.project_id,
    )
    have = {
        (r["direction"], r["protocol"], r["port_range_min"]) for r in group["security_group_rules"]
    }
    for protocol, port in (("tcp", 22), ("icmp", None)):
        if ("ingress", protocol, port) in have:
            continue
        rule = {
            "security_group_id": group["id"],
            "direction": "ingress",
            "ethertype": "IPv4",
            "protocol": protocol,
            "port_range_min": port,
            "port_range_max": port,
        }
        client.call("POST", f"{_NETWORK}/security-group-rules", {"security_group_rule": rule})


def _one(client: Client, path: str, kind: str, **query: object) -> Any:
    found = client.get(path, **query)[kind]
    if not found:
        named = ", ".join(f"{k}={v}" for k, v in query.items())
        raise Failed(f"there is no {kind.replace('_', ' ')[:-1]} with {named}; was it deleted?")
    return found[0]


def _server(client: Client) -> Any:
    for one in client.get(f"{_COMPUTE}/servers/detail", name=f"^{NAME}$")["servers"]:
        if one["status"] != "ERROR":
            return one
        _remove(client, one["id"])  # an earlier try that failed
    flavors = client.get(f"{_COMPUTE}/flavors")["flavors"]
    flavor = next((f for f in flavors if f["name"] == "m1.tiny"), None)
    if flavor is None:
        raise Failed("there is no flavor m1.tiny; was it deleted?")
    image = _one(client, "/image/v2/images", "images", name="tiny-linux")
    network = _one(client, f"{_NETWORK}/networks", "networks", name="private")
    body = {
        "name": NAME,
        "flavorRef": flavor["id"],
        "imageRef": image["id"],
        "key_name": NAME,
        "networks": [{"uuid": network["id"]}],
    }
    return client.call("POST", f"{_COMPUTE}/servers", {"server": body})["server"]


def _remove(client: Client, server_id: str) -> None:
    client.call("DELETE", f"{_COMPUTE}/servers/{server_id}")

    def gone() -> bool:
        return all(s["id"] != server_id for s in client.get(f"{_COMPUTE}/servers")["servers"])

    wait_for(f"the end of the failed server {NAME}", gone, _HOST_S)


def _wait_active(client: Client, server_id: str, timeout_s: float) -> Any:
    path = f"{_COMPUTE}/servers/{server_id}"

    def active() -> Any:
        server = client.get(path)["server"]
        if server["status"] == "ERROR":
            why = server.get("fault", {}).get("message", "no reason was recorded")
            raise Failed(f"server {NAME} failed: {why.rstrip('.')}. The next try makes it anew.")
        if server["status"] == "SHUTOFF" and server["OS-EXT-STS:task_state"] is None:
            client.call("POST", f"{path}/action", {"os-start": None})
        return server if server["status"] == "ACTIVE" else None

    return wait_for(f"server {NAME} to be ACTIVE", active, timeout_s)


def _addresses(client: Client, server_id: str) -> tuple[str, str]:
    port = _one(client, f"{_NETWORK}/ports", "ports", device_id=server_id)
    fixed = str(port["fixed_ips"][0]["ip_address"])
    for one in client.get(f"{_NETWORK}/floatingips", port_id=port["id"])["floatingips"]:
        return fixed, str(one["floating_ip_address"])
    public = _one(client, f"{_NETWORK}/networks", "networks", **{"router:external": "true"})
    body = {"floating_network_id": public["id"], "port_id": port["id"]}
    made = client.call("POST", f"{_NETWORK}/floatingips", {"floatingip": body})["floatingip"]
    return fixed, str(made["floating_ip_address"])


def _console(client: Client, server_id: str, timeout_s: float) -> list[str]:
    """Wait until the guest says that it is ready; return the lines of its console."""
    path = f"{_COMPUTE}/servers/{server_id}/action"

    def lines() -> list[str] | None:
        text = client.call("POST", path, {"os-getConsoleOutput": {}})["output"]
        return text.splitlines() if _READY in text else None

    found: list[str] = wait_for(f"'{_READY}' on the console of {NAME}", lines, timeout_s, 0.5)
    return [line for line in found if line.strip()]


def _listens(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=2) as link:
            return link.recv(4) == b"SSH-"
    except OSError:
        return False


def _ssh_line(directory: Path, key: Path, address: str, console: list[str]) -> str:
    """Return a line that logs in when pasted; it knows the guest's host key when the console told it."""
    known = directory / "hello_known_hosts"
    keys = [m[1] for line in console if (m := re.search(r"GUEST HOSTKEY (ssh-\S+ \S+)", line))]
    if keys:
        state.write_text(known, f"{address} {keys[-1]}\n", 0o644)
        checking = f"-o UserKnownHostsFile={known}"
    else:
        checking = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no"
    return f"ssh -i {key} {checking} guest@{address}"


def _show(what: dict[str, Any], directory: Path, real: bool) -> None:
    print(output.bold(f"\nServer {NAME}"))
    output.facts(
        [
            ("  address in its network", what["fixed_ip"]),
            ("  address from outside", what["floating_ip"]),
        ]
    )
    if not real:
        print("  It is simulated: there is nobody to log in to.")
    else:
        print("\nThe last lines of its console:\n")
        for line in what["console"]:
            print(f"  {line}")
        print(f"\nLog in:\n\n  {what['ssh']}")
    print("\nUse the cloud with the openstack client:\n")
    output.use_it(directory / state.CLOUDS)
    if real:
        print("\nWhat was changed on this machine:\n")
        for line in host_changes(directory):
            print(f"  {line}")


def host_changes(directory: Path) -> list[str]:
    """Return what a cloud with libvirt made outside its state directory, in words."""
    from kilonova.agent.helper import names
    from kilonova.agent.helper.settings import Settings

    settings: Settings = helper_beside.helper_settings(directory)
    tag = settings.tag
    before = settings.noted("ip_forward")
    packages = Path("/var/lib/kilonova-installed-packages")
    found = [
        f"system users {ground.CLOUD_USER} and {ground.QEMU_USER}",
        f"network namespaces kilonova-{tag}*",
        f"links {names.public_bridge(tag)}, {names.uplink(tag)}, {names.dns_link(tag)}",
        f"nftables table inet {names.table(tag)} (NAT for floating addresses)",
        f"net.ipv4.ip_forward=1 (was {before})" if before not in (None, "1") else "",
        f"files in {directory} and {settings.runtime_root}",
        f"packages listed in {packages}, unpacked ones in /var/cache/kilonova"
        if packages.exists()
        else "",
        "'kilonova down --purge' takes it back, but for the packages",
    ]
    return [line for line in found if line]
