"""``make up`` as its user meets it: up, hello, the SSH line pasted, down, up again, purge. One guest, about 30 s."""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.agent.helper import names
from kilonova.agent.helper.verbs.purge import list_leftovers
from tests.clients.conftest import environment
from tests.clients.test_command_line import kilonova
from tests.real.outside import build_image, missing

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A state directory that guests can reach; whatever the test leaves is purged."""
    parent = Path(tempfile.mkdtemp(prefix="kilonova-real-"))
    parent.chmod(0o755)
    yield parent / "s"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "kilonova.cli.main",
            "down",
            "--purge",
            "--state-dir",
            str(parent / "s"),
        ],
        check=False,
    )
    shutil.rmtree(parent)


def up(directory: Path) -> dict[str, Any]:
    """Start the cloud with the small image."""
    image = build_image("build", "tiny-linux.qcow2")
    words = ("--driver", "libvirt", "--port", "0", "--detach", "--json", "--image", str(image))
    what: dict[str, Any] = json.loads(kilonova("up", "--state-dir", str(directory), *words).stdout)
    return what


def hello(directory: Path) -> dict[str, Any]:
    """Boot the first server, or find it."""
    said = kilonova("hello", "--state-dir", str(directory), "--json", "--timeout", "240").stdout
    found: dict[str, Any] = json.loads(said)
    return found


def paste(line: str, command: str) -> str:
    """Run the printed SSH line with a command at its end."""
    options = ["-n", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"]
    words = shlex.split(line)
    done = subprocess.run(
        [words[0], *options, *words[1:], command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def server_ssh(directory: Path, command: str) -> str:
    """Log in to hello with the stock client's ``server ssh``, which finds the floating address by itself."""
    program = Path(sys.executable).with_name("openstack")
    options = f"-n -l guest -i {directory}/hello_key -o BatchMode=yes -o ConnectTimeout=20"
    known = f"-o UserKnownHostsFile={directory}/hello_known_hosts"
    done = subprocess.run(
        [str(program), "server", "ssh", "hello", "--", *options.split(), *known.split(), command],
        env=environment(str(directory / "clouds.yaml"), "kilonova"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_up_hello_down_up_purge(directory: Path) -> None:
    """R2, R3: the guest outlives the control plane; what was ACTIVE is started after a reboot; purge leaves nothing."""
    what = up(directory)
    first = hello(directory)
    assert any("GUEST READY" in line for line in first["console"])
    assert paste(first["ssh"], "hostname") == "hello"
    assert server_ssh(directory, "hostname") == "hello"
    boot = paste(first["ssh"], "cat /proc/sys/kernel/random/boot_id")

    kilonova("down", "--state-dir", str(directory))
    assert up(directory)["pid"] != what["pid"]
    assert paste(first["ssh"], "cat /proc/sys/kernel/random/boot_id") == boot

    kilonova("down", "--guests", "--state-dir", str(directory))
    up(directory)
    again = hello(directory)
    assert again["server"] == first["server"]
    assert paste(again["ssh"], "cat /proc/sys/kernel/random/boot_id") != boot
    kilonova("audit", "--state-dir", str(directory))

    kilonova("down", "--purge", "--state-dir", str(directory))
    assert not directory.exists()
    assert list_leftovers(names.tag_of(directory)) == []


def test_a_closed_state_directory_is_refused(directory: Path) -> None:
    """QEMU's user could not open its disks there: said before anything is made."""
    directory.parent.chmod(0o700)
    words = ("--driver", "libvirt", "--port", "0", "--detach", "--state-dir", str(directory))
    said = kilonova("up", *words, code=1).stderr
    assert str(directory.parent) in said and "--state-dir" in said
