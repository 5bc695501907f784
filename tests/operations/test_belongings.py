"""What a guest has on its host besides disks goes where it goes: the password that it posted, its UEFI variables."""

from pathlib import Path

import msgspec
import pytest

from kilonova.db import servers
from kilonova.objects.guest import Belongings
from kilonova.operations import belongings, guest_orders
from tests.operations.cross_cell_world import LIVE, MIGRATE, RESIZE, UNSHELVE, TwoCells
from tests.operations.server_world import ServerWorld

PASSWORD, VARIABLES = "posted-and-encrypted", "of-its-firmware"


def plant(world: ServerWorld) -> str:
    """Give the guest what only it and its host know; return the host."""
    host, guest = world.guests.find(world.server)
    world.guests.put(host, msgspec.structs.replace(guest, variables=VARIABLES))
    world.posted[host].passwords[world.server] = PASSWORD
    return host


def has(world: ServerWorld) -> tuple[str, str, str]:
    """Return the host of the guest, and what it has there."""
    host, guest = next(
        (h, g)
        for h in world.taps
        for g in world.guests.guests(h).values()
        if g.server == world.server and h == world.row()["host"]
    )
    return host, world.posted[host].password(world.server), guest.variables


@pytest.mark.parametrize(
    ("of", "kind"),
    [
        (ServerWorld, "resize_away"),
        (ServerWorld, "server_migrate"),
        (ServerWorld, "live_migrate"),
        (TwoCells, RESIZE),
        (TwoCells, MIGRATE),
        (TwoCells, LIVE),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_it_goes_along(of: type[ServerWorld], kind: str, tmp_path: Path) -> None:
    world = of(tmp_path, kind, setup=())
    before = plant(world)
    assert world.run(*world.begin()) == "done"
    host, password, variables = has(world)
    world.close()
    assert host != before
    assert (password, variables) == (PASSWORD, VARIABLES)


def test_a_shelved_server_keeps_it(tmp_path: Path) -> None:
    """In its record while it has no host; there no more once it has one."""
    world = ServerWorld(tmp_path, "server_shelve")
    plant(world)
    assert world.run(*world.begin()) == "done"
    row = world.row()
    assert row["host"] is None
    assert not any(p.passwords for p in world.posted.values())
    kept = guest_orders.system_of(row).belongings
    assert kept == Belongings(password=PASSWORD, variables=VARIABLES)
    assert world.run(*world.accept("server_unshelve")) == "done"
    assert has(world)[1:] == (PASSWORD, VARIABLES)
    assert guest_orders.system_of(world.row()).belongings is None
    world.close()


def test_a_host_that_is_down_has_nothing_to_give(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_shelve")
    host = plant(world)
    back = world.fall_silent(host)
    assert belongings.left_on(world.services, host, world.server) is None
    back()
    world.close()


def test_unshelved_in_another_cell(tmp_path: Path) -> None:
    """What its record kept comes to the host of the other cell, and is in neither record any more."""
    world = TwoCells(tmp_path, UNSHELVE)
    kept = Belongings(password=PASSWORD, variables=VARIABLES)
    system = msgspec.structs.replace(guest_orders.system_of(world.row()), belongings=kept)
    text = msgspec.json.encode(system).decode()
    world.databases["cell1"].write(
        lambda tx: servers.set_columns(tx, world.server, system_metadata=text)
    )
    assert world.run(*world.begin()) == "done"
    host, password, variables = has(world)
    rows = [r for r in (world.in_cell("cell1"), world.in_cell("cell2")) if r is not None]
    left = [guest_orders.system_of(r).belongings for r in rows if not r["hidden"]]
    world.close()
    assert host.startswith("cell2")
    assert (password, variables) == (PASSWORD, VARIABLES)
    assert left == [None]
