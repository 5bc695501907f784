"""Our own libvirtd: started, found again, ended; and the list of our QEMU processes.

source: libvirtd.conf and qemu.conf of libvirt 9.0; the recipe was measured on Debian 12.
"""

import grp
import os
import pwd
import socket
import sys
import time
import uuid
from pathlib import Path

from kilonova.agent.helper import launch, names
from kilonova.agent.helper.run import NETNS, CommandFailed, alive, end, run, spawn
from kilonova.agent.helper.settings import Settings
from kilonova.agent.libvirtd import LibvirtdDown, LibvirtdInfo

START_S = 20.0
LOCKS = Path("/var/lock")


def _directories(settings: Settings) -> Path:
    settings.directory(mode=0o755)
    private = settings.directory("libvirt", mode=0o755)
    for name in launch.DIRECTORIES:
        if name != "run":
            settings.directory("libvirt", name, mode=0o755)
    return private


def _libvirtd_conf(settings: Settings) -> str:
    host_uuid = uuid.uuid5(uuid.NAMESPACE_OID, f"kilonova-{settings.tag}-{_machine()}")
    group = grp.getgrgid(pwd.getpwnam(settings.owner).pw_gid).gr_name
    return f"""host_uuid = "{host_uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "{group}"
unix_sock_ro_perms = "0770"
unix_sock_rw_perms = "0770"
listen_tls = 0
listen_tcp = 0
max_clients = 200
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


def _machine() -> str:
    path = Path("/etc/machine-id")
    return path.read_text().strip() if path.exists() else socket.gethostname()


def _certificates(settings: Settings) -> Path:
    """Return where the agent puts this host's certificate, and QEMU reads it."""
    path = settings.directory("libvirt", "certificates", mode=0o700)
    owner, group = pwd.getpwnam(settings.owner), grp.getgrnam(settings.qemu_group)
    os.chown(path, owner.pw_uid, group.gr_gid)
    path.chmod(0o2750)
    return path


def _qemu_conf(settings: Settings) -> str:
    return f"""security_driver = "none"
user = "{settings.qemu_user}"
group = "{settings.qemu_group}"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
seccomp_sandbox = 0
vnc_auto_unix_socket = 0
nbd_tls_x509_cert_dir = "{_certificates(settings)}"
"""


def start(settings: Settings) -> LibvirtdInfo:
    """Return the libvirtd of this cloud, started unless it answers. Raises LibvirtdDown."""
    private = _directories(settings)
    runtime = settings.runtime("libvirt")
    sock, pid_file = runtime / "libvirt-sock", runtime / "libvirtd.pid"
    pid, started = alive(pid_file, "libvirtd"), False
    if pid is None or not _answers(sock) or not _is_configured(settings, private):
        if pid is not None:
            end(pid)
        _write_configuration(settings, private)
        pid = _launch(settings, private, sock, pid_file)
        started = True
    moves = settings.runtime("moves")
    qemu = pwd.getpwnam(settings.qemu_user)
    os.chown(moves, qemu.pw_uid, qemu.pw_gid)
    moves.chmod(0o700)
    return LibvirtdInfo(
        uri=f"qemu+unix:///system?socket={sock}",
        pid=pid,
        socket=str(sock),
        qemu_user=settings.qemu_user,
        qemu_group=settings.qemu_group,
        log=str(private / "log" / "libvirtd.log"),
        moves=str(moves),
        certificates=str(_certificates(settings)),
        started=started,
    )


def _is_configured(settings: Settings, private: Path) -> bool:
    """Tell whether what runs has read what we would write: an earlier release may have started it."""
    path = private / "etc" / "qemu.conf"
    return path.exists() and path.read_text() == _qemu_conf(settings)


def _write_configuration(settings: Settings, private: Path) -> None:
    (private / "etc" / "libvirtd.conf").write_text(_libvirtd_conf(settings))
    (private / "etc" / "qemu.conf").write_text(_qemu_conf(settings))
    name = f"kilonova-{settings.tag}"
    (private / "hosts").write_text(f"127.0.0.1 localhost {name}\n::1 localhost\n")
    settings.directory("libvirt", "etc", "qemu", mode=0o755)
    _compiled_in_user(settings, private)
    _lock_directory()


def _compiled_in_user(settings: Settings, private: Path) -> None:
    """Let libvirtd see Debian's user libvirt-qemu: it refuses to start without, even when another is configured."""
    user, group = pwd.getpwnam(settings.qemu_user), grp.getgrnam(settings.qemu_group)
    lines = {
        "passwd": f"libvirt-qemu:x:{user.pw_uid}:{group.gr_gid}::/nonexistent:/usr/sbin/nologin\n",
        "group": f"libvirt-qemu:x:{group.gr_gid}:\n",
    }
    for name, line in lines.items():
        text = Path("/etc", name).read_text()
        (private / name).unlink(missing_ok=True)
        if "\nlibvirt-qemu:" not in text:
            (private / name).write_text(text.rstrip("\n") + "\n" + line)


def _lock_directory() -> None:
    """Have the directory in which libvirtd locks a guest's serial port; where /run is bare nobody has made it.

    source: Filesystem Hierarchy Standard 3.0, 5.9; the mode is Debian's.
    """
    path = LOCKS.resolve()
    if not path.exists():
        path.mkdir(parents=True)
        path.chmod(0o1777)


def _launch(settings: Settings, private: Path, sock: Path, pid_file: Path) -> int:
    for stale in (sock, pid_file):
        stale.unlink(missing_ok=True)
    spawn(
        [
            sys.executable,
            "-I",
            str(Path(launch.__file__)),
            str(private),
            str(settings.runtime("libvirt")),
            f"kilonova-{settings.tag}",
            "/run/libvirt/libvirtd.pid",
        ],
        ns=names.host_ns(settings.tag),
        log=private / "log" / "start.log",
    )
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        pid = alive(pid_file, "libvirtd")
        if pid is not None and _answers(sock) and _speaks(sock):
            return pid
        time.sleep(0.02)
    logs = [private / "log" / "start.log", private / "log" / "libvirtd.log"]
    tail = "".join(p.read_text(errors="replace")[-800:] for p in logs if p.exists())
    raise LibvirtdDown("libvirtd did not start", log=tail)


def _answers(sock: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(str(sock))
        except OSError:
            return False
    return True


def _speaks(sock: Path) -> bool:
    """Ask a first question: the socket is there before the QEMU driver is."""
    try:
        run(["virsh", "--connect", f"qemu+unix:///system?socket={sock}", "uri"])
    except CommandFailed:
        return False
    return True


def stop(settings: Settings) -> None:
    """End libvirtd; guests go on. Fine when it does not run."""
    pid = alive(settings.runtime_root / "libvirt" / "libvirtd.pid", "libvirtd")
    if pid is not None:
        end(pid)


def processes(tag: str) -> list[tuple[int, str]]:
    """Return (pid, command) of every process that stands in one of our network namespaces."""
    inodes = set()
    if NETNS.is_dir():
        for path in NETNS.iterdir():
            if names.is_ours(path.name, tag) or path.name == names.machine_ns(tag):
                try:
                    inodes.add(path.stat().st_ino)
                except FileNotFoundError:
                    continue
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "ns" / "net").stat().st_ino in inodes:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found.append((int(entry.name), b" ".join(words).decode(errors="replace").strip()))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def guests(tag: str) -> list[tuple[int, str]]:
    """Return (pid, domain name) of every QEMU of ours."""
    found = []
    for pid, text in processes(tag):
        words = text.split()
        if words and Path(words[0]).name.startswith("qemu-system-"):
            name = words[words.index("-name") + 1] if "-name" in words else ""
            found.append((pid, name.removeprefix("guest=").split(",")[0]))
    return found


def is_root() -> bool:
    return os.geteuid() == 0
