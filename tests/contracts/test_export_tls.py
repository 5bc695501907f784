"""Who reaches an exported volume over TCP: hosts that have it attached, by their certificates, and nobody else."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from kilonova.common.host_certificates import HostAuthority, name_of
from kilonova.common.ids import new_uuid
from kilonova.objects import volume_orders as v
from kilonova.objects.volume import NbdConnection
from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt import exporter
from kilonova.virt.libvirt.disks import Owner
from kilonova.virt.libvirt.identity import HostIdentity
from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig
from tests.contracts.test_driver import EmptyImages, real, until_done
from tests.contracts.test_volume_store import nobody, quiet

pytestmark = [pytest.mark.real, real]
AUTHORITY = HostAuthority(b"a secret of the deployment's own")


def identity_of(
    path: Path,
    host: str,
    authority: HostAuthority = AUTHORITY,
    days: float = 10,
    group: int | None = None,
) -> HostIdentity:
    """Return what a host has once it was told its certificate."""
    path.mkdir(exist_ok=True)
    found = HostIdentity(host, lambda: path, Owner(group))
    found.take(authority.sign(host, found.request(), days), authority.certificate)
    return found


@dataclass
class Site:
    """Two hosts of a cloud. volume: of host1's."""

    path: Path
    store: QcowVolumes
    volume: str = ""
    generation: int = 0

    def export(self, *hosts: str, volume: str = "") -> list[NbdConnection]:
        """Have the volume exported to these hosts and to nobody else."""
        wanted = tuple(
            v.VolumeExport(
                attachment_id=new_uuid(),
                volume_id=volume or self.volume,
                name=secrets.token_hex(16),
                host=host,
            )
            for host in hosts
        )
        self.generation += 1
        exports = v.VolumeExports(host="host1", generation=self.generation, exports=wanted)
        applied = self.store.apply(exports)
        assert applied.failed == ()
        ports = dict(applied.ports)
        return [
            NbdConnection(
                attachment_id=e.attachment_id,
                volume_id=e.volume_id,
                host=applied.address,
                port=ports[e.attachment_id],
                export=e.name,
                tls_name=applied.tls_name,
            )
            for e in wanted
        ]

    def reaches(self, at: NbdConnection, certificates: Path | None, name: str = "") -> str:
        """Read the volume as somebody; return what was said against it."""
        node: dict[str, object] = {
            "driver": "nbd",
            "server": {"type": "inet", "host": at.host, "port": str(at.port)},
            "export": at.export,
        }
        words = ["qemu-img", "info", "--output=json"]
        if certificates is not None:
            node |= {"tls-creds": "tls", "tls-hostname": name or at.tls_name}
            words += ["--object", f"tls-creds-x509,id=tls,dir={certificates},endpoint=client"]
        words.append("json:" + json.dumps({"driver": "raw", "file": node}))
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode == 0) == ("virtual-size" in done.stdout)
        return done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        identity = identity_of(tmp_path / "of-host1", "host1")
        config = VolumesConfig(
            tmp_path / "volumes", "host1", address="127.0.0.1", identity=identity
        )
        store = QcowVolumes(config, EmptyImages(), nobody)
        stack.callback(exporter.end_all, tmp_path / "volumes")
        stack.callback(store.close)
        made = Site(tmp_path, store)
        made.volume = new_uuid()
        until_done(lambda: store.make(v.VolumeMake(volume_id=made.volume, size_gib=1), quiet))
        yield made


def test_the_host_that_has_it_reaches_it_and_nobody_else_does(site: Site) -> None:
    """Not another host of the cloud, nobody without a certificate, with one of somebody else's, or with an old one."""
    [at] = site.export("host2")
    assert at.tls_name == name_of("host1") and at.port
    ours = identity_of(site.path / "of-host2", "host2").directory()
    assert site.reaches(at, ours) == ""
    other = identity_of(site.path / "of-host3", "host3").directory()
    assert "TLS" in site.reaches(at, other)
    assert "TLS" in site.reaches(at, None)
    stranger = HostAuthority(b"of another deployment, elsewhere")
    wrong = identity_of(site.path / "wrong", "host2", stranger).directory()
    (wrong / "ca-cert.pem").write_text(AUTHORITY.certificate)  # it trusts us, we do not trust it
    assert site.reaches(at, wrong) != ""
    old = identity_of(site.path / "old", "host2", days=-1).directory()
    assert "expired" in site.reaches(at, old)  # QEMU does not even show it


def test_the_server_refuses_an_expired_certificate_itself(site: Site) -> None:
    """A client that shows one all the same gets no word in."""
    [at] = site.export("host2")
    for days, lets_in in ((-0.5, False), (10.0, True)):
        kept = identity_of(site.path / "of-host2", "host2", days=days).directory()
        assert _speaks(at, kept) is lets_in


def _speaks(at: NbdConnection, kept: Path) -> bool:
    """Negotiate TLS by hand and say whether the server goes on. source: the NBD protocol, NBD_OPT_STARTTLS."""
    import socket
    import ssl
    import struct

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(kept / "ca-cert.pem")
    context.load_cert_chain(kept / "client-cert.pem", kept / "client-key.pem")
    with socket.create_connection((at.host, at.port), 20) as plain:
        assert plain.recv(18, socket.MSG_WAITALL).startswith(b"NBDMAGICIHAVEOPT")
        plain.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 5, 0))
        assert struct.unpack(">QIII", plain.recv(20, socket.MSG_WAITALL))[1:] == (5, 1, 0)
        try:
            with context.wrap_socket(plain, server_hostname=at.tls_name) as secure:
                secure.sendall(b"IHAVEOPT" + struct.pack(">II", 3, 0))  # NBD_OPT_LIST
                return bool(secure.recv(20))
        except OSError:
            return False


def test_a_host_that_plays_another_is_not_believed(site: Site) -> None:
    """Whoever answers at the address must be the host that keeps the volume."""
    [at] = site.export("host2")
    ours = identity_of(site.path / "of-host2", "host2").directory()
    assert "does not match" in site.reaches(at, ours, name_of("host3"))


def test_one_who_may_reach_a_volume_sees_no_other(site: Site) -> None:
    """What a host can list is what it has attached: its neighbour's volume has another port, and other guests."""
    second = new_uuid()
    until_done(lambda: site.store.make(v.VolumeMake(volume_id=second, size_gib=1), quiet))
    wanted = [
        v.VolumeExport(attachment_id=new_uuid(), volume_id=i, name=secrets.token_hex(16), host=h)
        for i, h in ((site.volume, "host2"), (second, "host3"))
    ]
    exports = v.VolumeExports(host="host1", generation=1, exports=tuple(wanted))
    ports = dict(site.store.apply(exports).ports)
    assert len(set(ports.values())) == 2
    at = {
        e.host: NbdConnection(
            attachment_id=e.attachment_id,
            volume_id=e.volume_id,
            host="127.0.0.1",
            port=ports[e.attachment_id],
            export=e.name,
            tls_name=name_of("host1"),
        )
        for e in wanted
    }
    kept = {h: identity_of(site.path / f"of-{h}", h).directory() for h in at}
    assert site.reaches(at["host2"], kept["host2"]) == ""
    assert site.reaches(at["host3"], kept["host3"]) == ""
    assert site.reaches(at["host3"], kept["host2"]) != ""
    stolen = at["host2"].replace(export=at["host3"].export)
    assert "not" in site.reaches(stolen, kept["host2"])


def test_who_may_changes_under_what_runs(site: Site) -> None:
    """Both ends of a move reach it at once, from one process; then one alone; the port and the others stay."""
    ours = identity_of(site.path / "of-host2", "host2").directory()
    other = identity_of(site.path / "of-host3", "host3").directory()
    [before] = site.export("host2")
    first, second = site.export("host2", "host3")
    assert first.port == second.port == before.port
    assert site.reaches(first, ours) == "" and site.reaches(second, other) == ""
    [last] = site.export("host3")
    assert site.reaches(last, other) == "" and site.reaches(last, ours) != ""
    site.store.apply(v.VolumeExports(host="host1", generation=99))
    assert not list((site.path / "volumes" / "daemons").iterdir())
    assert site.reaches(last, other) != ""


def test_a_host_without_a_certificate_exports_nothing(tmp_path: Path) -> None:
    """It says why; once it has one, what was wanted is exported by the next look."""
    (tmp_path / "kept").mkdir()
    identity = HostIdentity("host1", lambda: tmp_path / "kept", Owner(None))
    config = VolumesConfig(tmp_path / "volumes", "host1", address="127.0.0.1", identity=identity)
    store = QcowVolumes(config, EmptyImages(), nobody)
    volume = new_uuid()
    try:
        until_done(lambda: store.make(v.VolumeMake(volume_id=volume, size_gib=1), quiet))
        one = v.VolumeExport(attachment_id=new_uuid(), volume_id=volume, name="e" * 32, host="h")
        applied = store.apply(v.VolumeExports(host="host1", generation=1, exports=(one,)))
        assert "certificate" in dict(applied.failed)[one.attachment_id]
        identity.take(AUTHORITY.sign("host1", store.certificate_request()), AUTHORITY.certificate)
        again = store.check()
        assert again is not None and again.failed == () and dict(again.ports)[one.attachment_id]
        assert store.check() is None
    finally:
        exporter.end_all(tmp_path / "volumes")
        store.close()


def test_a_volume_is_fetched_with_tls(site: Site) -> None:
    """Another host copies it as itself; a host that does not have it attached cannot."""
    [at] = site.export("host2")
    for host, works in (("host3", False), ("host2", True)):
        identity = identity_of(site.path / f"of-{host}", host)
        config = VolumesConfig(site.path / f"volumes-{host}", host, identity=identity)
        other = QcowVolumes(config, EmptyImages(), nobody)
        make = v.VolumeMake(volume_id=site.volume, size_gib=1, remote=at)
        try:
            if works:
                assert until_done(lambda o=other, m=make: o.make(m, quiet)).size_gib == 1
            else:
                with pytest.raises(DriverError):
                    until_done(lambda o=other, m=make: o.make(m, quiet))
        finally:
            other.close()


def test_a_renewed_certificate_touches_nothing_that_runs(site: Site) -> None:
    """The key stays; what runs shows the old certificate, which is good, and what starts later the new one."""
    kept = identity_of(site.path / "of-host2", "host2").directory()
    [at] = site.export("host2")
    keys = [(site.path / d / "server-key.pem").read_text() for d in ("of-host1", "of-host2")]
    for directory, host in (("of-host1", "host1"), ("of-host2", "host2")):
        before = (site.path / directory / "server-cert.pem").read_text()
        identity_of(site.path / directory, host)
        assert (site.path / directory / "server-cert.pem").read_text() != before
    assert keys == [
        (site.path / d / "server-key.pem").read_text() for d in ("of-host1", "of-host2")
    ]
    assert site.reaches(at, kept) == ""
    assert exporter.end_all(site.path / "volumes")
    assert site.store.check() is not None
    assert site.reaches(at, kept) == ""
