"""What real guests need of this machine: a table of checks, each ✗ with one command that mends it."""

import contextlib
import ipaddress
import os
import platform
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from kilonova.agent.helper import forward
from kilonova.agent.helper.run import CommandFailed, drop_namespace, ip, nft, run
from kilonova.agent.helper.users import CLOUD, QEMU

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "libvirtd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "dnsmasq": "dnsmasq-base",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "genisoimage": "genisoimage",
}
DEFAULT_CIDRS = ("172.24.4.0/24", "172.31.244.0/24", "10.244.244.0/24", "192.168.244.0/24")
KVM_LIMIT_S = 10.0
MIN_DISK_GIB = 5
MIN_MEMORY_MIB = 1024


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One row. required: real guests cannot run without it. mend: a command, or what to do; None when ok."""

    name: str
    ok: bool
    detail: str
    mend: str | None = None
    required: bool = True


def run_checks(
    state_dir: Path, public_cidr: str | None = None, try_kvm: bool = True
) -> list[Check]:
    """Run every check and return its rows in order. Takes up to 12 s when KVM is tried; changes nothing."""
    checks: list[Callable[[], Check]] = [
        _system,
        _root,
        _programs,
        _qemu,
        _libvirt,
        lambda: _kvm(try_kvm),
        _namespaces,
        _nft,
        _bridge_filter,
        _forward,
        lambda: _cidr(public_cidr),
        lambda: _disk(state_dir),
        _memory,
        _users,
    ]
    return [check() for check in checks]


def real_guests_can_run(rows: list[Check]) -> list[Check]:
    """Return the rows that forbid real guests; none: they can run."""
    return [row for row in rows if row.required and not row.ok]


# -- the checks --------------------------------------------------------------------------------------------------


def _system() -> Check:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    name = release.get("PRETTY_NAME", platform.platform())
    known = (release.get("ID"), release.get("VERSION_ID")) == ("debian", "12")
    detail = f"{name}, {platform.machine()}"
    return Check(
        name="system", ok=True, required=False, detail=detail if known else detail + " (untested)"
    )


def _root() -> Check:
    ok = os.geteuid() == 0
    return Check(
        name="root",
        ok=ok,
        detail="root" if ok else "not root: real networks and guests need a root helper",
        mend=None if ok else "sudo kilonova up",
    )


def _programs() -> Check:
    missing = {p: pkg for p, pkg in PROGRAMS.items() if shutil.which(p, path=SEARCH) is None}
    if not missing:
        return Check(name="programs", ok=True, detail=f"all {len(PROGRAMS)} are there")
    packages = " ".join(sorted(set(missing.values())))
    return Check(
        name="programs",
        ok=False,
        detail="missing: " + ", ".join(sorted(missing)),
        mend=f"apt-get install --no-install-recommends {packages}",
    )


def _version(name: str, program: str, package: str) -> Check:
    try:
        words = run([program, "--version"]).splitlines()[0]
    except (CommandFailed, IndexError) as exc:
        return Check(
            name=name,
            ok=False,
            detail=str(exc),
            mend=f"apt-get install --no-install-recommends {package}",
        )
    return Check(name=name, ok=True, detail=words)


def _qemu() -> Check:
    return _version("QEMU", "qemu-system-x86_64", "qemu-system-x86")


def _libvirt() -> Check:
    row = _version("libvirt", "libvirtd", "libvirt-daemon-system")
    try:
        import libvirt  # noqa: F401
    except ImportError:
        mend = "pip install 'kilonova[libvirt]'"
        return Check(name="libvirt", ok=False, detail="no libvirt for Python", mend=mend)
    return row


def _kvm(really: bool) -> Check:
    if not Path("/dev/kvm").exists():
        return Check(
            name="KVM", ok=False, required=False,
            detail="no /dev/kvm: guests run by software emulation (slow)",
            mend="enable virtualisation in the firmware, or nested virtualisation; then modprobe kvm",
        )  # fmt: skip
    if not really:
        return Check(name="KVM", ok=False, required=False, detail="not tried")
    works, detail = try_kvm()
    mend = None if works else "nothing to do here: guests run by software emulation (slow)"
    return Check(name="KVM", ok=works, required=False, detail=detail, mend=mend)


# A boot sector: writes "K" to port 0xe9 (QEMU's debug console), sleeps through 20 timer interrupts, counts to 2^28,
# writes "D". Starting is not enough: on some machines a guest starts and then hangs or crawls.
_SECTOR = (
    bytes.fromhex("b04be6e9 fb b91400 f4e2fd 66b900000010 664975fc b044e6e9 faf4").ljust(510, b"\0")
    + b"\x55\xaa"
)
KVM_GOOD_S = 5.0  # a healthy machine needs 1.6 s


def try_kvm(limit_s: float = KVM_LIMIT_S) -> tuple[bool, str]:
    """Boot a guest of one sector with KVM and see whether it makes progress within ``limit_s`` seconds.

    On some machines /dev/kvm is there and guests hang: only a guest can tell.
    """
    with tempfile.TemporaryDirectory(prefix="kilonova-kvm-") as name:
        sector, seen = Path(name) / "sector", Path(name) / "seen"
        sector.write_bytes(_SECTOR.ljust(1024 * 1024, b"\0"))
        command = [
            "qemu-system-x86_64", "-accel", "kvm", "-machine", "pc", "-m", "16", "-display", "none",
            "-nodefaults", "-no-user-config", "-drive", f"file={sector},format=raw,if=ide",
            "-chardev", f"file,id=d,path={seen}", "-device", "isa-debugcon,iobase=0xe9,chardev=d",
        ]  # fmt: skip
        try:
            process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except OSError as exc:
            return False, f"QEMU cannot be run: {exc}"
        try:
            started, said = time.monotonic(), b""
            while time.monotonic() - started < limit_s:
                took = time.monotonic() - started
                said = seen.read_bytes() if seen.exists() else b""
                if b"D" in said:
                    works = took <= KVM_GOOD_S
                    return works, f"a guest ran in {took:.1f} s" + (
                        "" if works else ": too slow to use"
                    )
                if process.poll() is not None:
                    words = process.stderr.read().decode(errors="replace") if process.stderr else ""
                    return False, f"QEMU refused: {words.strip()[-200:]}"
                time.sleep(0.02)
            got = "began and then hung" if b"K" in said else "made no progress"
            return False, f"/dev/kvm is there, but a guest {got} ({limit_s:.0f} s)"
        finally:
            process.kill()
            process.communicate()


def _scratch(name: str, test: Callable[[str], None], mend: str) -> Check:
    """Run ``test`` in a namespace of its own, removed afterwards."""
    if os.geteuid() != 0:
        return Check(
            name=name, ok=False, detail="not tried: needs root", mend="sudo kilonova doctor"
        )
    ns = f"kilonova-try-{os.getpid()}"
    try:
        run(["ip", "netns", "add", ns])
        try:
            test(ns)
        finally:
            drop_namespace(ns)
    except CommandFailed as exc:
        return Check(name=name, ok=False, detail=exc.message, mend=mend)
    return Check(name=name, ok=True, detail="tried")


def _namespaces() -> Check:
    def test(ns: str) -> None:
        ip(
            [
                "link add kntry-b type bridge",
                "link add kntry-v type veth peer name kntry-w",
                "tuntap add dev kntry-t mode tap",
                "link set kntry-t master kntry-b",
            ],
            ns,
        )

    return _scratch("namespaces, bridges, taps", test, "modprobe -a tun veth bridge")


def _nft() -> Check:
    from kilonova.agent.helper import nft_rules

    def test(ns: str) -> None:
        nft(nft_rules.BASE, ns)

    return _scratch(
        "nftables", test, "modprobe -a nf_tables nft_ct nft_nat; apt-get install nftables"
    )


def _bridge_filter() -> Check:
    def look() -> bool:
        return Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()

    if not look() and os.geteuid() == 0 and shutil.which("modprobe", path=SEARCH):
        with contextlib.suppress(CommandFailed):
            run(["modprobe", "br_netfilter"])
    ok = look()
    mend = None if ok else "modprobe br_netfilter"
    detail = "br_netfilter is there" if ok else "security groups need br_netfilter"
    return Check(name="bridge filter", ok=ok, detail=detail, mend=mend)


def _forward() -> Check:
    if os.geteuid() != 0:
        return Check(name="forwarding", ok=True, required=False, detail="not tried: needs root")
    rejects = forward.foreign_rejects()
    blockers = [f"{family} {table} {chain}" for family, table, chain in forward.blockers()]
    if rejects:
        return Check(
            name="forwarding", ok=False, required=False,
            detail=f"{', '.join(rejects)} may refuse what guests send out",
            mend="firewall-cmd --zone=trusted --add-interface=" + "kn-pub-<tag>",
        )  # fmt: skip
    if blockers:
        detail = (
            f"dropped by default in {', '.join(blockers)}: `up` adds an accept for its own bridge"
        )
        return Check(name="forwarding", ok=True, detail=detail, required=False)
    return Check(name="forwarding", ok=True, detail="nobody drops it", required=False)


def routes() -> list[ipaddress.IPv4Network]:
    """Return the networks that this machine has routes to, but for the default route and our own bridges."""
    try:
        found = msgspec.json.decode(run(["ip", "-j", "-4", "route", "show", "table", "all"]))
    except CommandFailed:
        return []
    networks = []
    for route in found:
        destination = route.get("dst", "default")
        if route.get("type") in ("local", "broadcast", "multicast") or destination == "default":
            continue
        if str(route.get("dev", "")).startswith("kn-"):
            continue
        networks.append(ipaddress.IPv4Network(destination))
    return networks


def choose_cidr(wanted: tuple[str, ...] = DEFAULT_CIDRS) -> str | None:
    """Return the first of these networks that no route of the machine overlaps, or None."""
    taken = routes()
    for text in wanted:
        network = ipaddress.IPv4Network(text)
        if not any(network.overlaps(other) for other in taken):
            return text
    return None


def _cidr(wanted: str | None) -> Check:
    chosen = choose_cidr((wanted,) if wanted is not None else DEFAULT_CIDRS)
    if chosen is None:
        return Check(
            name="public network", ok=False, detail="every default overlaps a route of this machine",
            mend="kilonova up --public-cidr with a network that is free",
        )  # fmt: skip
    return Check(name="public network", ok=True, detail=f"{chosen} is free")


def _disk(state_dir: Path) -> Check:
    place = state_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // 1024**3
    ok = free >= MIN_DISK_GIB
    return Check(
        name="disk", ok=ok, detail=f"{free} GiB free at {place}",
        mend=None if ok else f"free {MIN_DISK_GIB} GiB at {place}, or use --state-dir",
    )  # fmt: skip


def _memory() -> Check:
    fields = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) // 1024
    free = fields.get("MemAvailable", 0)
    ok = free >= MIN_MEMORY_MIB
    mend = None if ok else f"{MIN_MEMORY_MIB} MiB should be free: end something"
    return Check(name="memory", ok=ok, detail=f"{free} MiB free", mend=mend)


def _users() -> Check:
    missing = []
    for name in (CLOUD, QEMU):
        try:
            pwd.getpwnam(name)
        except KeyError:
            missing.append(name)
    if not missing:
        return Check(name="users", ok=True, required=False, detail=f"{CLOUD}, {QEMU}")
    detail = f"`up` makes them: {', '.join(missing)}"
    return Check(name="users", ok=True, required=False, detail=detail)
