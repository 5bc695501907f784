"""Our libvirtd in a private root: started, adopted, ended; guests outlive it; nothing is left after a purge."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.agent import libvirtd
from kilonova.agent.helper.run import end
from kilonova.agent.helper.verbs.purge import list_leftovers
from tests.real.netguest import Helper, missing, until

libvirt = pytest.importorskip("libvirt")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
    pytest.mark.skipif(not Path("/usr/sbin/libvirtd").exists(), reason="needs libvirtd"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU"),
]

GUEST = """
<domain type='qemu'><name>kn-guest</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>
"""


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    made = Helper(tmp_path, secrets.token_hex(3))
    made.start()
    libvirt.registerErrorHandler(lambda _, __: None, None)
    try:
        made.client.host_up("172.31.78.0/24", "172.31.78.1")
        yield made
    finally:
        left = made.client.purge()
        made.kill()
        assert left == []
        assert list_leftovers(made.tag, tmp_path / "host") == []


def test_guests_outlive_libvirtd_and_the_helper(helper: Helper) -> None:
    info = libvirtd.ensure(helper.client)
    assert info.started
    assert not libvirtd.ensure(helper.client).started
    connection = libvirt.open(info.uri)
    assert connection.getHostname() == f"kilonova-{helper.tag}"
    assert connection.listAllNetworks() == []
    connection.createXML(GUEST)
    connection.close()
    (guest,) = helper.client.guest_processes()
    assert guest[1] == "kn-guest"
    host = Path(f"/run/netns/kilonova-{helper.tag}").stat().st_ino
    assert Path(f"/proc/{guest[0]}/ns/net").stat().st_ino == host
    libvirtd.stop(helper.client)
    libvirtd.stop(helper.client)
    assert helper.client.guest_processes() == [guest]
    helper.kill()
    helper.start()
    again = libvirtd.ensure(helper.client)
    assert again.started
    connection = libvirt.open(again.uri)
    assert [d.name() for d in connection.listAllDomains()] == ["kn-guest"]
    connection.close()
    end(again.pid)
    until(lambda: not Path(f"/proc/{again.pid}").exists(), "libvirtd ended")
    third = libvirtd.ensure(helper.client)
    assert third.started and third.pid != again.pid
    helper.kill()
    helper.start()
    assert libvirtd.ensure(helper.client).pid == third.pid
    assert not libvirtd.ensure(helper.client).started


def test_the_machine_does_not_see_our_libvirtd(helper: Helper) -> None:
    before = sorted(os.listdir("/var/lib/libvirt")) if Path("/var/lib/libvirt").exists() else None
    info = libvirtd.ensure(helper.client)
    assert (
        not Path("/run/libvirt/libvirt-sock").exists() or info.socket != "/run/libvirt/libvirt-sock"
    )
    after = sorted(os.listdir("/var/lib/libvirt")) if Path("/var/lib/libvirt").exists() else None
    assert before in (None, after)
    mode = Path(info.socket).stat()
    assert mode.st_mode & 0o007 == 0
