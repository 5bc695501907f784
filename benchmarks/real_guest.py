"""A real guest from POST to SSH login, against a bare QEMU of the same image: ``python -m benchmarks.real_guest``.

Needs root and what ``kilonova doctor`` asks for; says so and ends well where that is missing. Both boots run one after
the other on the same machine; the difference is what the cloud adds (network, disks, scheduling, DHCP, metadata).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cloud import Cloud

REPOSITORY = Path(__file__).parents[1]
GUARD_S = 180.0
SSH = [
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "LogLevel=ERROR",
]


def missing() -> str | None:
    """Return why this cannot run here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [
        p
        for p in ("qemu-system-x86_64", "libvirtd", "dnsmasq", "nft", "ssh")
        if shutil.which(p) is None
    ]
    return f"needs {', '.join(lacking)}" if lacking else None


def login(where: list[str], key: Path, began: float) -> float:
    """Try to log in until it works; return the seconds since ``began``."""
    while time.monotonic() - began < GUARD_S:
        command = [
            "ssh",
            *SSH,
            "-o",
            "ConnectTimeout=2",
            "-o",
            "BatchMode=yes",
            "-i",
            str(key),
            *where,
            "true",
        ]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            return time.monotonic() - began
        time.sleep(0.1)
    raise SystemExit(f"no login within {GUARD_S:.0f} s: {done.stderr.decode().strip()}")


def bare(image: Path, scratch: Path, key: Path) -> float:
    """Boot the image by QEMU alone, with a config drive that brings the key; return seconds to a login."""
    tree = scratch / "tree" / "openstack" / "latest"
    tree.mkdir(parents=True)
    public = key.with_suffix(".pub").read_text().strip()
    document = {"uuid": "bare", "hostname": "bare", "public_keys": {"k": public}}
    (tree / "meta_data.json").write_text(json.dumps(document))
    drive, disk = scratch / "config.iso", scratch / "bare.qcow2"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        ["genisoimage", "-o", drive, "-V", "config-2", "-J", "-r", scratch / "tree"], **quiet
    )
    make = ["qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", image, disk, "1G"]
    subprocess.run(make, **quiet)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-m", "128", "-nodefaults"]
    command += ["-display", "none", "-drive", f"file={disk},format=qcow2,if=virtio"]
    command += ["-drive", f"file={drive},format=raw,if=virtio,readonly=on"]
    command += [
        "-netdev",
        f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device",
        "virtio-net-pci,netdev=n,romfile=",
    ]
    began = time.monotonic()
    guest = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return login(["-p", str(port), "guest@127.0.0.1"], key, began)
    finally:
        guest.kill()
        guest.wait()


def in_cloud(c: Cloud, key: Path) -> tuple[float, float]:
    """Create a server with a floating IP; return seconds from POST to ACTIVE and to a login."""
    public = key.with_suffix(".pub").read_text().strip()
    c.call(
        "POST",
        "/compute/v2.1/os-keypairs",
        {"keypair": {"name": "bench", "public_key": public, "type": "ssh"}},
    )
    networks = {n["name"]: n["id"] for n in c.call("GET", "/network/v2.0/networks")[2]["networks"]}
    groups = c.call("GET", "/network/v2.0/security-groups?name=default")[2]["security_groups"]
    rule = {
        "security_group_id": groups[0]["id"],
        "direction": "ingress",
        "ethertype": "IPv4",
        "protocol": "tcp",
    }
    c.call("POST", "/network/v2.0/security-group-rules", {"security_group_rule": rule})
    port = {"port": {"network_id": networks["private"], "name": "bench"}}
    port_id = c.call("POST", "/network/v2.0/ports", port)[2]["port"]["id"]
    floating = {"floatingip": {"floating_network_id": networks["public"], "port_id": port_id}}
    address = c.call("POST", "/network/v2.0/floatingips", floating)[2]["floatingip"][
        "floating_ip_address"
    ]
    body: dict[str, Any] = c.server_body("bench")
    body["server"].update(networks=[{"port": port_id}], key_name="bench")
    began = time.monotonic()
    status, _, answer = c.call("POST", "/compute/v2.1/servers", body)
    assert status == 202, answer
    path = f"/compute/v2.1/servers/{answer['server']['id']}"
    while (state := c.call("GET", path)[2]["server"]["status"]) == "BUILD":
        time.sleep(0.05)
    active = time.monotonic() - began
    if state != "ACTIVE":
        raise SystemExit(f"the server is {state}: {c.call('GET', path)[2]}")
    return active, login([f"guest@{address}"], key, began)


def main() -> None:
    """Print both."""
    why = missing()
    if why is not None:
        print(f"real guest: skipped, {why}")
        return
    scratch = Path(tempfile.mkdtemp(prefix="kilonova-bench-", dir="/var/tmp"))
    scratch.chmod(0o755)
    image, key, directory = scratch / "tiny.qcow2", scratch / "key", scratch / "cloud"
    cache = os.environ.get("KILONOVA_CACHE", "/var/cache/kilonova")
    build = [REPOSITORY / "guest-image" / "build", "--cache", cache, image]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    kilonova = [sys.executable, "-m", "kilonova.cli.main"]
    up = ["up", "--driver", "libvirt", "--state-dir", directory, "--port", "0", "--image", image]
    try:
        alone = bare(image, scratch, key)
        print(f"bare qemu, power on to SSH login: {alone:.1f} s")
        done = subprocess.run(
            [*kilonova, *up, "--json", "--detach"], check=True, capture_output=True, text=True
        )
        c = Cloud.of(json.loads(done.stdout))
        for what in ("first server (image fetched)", "second server (image cached)"):
            active, logged_in = in_cloud(c, key)
            print(
                f"{what}: POST to ACTIVE {active:.1f} s, to SSH login {logged_in:.1f} s, "
                f"{logged_in - alone:+.1f} s against bare qemu"
            )
            for server in c.call("GET", "/compute/v2.1/servers")[2]["servers"]:
                c.call("DELETE", f"/compute/v2.1/servers/{server['id']}")
            while c.call("GET", "/compute/v2.1/servers")[2]["servers"]:
                time.sleep(0.1)
    finally:
        if directory.exists():
            subprocess.run(
                [*kilonova, "down", "--purge", "--state-dir", directory],
                check=False,
                stdout=subprocess.DEVNULL,
            )
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
