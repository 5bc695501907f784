"""Real guests in a deployment of roles, each a process: ``up --split --driver libvirt``. R2, R3, S28, issue 4 §1.

The tests build on each other in their order (a guest by software emulation is dear); run the file as a whole.
"""

import json
import os
import pwd
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from kilonova.agent.helper import names
from kilonova.cli.client import Refused
from kilonova.cli.common import Failed
from tests.consoles import log_in_prompt, opened
from tests.real.cloud import COMPUTE, NETWORK, RealCloud, Server, new_key, running_cloud
from tests.real.outside import missing, said, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]
BACK_S = 60.0


@dataclass
class World:
    """What the tests share. idle: the host before the first server."""

    cloud: RealCloud
    idle: dict[str, list[str]]
    anna: Server

    def pids(self) -> dict[str, int]:
        """Return role -> pid."""
        found = json.loads((self.cloud.directory / "processes.json").read_text())
        return {name: one["pid"] for name, one in found.items()}

    def kill(self, role: str) -> None:
        """kill -9 of a role; returns when another one runs."""
        before = self.pids()[role]
        os.kill(before, signal.SIGKILL)
        until(lambda: self.pids().get(role) not in (None, before), f"{role} is back", BACK_S)

    def console(self, protocol: str, type_: str) -> AbstractContextManager[ClientConnection]:
        """Open a console of the guest, as soon as its host answers."""
        asked = {"remote_console": {"protocol": protocol, "type": type_}}
        path = f"{self.anna.path}/remote-consoles"
        made = until(lambda: _said(self.cloud, path, asked), "the host answers", BACK_S)
        return opened(made["remote_console"]["url"])


def _said(cloud: RealCloud, path: str, body: Any) -> Any:
    """Return the answer to a POST, {} for one without words; None while something is away."""
    try:
        return cloud.client().call("POST", path, body) or {}
    except Refused as exc:
        assert exc.http_status == 503, exc
    except Failed:
        pass  # no connection
    return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_cloud(options=("--split",)) as (cloud, _):
        key = new_key(tmp_path_factory.mktemp("key"), cloud)
        idle = cloud.idle()
        anna = cloud.boot("anna", key_name="test", user_data="#!/bin/sh\necho for-$(hostname)\n")
        cloud.allow("tcp", 22)
        anna.key = key
        yield World(cloud, idle, anna)


def test_who_runs_as_whom(world: World) -> None:
    """Nothing but the root helper is root; the agent's file names no database, the proxy's no more."""
    pids = world.pids()
    assert set(pids) - {"postgresql"} == {"nats", "conductor", "api", "console", "agent"}
    owner = pwd.getpwnam("kilonova").pw_uid
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids.values()} == {owner}
    for role in ("agent", "console"):
        config = (world.cloud.directory / "split" / f"{role}.toml").read_text()
        assert "sql" not in config and "secret" not in config


def test_a_guest_boots_and_takes_ssh(world: World) -> None:
    """Its image came by a signed URL, its metadata from the host; a floating address leads in."""
    anna = world.anna
    with timed("create → ACTIVE and GUEST READY"):
        anna.status("ACTIVE")
        assert f"uuid={anna.id}" in anna.ready()
    assert "GUEST USER-DATA for-anna" in anna.console()
    assert anna.key is not None
    anna.attach_floating(anna.key)
    anna.answers_ssh()
    assert anna.tell("hostname").strip() == "anna"


def test_consoles_come_through_the_proxy(world: World) -> None:
    """S28: the display speaks RFB, the serial port is the guest's own login."""
    with world.console("vnc", "novnc") as display:
        assert display.recv(timeout=30) == b"RFB 003.008\n"
    with world.console("serial", "serial") as port:
        log_in_prompt(port)


def test_a_volume_and_an_image(world: World) -> None:
    """A volume goes in and out while the guest runs; an image of the server is uploaded by its host."""
    cloud, anna = world.cloud, world.anna
    demo = cloud.client()
    root = f"/volume/v3/{demo.project_id}/volumes"
    made = demo.call("POST", root, {"volume": {"size": 1}})["volume"]["id"]

    def is_(status: str) -> bool:
        return bool(demo.get(f"{root}/{made}")["volume"]["status"] == status)

    until(lambda: is_("available"), "the volume")
    body = {"volumeAttachment": {"volumeId": made}}
    demo.call("POST", f"{anna.path}/os-volume_attachments", body)
    until(lambda: is_("in-use"), "attached")
    until(lambda: made[:20] in anna.tell("cat /sys/block/vd*/serial"), "the guest sees it")
    demo.call("DELETE", f"{anna.path}/os-volume_attachments/{made}")
    until(lambda: is_("available"), "detached")
    demo.call("DELETE", f"{root}/{made}")
    image = anna.act("createImage", {"name": "copy"})["image_id"]
    look = f"/image/v2/images/{image}"
    with timed("an image of the server"):
        until(lambda: demo.get(look)["status"] == "active", "the image", 120)
    demo.call("DELETE", look)


def test_the_guest_survives_every_role(world: World) -> None:
    """R2, R3: kill -9 of agent, conductor, api, bus, proxy; the guest is the same process, and is commanded again."""
    anna = world.anna
    qemu, before = anna.qemu(), anna.tell("cat /proc/sys/kernel/random/boot_id")
    assert qemu is not None
    with world.console("serial", "serial") as port:
        log_in_prompt(port)
        world.kill("agent")
        with pytest.raises(ConnectionClosed):
            while True:
                port.recv(timeout=30)
    for role in ("conductor", "api", "nats", "console"):
        world.kill(role)
        assert said(anna.address, 22, 1.0) is not None
    assert anna.qemu() == qemu
    assert anna.tell("cat /proc/sys/kernel/random/boot_id") == before
    with world.console("serial", "serial") as port:
        log_in_prompt(port)
    until(lambda: _said(world.cloud, f"{anna.path}/action", {"pause": None}) is not None, "paused")
    anna.status("PAUSED", BACK_S)
    anna.act("unpause")
    anna.status("ACTIVE")
    assert anna.tell("cat /proc/sys/kernel/random/boot_id") == before


def test_a_role_dies_in_the_middle(world: World) -> None:
    """R2: a create whose agent and conductor are killed while it builds ends, and the guest boots once."""
    cloud = world.cloud
    bert = cloud.boot("bert", key_name="test")
    world.kill("agent")
    world.kill("conductor")
    bert.status("ACTIVE", 120)
    bert.ready()
    bert.delete()
    world.kill("agent")
    bert.gone(120)


def test_delete_leaves_nothing(world: World) -> None:
    """After the last delete the host is as before the first create; the purge that follows leaves nothing at all."""
    cloud, anna = world.cloud, world.anna
    for one in cloud.client().get(f"{NETWORK}/floatingips")["floatingips"]:
        cloud.client().call("DELETE", f"{NETWORK}/floatingips/{one['id']}")
    anna.delete()
    anna.gone()
    assert cloud.client().get(f"{COMPUTE}/servers")["servers"] == []
    cloud.check_ledger(world.idle)
    assert names.host_ns(cloud.tag) in world.idle["namespaces"]
    cloud.check_audit()
