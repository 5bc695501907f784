"""Another host on this machine: a network namespace that is a machine of its own, with a root helper in it.

Its underlay link and its link into the public network end at bridges of this machine. Its host namespace, libvirtd,
guests, files and names are its own, by a tag of its own; what it shares with this machine is the kernel and the disks.
For trying what needs two hosts (moves, networks across hosts); it adds nothing that survives this machine.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import kilonova
from kilonova.agent.helper import names
from kilonova.agent.helper.protocol import MachineInfo
from kilonova.agent.helper.run import NETNS, CommandFailed, alive, end, ensure_namespace, ip, links
from kilonova.agent.helper.settings import Settings

START_S = 15.0
PUBLIC, UNDER = "public0", "under0"
_MARK = "kilonova.agent.helper"
_pipes: dict[str, int] = {}  # tag -> our end of the pipe whose end a helper waits for


def underlay_address(tag: str, number: int) -> str:
    """Return the underlay address of the n-th host of a machine; the first is this machine itself."""
    return f"10.66.{int(tag[:2], 16)}.{number}"


def settings_of(settings: Settings, number: int) -> Settings:
    """Return what the root helper of the n-th host knows."""
    return Settings(
        tag=names.tag_beside(settings.tag, number),
        directory_root=settings.directory_root.with_name(f"host-{number}"),
        owner=settings.owner,
        qemu_user=settings.qemu_user,
        qemu_group=settings.qemu_group,
        resolv_conf=settings.resolv_conf,
    )


def machine_up(settings: Settings, number: int) -> MachineInfo:
    """Make the namespace, its links, and the helper in it, as far as they are missing. Repeatable. CommandFailed."""
    its = settings_of(settings, number)
    _links(settings.tag, its.tag, number)
    path = _socket_path(its)
    if its.tag not in _pipes or not _answers(path):
        _start_helper(its, path)
    return MachineInfo(
        tag=its.tag,
        socket=str(path),
        underlay=underlay_address(settings.tag, number),
        public_interface=PUBLIC,
    )


def _links(tag: str, its: str, number: int) -> None:
    ns, bridge = names.machine_ns(its), names.underlay_bridge(tag)
    ensure_namespace(ns)
    have, there = links(), links(ns)
    if bridge not in have:
        ip([f"link add {bridge} type bridge forward_delay 0 stp_state 0"])
    ip([f"link set {bridge} up", f"address replace {underlay_address(tag, 1)}/24 dev {bridge}"])
    for outer, inner, master in (
        (names.machine_link(its), UNDER, bridge),
        (names.machine_public(its), PUBLIC, names.public_bridge(tag)),
    ):
        if outer not in have or inner not in there:
            if outer in have:
                ip([f"link delete {outer}"])
            ip([f"link add {outer} type veth peer name {inner} netns {ns}"])
        ip([f"link set {outer} master {master} up"])
        ip([f"link set {inner} up"], ns)
    ip([f"address replace {underlay_address(tag, number)}/24 dev {UNDER}"], ns)


def _socket_path(its: Settings) -> Path:
    path = its.directory_root.with_suffix(".sock")
    return path if len(str(path)) <= 100 else Path(f"/run/kilonova-{its.tag}.sock")


def _start_helper(its: Settings, path: Path) -> None:
    """Start the helper of the other host; it ends with us."""
    pid_file = its.directory(mode=0o755) / "helper.pid"
    old = alive(pid_file, _MARK)
    if old is not None:
        end(old)
    path.unlink(missing_ok=True)
    reader, writer = os.pipe()
    try:
        with (its.directory_root / "helper.log").open("ab") as out:
            process = subprocess.Popen(  # noqa: S603 - a list, no shell, names of our own
                [  # noqa: S607
                    "nsenter", f"--net={NETNS / names.machine_ns(its.tag)}", "--",
                    sys.executable, "-m", _MARK, "--socket", str(path),
                    "--state-dir", str(its.directory_root), "--tag", its.tag,
                    "--owner", its.owner, "--qemu-user", its.qemu_user,
                    "--qemu-group", its.qemu_group, "--resolv-conf", its.resolv_conf,
                    "--until-stdin-ends",
                ],
                stdin=reader,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "LC_ALL": "C",
                    "PYTHONPATH": str(Path(kilonova.__file__).parent.parent),
                },
            )  # fmt: skip
    finally:
        os.close(reader)
    before = _pipes.get(its.tag)
    if before is not None:
        os.close(before)
    _pipes[its.tag] = writer
    pid_file.write_text(str(process.pid))
    threading.Thread(target=process.wait, name="reap helper", daemon=True).start()
    deadline = time.monotonic() + START_S
    while not _answers(path):
        if process.poll() is not None or time.monotonic() > deadline:
            said = (its.directory_root / "helper.log").read_text(errors="replace")[-800:]
            raise CommandFailed(f"the root helper of another host did not start: {said}")
        time.sleep(0.02)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
