"""What a freshly bootstrapped system lacks (netbase, /etc/hosts): taken away in a mount namespace of the test's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kilonova.agent.helper import launch, protocol
from kilonova.agent.helper.verbs import dhcp, host
from tests.real.netguest import missing

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


def without(tmp_path: Path, absent: str, script: str, text: str = "") -> str:
    """Run a shell script where /etc has no file of a name, with networks of its own; return what it printed."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir=/etc,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    hidden = f"mount -t overlay overlay -o {layers} /etc && rm -f /etc/{absent} && {script}"
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", hidden],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "upper" / absent).is_file()
    return done.stdout


@pytest.mark.parametrize("rules", [host._root_table("t", protocol.HostUp()), dhcp._FILTER])
def test_rules_need_no_names_of_protocols(tmp_path: Path, rules: str) -> None:
    """Without netbase there is no /etc/protocols: nft knows protocols by number only."""
    without(tmp_path, "protocols", "nft -c -f -", rules)


def test_libvirtd_starts_without_etc_hosts(tmp_path: Path) -> None:
    """The private root shadows what is there; what is not there needs no shadow."""
    if not os.path.exists("/usr/sbin/libvirtd"):
        pytest.skip("no libvirtd here")
    private = tmp_path / "private"
    for name in (*launch.DIRECTORIES, "netns"):
        (private / name).mkdir(parents=True)
    (private / "hosts").write_text("127.0.0.1 localhost\n")
    words = f"{private} {private}/run kilonova-test /run/libvirt/pid"
    said = without(
        tmp_path,
        "hosts",
        f"mount --bind /bin/echo /usr/sbin/libvirtd && {sys.executable} -I {launch.__file__} {words}",
    )
    assert said.strip() == "--pid-file /run/libvirt/pid"
