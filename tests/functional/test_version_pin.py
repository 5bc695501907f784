"""The deployment's pin: the oldest service that takes part decides what everybody writes (OBJ-10)."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import ManualClock
from kilonova.common.errors import Conflict
from kilonova.objects.base import decode, encode, speak, spoken
from kilonova.objects.host import HostRegister, Inventory, Registered, Report
from kilonova.operations.version_pin import (
    HOST_SILENT_S,
    HOSTS_EVERY_S,
    SILENT_S,
    VersionPin,
    oldest,
    own_versions,
)
from tests.functional.test_hosts_of_several_conductors import HOST, Conductor

OLDER = {**own_versions(), "FileDisk": (1, 0), "bus": (1, 0)}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def conductor(tmp_path: Path, clock: ManualClock) -> Iterator[Conductor]:
    bus = MemoryBus(workers=1)
    made = Conductor(tmp_path, bus, clock)
    yield made
    made.close()
    bus.close()
    speak(None)


def register(conductor: Conductor, versions: dict[str, tuple[int, int]]) -> Registered:
    body = HostRegister(
        host=HOST,
        host_id="id-1",
        boot_id="boot-1",
        journal_id="j",
        cell="cell1",
        driver="fake",
        release="0.0.9",
        inventory=Inventory(vcpus=8, memory_mib=8192, disk_gib=100),
        versions=versions,
    )
    said = encode(Report(host=HOST, body=body))
    return decode(conductor.services.bus.request(f"report.{HOST}", said, 10.0), Registered)


def written(services_pin: VersionPin) -> dict[str, str]:
    view = services_pin.view()
    pin: dict[str, str] = view["pin"]
    return pin


def test_alone_everything_is_written_in_our_own_form(conductor: Conductor) -> None:
    pin = VersionPin(conductor.services, "all")
    pin.tend()
    assert spoken() is None
    view = pin.view()
    assert (view["pin"], view["pinned"]) == ({}, False)
    assert [s["role"] for s in view["services"]] == ["all"]
    pin.close()
    assert pin.view()["services"] == []


def test_an_older_process_holds_the_pin_until_it_is_gone(
    conductor: Conductor, clock: ManualClock
) -> None:
    """OBJ-10: lifted automatically."""
    old = VersionPin(conductor.services, "api", OLDER)
    new = VersionPin(conductor.services, "conductor")
    old.tend()
    new.tend()
    assert (spoken() or {})["FileDisk"] == (1, 0)
    assert written(new) == {"FileDisk": "1.0", "bus": "1.0"}
    assert [s["older"] for s in new.view()["services"]] == [{"FileDisk": "1.0", "bus": "1.0"}, {}]
    old.close()
    new.tend()
    assert spoken() is None and written(new) == {}


def test_a_process_that_was_killed_holds_it_for_a_minute(
    conductor: Conductor, clock: ManualClock
) -> None:
    old = VersionPin(conductor.services, "api", OLDER)
    new = VersionPin(conductor.services, "conductor")
    old.tend()
    clock.advance(SILENT_S - 1)
    new.tend()
    assert written(new) != {}
    clock.advance(2)
    new.tend()
    assert written(new) == {}


def test_who_is_older_than_the_pin_is_refused(conductor: Conductor) -> None:
    """OBJ-10: the pin only rises; a process says why it does not start, a host is told."""
    pin = VersionPin(conductor.services, "all")
    pin.tend()
    conductor.services.install(versions=pin)
    with pytest.raises(Conflict, match=r"older than what the cloud.*FileDisk"):
        VersionPin(conductor.services, "api", OLDER).tend()
    reply = register(conductor, OLDER)
    assert not reply.accepted
    assert "older" in (reply.reason or "")
    assert register(conductor, own_versions()).accepted


def test_an_older_host_is_written_to_as_it_reads(conductor: Conductor, clock: ManualClock) -> None:
    """OBJ-4, OBJ-10: and a newer one is told to write so too."""
    old = VersionPin(conductor.services, "all", OLDER)
    old.tend()
    assert register(conductor, OLDER).accepted
    old.close()
    new = VersionPin(conductor.services, "all")
    new.tend()
    conductor.services.install(versions=new)
    assert (spoken() or {})["FileDisk"] == (1, 0)
    assert new.for_host(own_versions()) == {"FileDisk": (1, 0), "bus": (1, 0)}
    assert [s["name"] for s in new.view()["services"] if s["older"]] == [HOST]
    assert register(conductor, own_versions()).accepted
    clock.advance(HOSTS_EVERY_S + 1)
    new.tend()
    assert spoken() is None


def test_a_host_that_stays_away_lets_the_pin_rise(conductor: Conductor, clock: ManualClock) -> None:
    old = VersionPin(conductor.services, "all", OLDER)
    old.tend()
    register(conductor, OLDER)
    old.close()
    new = VersionPin(conductor.services, "all")
    new.tend()
    assert written(new) != {}
    clock.advance(HOST_SILENT_S + 1)
    new.tend()
    assert written(new) == {}


def test_of_each_type_the_oldest() -> None:
    assert oldest([{"A": (1, 1), "B": (1, 0)}, {"A": (1, 0)}]) == {"A": (1, 0), "B": (1, 0)}
    assert msgspec.json.encode(oldest([])) == b"{}"
