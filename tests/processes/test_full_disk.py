"""A disk that is full under a whole cloud: refused in words, nothing lost or left; it goes on when there is room."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kilonova.agent.images import ImageCache
from kilonova.cli.client import Client, Refused, connect
from kilonova.virt.driver import DriverError
from tests.client import until
from tests.clients.test_command_line import kilonova
from tests.unit.test_agent_images import DATA, Store, convert, quiet, source_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl full@disk"
SIZE = "16m"
COMPUTE, NETWORK, IMAGE = "/compute/v2.1", "/network/v2.0", "/image/v2"


class SmallDisk:
    """A file system of 16 MiB, and a file that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no byte."""
        with suppress(OSError), self._ballast.open("ab", buffering=0) as f:
            for size in (1 << 16, 1 << 12, 1):
                with suppress(OSError):
                    while f.write(bytes(size)) == size:
                        pass
        assert os.statvfs(self.path).f_bfree == 0

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """A small disk with a cloud on it perhaps; both are gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="kilonova-full-"))
    options = f"size={SIZE},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield SmallDisk(path)
        if (path / "state").exists():
            kilonova("down", "--state-dir", str(path / "state"))
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


def up(disk: SmallDisk, code: int = 0) -> str:
    """Start a simulated cloud whose builds take a second; return what it said."""
    words = ("--driver", "fake", "--build-time", "1", "--port", "0", "--detach")
    done = kilonova("up", "--state-dir", str(disk.state), *words, code=code)
    return done.stdout + done.stderr


def boot(client: Client, name: str) -> str:
    """Create a server without a network; return its id."""
    body = {
        "name": name,
        "flavorRef": client.get(f"{COMPUTE}/flavors")["flavors"][0]["id"],
        "imageRef": client.get(f"{IMAGE}/images")["images"][0]["id"],
        "networks": "none",
    }
    made: str = client.call("POST", f"{COMPUTE}/servers", {"server": body})["server"]["id"]
    return made


def statuses(client: Client) -> dict[str, str]:
    """Return name -> status of every server."""
    return {s["name"]: s["status"] for s in client.get(f"{COMPUTE}/servers/detail")["servers"]}


def clean(admin: Client) -> bool:
    """Tell whether the audit finds nothing."""
    return not admin.get("/kilonova/v1/audit")["findings"]


def test_a_full_disk_refuses_and_loses_nothing(disk: SmallDisk) -> None:
    """Creates under way wait; new requests of every API are refused; afterwards all is as if it had not been."""
    up(disk)
    demo, admin = connect(disk.state, "demo"), connect(disk.state)
    demo.login()
    admin.login()
    first = boot(demo, "first")
    until(lambda: statuses(demo) == {"first": "ACTIVE"})
    for name in ("on-the-way-1", "on-the-way-2"):
        boot(demo, name)
    disk.fill()
    before = set(statuses(demo))
    requests: dict[str, Callable[[], Any]] = {
        "create": lambda: boot(demo, "refused"),
        "delete": lambda: demo.call("DELETE", f"{COMPUTE}/servers/{first}"),
        "stop": lambda: demo.call("POST", f"{COMPUTE}/servers/{first}/action", {"os-stop": None}),
        "key pair": lambda: demo.call(
            "POST", f"{COMPUTE}/os-keypairs", {"keypair": {"name": "k", "public_key": KEY}}
        ),
        "network": lambda: demo.call("POST", f"{NETWORK}/networks", {"network": {"name": "n"}}),
        "image": lambda: demo.call(
            "POST",
            f"{IMAGE}/images",
            {"name": "i", "disk_format": "raw", "container_format": "bare"},
        ),
        "user": lambda: admin.call("POST", "/identity/v3/users", {"user": {"name": "u"}}),
    }
    for what, request in requests.items():
        for _ in range(3):
            with pytest.raises(Refused, match="disk is full") as refused:
                request()
            assert refused.value.http_status == 503, what
    assert set(statuses(demo)) == before  # reading goes on

    disk.free()
    until(lambda: set(statuses(demo).values()) == {"ACTIVE"}, "what was under way")
    assert set(statuses(demo)) == before
    boot(demo, "afterwards")
    demo.call("DELETE", f"{COMPUTE}/servers/{first}")
    wanted = {"on-the-way-1", "on-the-way-2", "afterwards"}
    until(lambda: statuses(demo) == dict.fromkeys(wanted, "ACTIVE"), "the cloud goes on")
    until(lambda: clean(admin), "a clean audit")
    assert "Traceback" not in (disk.state / "logs" / "crash.log").read_text()


def test_up_on_a_full_disk_is_refused_in_words(disk: SmallDisk) -> None:
    """A new cloud, and one that was stopped: said without a stack trace; with room it starts."""
    disk.fill()
    assert "No space left on device" in up(disk, code=1)
    disk.free()
    up(disk)
    kilonova("hello", "--state-dir", str(disk.state))
    kilonova("down", "--state-dir", str(disk.state))
    disk.fill()
    assert "No space left on device" in up(disk, code=1)
    disk.free()
    up(disk)
    demo, admin = connect(disk.state, "demo"), connect(disk.state)
    until(lambda: statuses(demo) == {"hello": "ACTIVE"})
    until(lambda: clean(admin), "a clean audit")


@pytest.mark.parametrize("room_kib", [0, 16, 150])
def test_an_image_cache_without_room(disk: SmallDisk, room_kib: int) -> None:
    """The download, or the conversion, finds no room: another host may do it, nothing partial stays, later it fits."""
    store = Store()
    cache = ImageCache(disk.path / "cache", convert, open_image=store.open)
    reserve = disk.path / "reserve"
    reserve.write_bytes(bytes(room_kib << 10))
    disk.fill()
    reserve.unlink()
    with pytest.raises(DriverError, match="no room for the image") as refused:
        cache.link(source_of(), disk.path / "base", quiet)
    assert refused.value.elsewhere and store.opened == 1
    assert list((disk.path / "cache").iterdir()) == []
    disk.free()
    assert cache.link(source_of(), disk.path / "base", quiet).path.read_bytes() == DATA
