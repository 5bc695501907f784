"""A libvirtd in a private root, for tests: ended by its pid, with every guest that was made in it."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GUARD_S = 30.0
QEMU_ID = 64058
"""User and group of QEMU, known inside the private root only: guests are never root."""
PLACES = ("etc", "run", "lib", "log", "cache")
_LAUNCH = """
mount --make-rprivate /
mount --bind {root}/etc /etc/libvirt
mount --bind {root}/run /run/libvirt
mount --bind {root}/lib /var/lib/libvirt
mount --bind {root}/log /var/log/libvirt
mount --bind {root}/cache /var/cache/libvirt
mount --bind {root}/hosts /etc/hosts
mount --bind {root}/passwd /etc/passwd
mount --bind {root}/group /etc/group
if [ -e /dev/kvm ]; then mount --bind {root}/no-kvm /dev/kvm; fi
hostname kn-test
exec /usr/sbin/libvirtd --pid-file /run/libvirt/libvirtd.pid
"""
_DAEMON = """
host_uuid = "11111111-aaaa-4aaa-8aaa-111111111111"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
_QEMU = """
security_driver = "none"
user = "kn-test-qemu"
group = "kn-test-qemu"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
seccomp_sandbox = 0
nbd_tls_x509_cert_dir = "{root}/certificates"
"""


@dataclass
class Libvirtd:
    """Where it lives; ``start`` and ``kill`` leave guests alone. ns: the network namespace, None: the machine's own."""

    root: Path
    process: subprocess.Popen[bytes] | None = None
    ns: str | None = None

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.root}/run/libvirt-sock"

    def start(self) -> None:
        script = self.root / "launch.sh"
        script.write_text(_LAUNCH.format(root=self.root))
        with (self.root / "out").open("ab") as out:
            self.process = subprocess.Popen(
                [
                    *(() if self.ns is None else ("ip", "netns", "exec", self.ns)),
                    *("unshare", "--mount", "--uts", "bash", str(script)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        end = time.monotonic() + GUARD_S
        while not self._answers():
            assert self.process.poll() is None, (self.root / "out").read_text()
            assert time.monotonic() < end, "libvirtd does not answer"
            time.sleep(0.05)

    def kill(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(GUARD_S)
            self.process = None

    def _answers(self) -> bool:
        import libvirt

        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        try:
            libvirt.open(self.uri).close()
        except libvirt.libvirtError:
            return False
        return True

    def end_guests(self) -> None:
        """Destroy and undefine every domain, ours or not: all of them were made by the test."""
        import libvirt

        conn = libvirt.open(self.uri)
        for domain in conn.listAllDomains():
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            )
        conn.close()


def possible() -> bool:
    """Tell whether this machine and user can run it."""
    tools = ("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "genisoimage")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return os.geteuid() == 0 and all(shutil.which(t, path=path) for t in tools)


def _add(root: Path, name: str, *lines: str) -> None:
    """Copy a file of /etc with lines whose first word it lacks: libvirtd looks for its users before its settings."""
    text = Path("/etc", name).read_text()
    known = {line.partition(":")[0] for line in text.splitlines()}
    more = [line + "\n" for line in lines if line.partition(":")[0] not in known]
    (root / name).write_text(text + "".join(more))


@contextmanager
def private_libvirtd(ns: str | None = None) -> Iterator[Libvirtd]:
    """Run one; at the end its guests, it and its files are gone."""
    root = Path(tempfile.mkdtemp(prefix="kn-", dir="/tmp"))
    root.chmod(0o711)
    for place in (*PLACES, "certificates"):
        (root / place).mkdir()
    os.chown(root / "certificates", -1, QEMU_ID)
    (root / "certificates").chmod(0o2750)
    for place in ("/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt"):
        Path(place).mkdir(parents=True, exist_ok=True)
    Path("/var/cache/libvirt").mkdir(parents=True, exist_ok=True)
    (root / "etc" / "libvirtd.conf").write_text(_DAEMON)
    (root / "etc" / "qemu.conf").write_text(_QEMU.format(root=root))
    (root / "hosts").write_text("127.0.0.1 localhost kn-test\n")
    nobody = ":/nonexistent:/usr/sbin/nologin"
    _add(
        root,
        "passwd",
        f"libvirt-qemu:x:64055:64055:{nobody}",
        f"kn-test-qemu:x:{QEMU_ID}:{QEMU_ID}:{nobody}",
    )
    _add(
        root,
        "group",
        "libvirt-qemu:x:64055:",
        "kvm:x:64056:",
        "libvirt:x:64057:",
        f"kn-test-qemu:x:{QEMU_ID}:",
    )
    # A /dev/kvm that QEMU's user may not open makes libvirt 9.0 probe QEMU anew in every call: 30 s each.
    (root / "no-kvm").touch(mode=0o600)
    daemon = Libvirtd(root, ns=ns)
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.process is None:
            daemon.start()
        daemon.end_guests()
        daemon.kill()
        shutil.rmtree(root)
