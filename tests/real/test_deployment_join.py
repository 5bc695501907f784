"""A machine joins a deployment with real guests: ``kilonova agent --join``, as root, with a root helper of its own."""

import pwd
import signal
from collections.abc import Iterator

import pytest

from kilonova.agent.helper.verbs import libvirt
from kilonova.server import state
from kilonova.server.own_hosts import own_name
from tests.real.cloud import running_cloud
from tests.real.joined import HOST, Machine, machine_beside
from tests.real.outside import missing, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with running_cloud(options=("--split",)) as (cloud, _), machine_beside(cloud) as made:
        yield made


def test_a_machine_joins_and_has_a_guest(machine: Machine) -> None:
    """One line; what only root may read is handed over; the guest outlives the agent and its root helper."""
    cloud = machine.cloud
    machine.join()
    assert machine.config.parent.stat().st_mode & 0o077 == 0
    handed = sorted((machine.state / "host" / "handed").iterdir())
    owner = pwd.getpwnam("kilonova").pw_uid
    assert {f.name for f in handed} == {"bus.creds", "bus-ca.pem"}
    assert {(f.stat().st_uid, f.stat().st_mode & 0o777) for f in handed} == {(owner, 0o600)}
    cloud.kilonova("host", "disable", own_name())
    server = cloud.boot("far")
    with timed("a guest on the host that joined"):
        server.status("ACTIVE")
        assert "source=http" in server.ready()
    path = f"/compute/v2.1/servers/{server.id}"
    assert cloud.client("admin").get(path)["server"]["OS-EXT-SRV-ATTR:host"] == HOST

    def guests() -> list[tuple[int, str]]:
        return libvirt.guests(machine.tag)

    before = guests()
    assert [name for _, name in before] == [f"kn-{server.id}"]
    assert "an agent runs on" in machine.down("--purge").stderr
    assert machine.end(signal.SIGKILL) != 0
    until(lambda: not machine.agents(), "the agent ended with its root helper")
    machine.start()
    server.act("reboot", {"type": "HARD"})
    server.status("ACTIVE", 120)
    server.ready(boots=2)
    assert machine.end() == 0
    assert [name for _, name in guests()] == [f"kn-{server.id}"]
    machine.start()
    server.delete()
    server.gone(120)
    until(lambda: guests() == [], "the guest is gone")
    cloud.kilonova("host", "enable", own_name())
    assert state.deployment(machine.state) is not None
