"""The switches of simulated hosts: each failure happens, is counted, and can be got out of."""

from collections.abc import Callable
from typing import Any

import pytest

from kilonova.common.ids import new_uuid
from kilonova.objects import guest as g
from kilonova.virt.driver import Again, DriverError
from kilonova.virt.fake.world import World
from tests.unit.agent_kit import build_of


def quiet(text: str) -> None:
    """Nobody watches."""


@pytest.mark.parametrize(
    ("fault", "elsewhere"),
    [
        ("build_fail", False),
        ("build_fail_once", True),
        ("build_elsewhere", True),
        ("build_fail_everywhere", True),
    ],
)
@pytest.mark.parametrize("by", ["metadata", "program"])
def test_build_faults(fault: str, elsewhere: bool, by: str) -> None:
    world = World()
    build = build_of(faults=(fault,) if by == "metadata" else ())
    if by == "program":
        world.faults.set(fault)
    one, two = world.driver("one"), world.driver("two")
    with pytest.raises(DriverError) as caught:
        one.build(build, quiet)
    assert caught.value.elsewhere is elsewhere
    assert [x.kind for x in world.ledger()] == ["disk"]
    assert one.guests() == {}
    assert one.delete(build.server_id, quiet) is True
    assert world.ledger() == []
    works: dict[str, tuple[bool, bool]] = {  # on the same host, on another
        "build_fail": (False, False),
        "build_fail_once": (True, True),
        "build_elsewhere": (False, True),
        "build_fail_everywhere": (False, False),
    }
    for driver, right in zip((one, two), works[fault], strict=True):
        assert _worked(lambda d=driver: d.build(build, quiet)) is right
        driver.delete(build.server_id, quiet)
    assert world.faults.hits[fault] >= 1


@pytest.mark.parametrize("fault", ["power_fail_once", "delete_fail_once"])
@pytest.mark.parametrize("by", ["metadata", "program"])
def test_once_faults_of_other_verbs(fault: str, by: str) -> None:
    world = World()
    driver = world.driver("one")
    build = build_of(faults=(fault,) if by == "metadata" else ())
    driver.build(build, quiet)
    if by == "program":
        world.faults.set(fault, server=build.server_id)

    def act() -> object:
        if fault.startswith("power"):
            return driver.power(build.server_id, g.PowerAction.STOP, 1, None, quiet)
        return driver.delete(build.server_id, quiet)

    assert [_worked(act), _worked(act)] == [False, True]
    assert world.faults.hits == {fault: 1}


def test_faults_for_one_host_a_number_of_times() -> None:
    world = World()
    world.faults.set("build_fail", host="one", times=2)
    results = [_worked(lambda: world.driver("one").build(build_of(), quiet)) for _ in range(3)]
    assert results == [False, False, True]
    assert _worked(lambda: world.driver("two").build(build_of(), quiet))


def test_hang_ends_with_the_fault() -> None:
    world = World()
    driver, build = world.driver("one"), build_of()
    world.faults.set("build_hang")
    for _ in range(3):
        with pytest.raises(Again):
            driver.build(build, quiet)
    world.faults.clear()
    assert driver.build(build, quiet)[0] == g.PowerState.RUNNING


def test_build_time_passes_without_a_thread() -> None:
    world = World(build_time_s=3600.0)
    with pytest.raises(Again) as again:
        world.driver("one").build(build_of(), quiet)
    assert 3500 < again.value.after_s < 3601


def test_lost_and_crashing_guests() -> None:
    world = World()
    driver = world.driver("one")
    told: list[tuple[str, int]] = []
    driver.on_event(lambda server, state: told.append((server, state)))
    lost, crashes = build_of(faults=("lost_guest",)), build_of(faults=("guest_crash",))
    assert driver.build(lost, quiet)[0] == g.PowerState.RUNNING
    driver.build(crashes, quiet)
    assert driver.guests() == {crashes.server_id: g.PowerState.CRASHED}
    assert told == [(crashes.server_id, g.PowerState.CRASHED)]


def test_a_volume_has_one_writer() -> None:
    """Two running guests never write to one volume."""
    world = World()
    volume = g.FileDisk(name="v", path="/v", format="raw", serial=new_uuid())
    first, second = (b.replace(disks=(*b.disks, volume)) for b in (build_of(), build_of()))
    one, two = world.driver("one"), world.driver("two")
    one.build(first, quiet)
    assert not _worked(lambda: two.build(second, quiet))
    one.power(first.server_id, g.PowerAction.STOP, 0, None, quiet)
    assert _worked(lambda: two.build(second, quiet))
    assert not _worked(lambda: one.power(first.server_id, g.PowerAction.START, 0, None, quiet))
    assert one.guests() == {first.server_id: g.PowerState.SHUTDOWN}
    two.delete(second.server_id, quiet)
    assert _worked(lambda: one.power(first.server_id, g.PowerAction.START, 0, None, quiet))
    one.delete(first.server_id, quiet)
    assert {x.kind for x in world.ledger()} == {"second writer"}  # each try is remembered
    assert len(world.second_writers) == 2


def test_console_log_is_bounded() -> None:
    world = World()
    driver, build = world.driver("one"), build_of()
    driver.build(build, quiet)
    for _ in range(200):
        driver.power(build.server_id, g.PowerAction.REBOOT_HARD, 0, build, quiet)
    assert driver.console_log(build.server_id, None).count("\n") == 200
    assert driver.console_log(build.server_id, 3).count("\n") == 3


def _worked(call: Callable[[], Any]) -> bool:
    try:
        call()
    except DriverError:
        return False
    return True
