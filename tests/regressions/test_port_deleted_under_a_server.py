"""A port that its owner deletes under a running server: the server starts again without it.

Before, the record kept the NIC, and every later start waited a minute for a port that nobody has, then failed.
"""

from pathlib import Path

from kilonova.operations import network_events
from kilonova.reconcile import cleanups
from tests.operations.server_world import ServerWorld, Shape
from tests.whole import running, until


def test_a_hard_reboot_after_the_port_is_gone(tmp_path: Path) -> None:
    with running(tmp_path / "state", hosts=1) as x:
        server = x.demo.boot("web")
        x.demo.wait(server, "ACTIVE")
        port = x.demo.get(f"/network/v2.0/ports?device_id={server}")["ports"][0]["id"]
        x.demo.delete(f"/network/v2.0/ports/{port}")
        until(lambda: x.demo.show(server)["addresses"] == {}, "the loss of the address")
        until(lambda: x.audit() == [], "the loss of the NIC")
        assert x.demo.act(server, {"reboot": {"type": "HARD"}}).status == 202
        x.demo.wait(server, "ACTIVE")
        assert x.audit() == []
        x.demo.delete(f"/compute/v2.1/servers/{server}")
        x.demo.gone(server)
        assert x.audit() == []


def test_a_hard_reboot_before_anybody_noticed(tmp_path: Path) -> None:
    """The order names only ports that are there, whatever the record says."""
    world = ServerWorld(tmp_path, "server_reboot_hard")
    world.network.remove_port(
        port_id=world.network.ports_of([world.server])[world.server][0].port_id
    )
    assert world.run(*world.begin()) == "done"
    world.close()


def test_the_guest_loses_the_nic_too(tmp_path: Path) -> None:
    """Before, it kept a dead one, and did not start by itself after a reboot of its host: the port never came."""
    world = ServerWorld(tmp_path, "server_reboot_hard", Shape(nics=2))
    ports = [p.port_id for p in world.network.ports_of([world.server])[world.server]]
    world.network.remove_port(port_id=ports[0])
    assert network_events.refresh(world.services, world.server)
    found = world.ledger()
    host, guest = world.guests.find(world.server)
    taps = set(world.taps[host].plugged)
    world.close()
    assert [port for port, _ in guest.nics] == ports[1:]
    assert taps == set(ports[1:])
    assert not [k for k in found if k.startswith(("audit:", "cleanup:"))]


def test_a_host_that_is_down_takes_it_out_later(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_reboot_hard")
    back = world.fall_silent(world.row()["host"])
    port = world.network.ports_of([world.server])[world.server][0].port_id
    world.network.remove_port(port_id=port)
    network_events.refresh(world.services, world.server)
    assert world.ledger()["cleanup:cell1"] == 1
    back()
    cleanups.run(world.services)
    found = world.ledger()
    nics = world.guests.find(world.server)[1].nics
    world.close()
    assert (nics, found["cleanup:cell1"], found["tap"]) == ((), 0, 0)
