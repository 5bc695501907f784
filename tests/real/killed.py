"""A world for real kills: a guest, volumes, and a cloud that dies at a step on demand."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonova.cli.common import Failed
from kilonova.server import state
from tests.real import patience
from tests.real.cloud import RealCloud, Server, new_key, running_cloud
from tests.real.dying import ARMED, HIT
from tests.real.outside import until

IMAGES = "/image/v2/images"


@dataclass
class World:
    """What the tests share: a guest, a volume that it keeps, and one that comes and goes."""

    cloud: RealCloud
    guest: Server
    idle: dict[str, list[str]]
    kept: str = ""
    spare: str = ""

    def dies(self, steps: str, ask: Callable[[], Any]) -> None:
        """Ask for something; the cloud dies at the first of these steps that is met, and is started again."""
        cloud, found = self.cloud, self.cloud.run()
        (cloud.directory / ARMED).write_text(steps)
        with contextlib.suppress(Failed):
            ask()
        hit = cloud.directory / HIT
        until(hit.exists, f"the cloud meets {steps}", 120, 0.05)
        processes = [pid for pid in (found.pid, found.helper_pid) if pid is not None]
        until(lambda: not any(map(state.ticks, processes)), "the cloud is dead")
        assert hit.read_text() in steps.split()
        hit.unlink()
        cloud.up()

    def act(self, steps: str, action: str, value: Any = None) -> None:
        def ask() -> None:
            self.guest.act(action, value)

        self.dies(steps, ask)

    def volumes(self, method: str, path: str, body: Any = None) -> Any:
        client = self.cloud.client()
        return client.call(method, f"/volume/v3/{client.project_id}{path}", body)

    def volume(self) -> str:
        made = self.volumes("POST", "/volumes", {"volume": {"size": 1}})["volume"]["id"]
        self.becomes(str(made), "available")
        return str(made)

    def becomes(self, volume: str, status: str) -> None:
        def look() -> bool:
            now = self.volumes("GET", f"/volumes/{volume}")["volume"]["status"]
            assert not now.startswith("error"), now
            return bool(now == status)

        until(look, f"the volume is {status}", 90)

    def attach(self, volume: str) -> None:
        path = f"{self.guest.path}/os-volume_attachments"
        self.cloud.client().call("POST", path, {"volumeAttachment": {"volumeId": volume}})

    def disk(self, volume: str) -> str:
        """Return the name of a volume in the guest, "" when it is not there."""
        return self.guest.tell(
            f'for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "{volume[:20]}" ]'
            " && echo ${d##*/}; done; true"
        ).strip()

    def answers(self, command: str = "true") -> str:
        """Return what the guest says as soon as it takes SSH."""
        return patience.answers(self.guest, command)

    def write(self, volume: str, text: str) -> None:
        name = self.disk(volume)
        self.guest.tell(f"echo {text} | dd of=/dev/{name} bs=4k conv=sync,fsync 2>/dev/null")

    def read(self, volume: str) -> str:
        name = self.disk(volume)
        return self.guest.tell(f"dd if=/dev/{name} bs=4k count=1 2>/dev/null | tr -d '\\0'").strip()

    def holds(self, marker: str) -> None:
        """The guest answers, with this on its root disk and its volume's data behind it."""
        assert self.answers("cat /root/marker 2>/dev/null || echo none") == marker
        assert self.read(self.kept) == "kept-data"


def by_password(server: Server, password: str, tmp_path: Path) -> str:
    """Return the host name that root gets to see who logs in by a password."""
    ask = tmp_path / "ask"
    ask.write_text(f"#!/bin/sh\necho {password}\n")
    ask.chmod(0o700)
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    options += ["PubkeyAuthentication=no", "NumberOfPasswordPrompts=1", "ConnectTimeout=10"]
    done = subprocess.run(
        ["ssh", *(w for o in options for w in ("-o", o)), f"root@{server.address}", "hostname"],
        env={**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() or f"{done.returncode} {done.stderr}"


@contextlib.contextmanager
def running_world(keys: Path) -> Iterator[World]:
    """Give a cloud that dies on demand, with a guest on a local disk and two volumes beside it."""
    with running_cloud(program="tests.real.dying") as (cloud, _):
        key, idle = prepared(keys, cloud)
        guest = cloud.boot("unlucky", key_name="test")
        guest.status("ACTIVE")
        guest.attach_floating(key)
        found = World(cloud, guest, idle)
        found.kept, found.spare = found.volume(), found.volume()
        found.answers()
        yield found


def prepared(keys: Path, cloud: RealCloud) -> tuple[Path, dict[str, list[str]]]:
    """Let a cloud find its orders to die, and let SSH in; return the key, and the one host as it is at rest."""
    faults = (cloud.directory / ARMED).parent
    faults.mkdir()
    faults.chmod(0o777)
    key = new_key(keys, cloud)
    cloud.allow("tcp", 22)
    return key, cloud.idle() if cloud.hosts == 1 else {}
