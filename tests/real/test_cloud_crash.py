"""Kill the cloud, the helper, and all of the host's runtime, at bad moments: guests run on, operations end.

The tests build on each other in their order (a guest by software emulation is dear); run the file as a whole.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.real.cloud import NETWORK, RealCloud, Server, new_key, running_cloud
from tests.real.outside import missing, said, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]


@dataclass
class World:
    """What the tests share: a guest that must never notice."""

    cloud: RealCloud
    keeper: Server
    idle: dict[str, list[str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_cloud() as (cloud, _):
        key = new_key(tmp_path_factory.mktemp("key"), cloud)
        idle = cloud.idle()
        keeper = cloud.boot("keeper", key_name="test")
        keeper.status("ACTIVE")
        cloud.allow("tcp", 22)
        keeper.attach_floating(key)
        keeper.ready()
        keeper.answers_ssh()
        keeper.tell("echo never-restarted >/run/mark")
        yield World(cloud, keeper, idle)


def at_once(server: Server) -> bool:
    """It was accepted."""
    return True


def at_build(server: Server) -> bool:
    """The host has begun to build it."""
    return (server.cloud.instances / server.id).exists()


def at_guest(server: Server) -> bool:
    """The guest's process is there; nobody recorded it yet, perhaps."""
    return server.qemu() is not None


MOMENTS: list[tuple[Callable[[Server], bool], bool]] = [
    (at_once, False),
    (at_build, True),
    (at_guest, False),
]


def unharmed(world: World, pid: int | None) -> None:
    """The keeper is the same process, reachable, with all it had."""
    assert pid is not None
    assert world.keeper.qemu() == pid
    assert world.keeper.tell("cat /run/mark").strip() == "never-restarted"
    assert world.keeper.show()["status"] == "ACTIVE"


@pytest.mark.parametrize(
    ("moment", "helper"), MOMENTS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_kill_in_the_middle_of_a_build(
    world: World, moment: Callable[[Server], bool], helper: bool
) -> None:
    """kill -9 of the cloud, or of cloud and helper, while a server is built; and again while it is deleted."""
    cloud, pid = world.cloud, world.keeper.qemu()
    server = cloud.boot("unlucky")
    until(lambda: moment(server), f"the moment {moment.__name__}", pause_s=0.01)
    cloud.kill(helper=helper)
    assert world.keeper.tell("cat /run/mark").strip() == "never-restarted"  # with no control plane
    cloud.up()
    with timed("up → the build that was under way is ACTIVE"):
        server.status("ACTIVE")
    unharmed(world, pid)
    server.delete()
    cloud.kill(helper=not helper)
    cloud.up()
    with timed("up → the delete that was under way is done"):
        server.gone()
    unharmed(world, pid)
    cloud.check_audit()
    assert cloud.ledger()["instances"] == [world.keeper.id]


def test_kill_while_it_stops(world: World) -> None:
    """kill -9 while a guest is shut down: afterwards it is SHUTOFF and can be started."""
    cloud, keeper = world.cloud, world.keeper
    boots = keeper.boots()
    keeper.act("os-stop")
    until(lambda: keeper.show()["OS-EXT-STS:task_state"] is not None, "powering off", pause_s=0.01)
    cloud.kill(helper=True)
    cloud.up()
    keeper.status("SHUTOFF")
    assert keeper.qemu() is None
    keeper.act("os-start")
    keeper.status("ACTIVE")
    keeper.ready(boots + 1)
    cloud.check_audit()


def test_the_runtime_is_gone_as_after_a_reboot(world: World) -> None:
    """Every process, namespace, link and table ended: ``up`` brings networks back and starts what was ACTIVE."""
    cloud, keeper = world.cloud, world.keeper
    boots, off = keeper.boots(), cloud.boot("off")
    off.status("ACTIVE")
    off.act("os-stop")
    off.status("SHUTOFF")
    before = cloud.ledger()
    cloud.kill(helper=True)
    cloud.end_runtime()
    with timed("everything ended → up → GUEST READY"):
        cloud.up()
        keeper.status("ACTIVE")
        keeper.ready(boots + 1)
    until(lambda: said(keeper.address, 22), "SSH by the floating address answers")
    assert keeper.tell("hostname").strip() == "keeper"
    assert off.show()["status"] == "SHUTOFF"
    assert off.qemu() is None
    off.act("os-start")
    off.status("ACTIVE")
    off.delete()
    off.gone()
    cloud.check_audit()
    after = cloud.ledger()
    assert after["namespaces"] == before["namespaces"]
    assert after["domains"] == [f"kn-{keeper.id}"]


def test_down_with_guests_and_up(world: World) -> None:
    """``down --guests`` ends guests and networks, and keeps disks and records: ``up`` starts what was ACTIVE."""
    cloud, keeper = world.cloud, world.keeper
    boots = keeper.boots()
    cloud.kilonova("down", "--guests")
    assert keeper.qemu() is None
    cloud.up()
    keeper.status("ACTIVE")
    keeper.ready(boots + 1)
    until(lambda: said(keeper.address, 22), "SSH by the floating address answers")
    cloud.check_audit()


def test_down_leaves_guests_and_up_finds_them(world: World) -> None:
    """``down`` leaves guests running; ``up`` finds them; the last delete leaves the host as it was."""
    cloud, keeper = world.cloud, world.keeper
    pid = keeper.qemu()
    cloud.kilonova("down")
    assert keeper.tell("hostname").strip() == "keeper"
    cloud.up()
    assert keeper.show()["status"] == "ACTIVE"
    assert keeper.qemu() == pid
    for one in cloud.client().get(f"{NETWORK}/floatingips")["floatingips"]:
        cloud.client().call("DELETE", f"{NETWORK}/floatingips/{one['id']}")
    keeper.delete()
    keeper.gone()
    cloud.check_audit()
    cloud.check_ledger(world.idle)
