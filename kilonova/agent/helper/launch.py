"""Become libvirtd in a private root: own mount and UTS namespace, our directories over libvirt's compiled-in ones.

Run as ``python launch.py PRIVATE_DIR RUN_DIR HOSTNAME PID_FILE`` by the root helper, inside the host's namespace.
Imports nothing of ours: it lives on as libvirtd.
"""

import ctypes
import os
import socket
import sys

CLONE_NEWNS, CLONE_NEWUTS = 0x00020000, 0x04000000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
DIRECTORIES = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), None, flags, None), f"mount {target}")


def _forget_namespaces() -> None:
    """A copied mount of a network namespace would keep it alive after its removal."""
    with open("/proc/self/mounts") as mounts:
        points = [line.split()[1] for line in mounts]
    for point in reversed(points):
        if point == "/run/netns" or point.startswith("/run/netns/"):
            _libc.umount2(point.encode(), MNT_DETACH)


def _hide_kvm(private: str) -> None:
    """Put a closed file over a /dev/kvm that guests may not open.

    libvirt probes QEMU's abilities with more rights than a guest has, finds the result contradicting the device's mode,
    and so probes again before every answer: 15 to 90 s each. With the device out of sight it probes once.
    """
    try:
        found = os.stat("/dev/kvm")
    except FileNotFoundError:
        return
    if found.st_mode & 0o006 == 0o006 or (found.st_mode & 0o060 == 0o060 and found.st_gid != 0):
        return
    closed = os.path.join(private, "no-kvm")
    os.close(os.open(closed, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0))
    os.chmod(closed, 0)
    _mount(closed, "/dev/kvm", MS_BIND)


def main() -> None:
    private, run, hostname, pid_file = sys.argv[1:5]
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS), "unshare")
    _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")
    _forget_namespaces()
    for name, target in DIRECTORIES.items():
        os.makedirs(target, exist_ok=True)
        _mount(run if name == "run" else os.path.join(private, name), target, MS_BIND)
    for name in ("hosts", "passwd", "group"):
        ours, target = os.path.join(private, name), f"/etc/{name}"
        if os.path.exists(ours) and os.path.exists(target):  # a bare machine has no /etc/hosts
            _mount(ours, target, MS_BIND)
    _hide_kvm(private)
    socket.sethostname(hostname)
    os.umask(0o022)
    os.execv("/usr/sbin/libvirtd", ["/usr/sbin/libvirtd", "--pid-file", pid_file])  # noqa: S606


if __name__ == "__main__":
    main()
