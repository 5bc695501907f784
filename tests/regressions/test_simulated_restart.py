"""Simulated hosts after a restart of the process: the network is in force at once, and no guest is started anew.

Before, each start was a boot of every host with an empty network: what had been shut down by itself was started, and
a start of a stopped server waited for two seconds until its host asked for the port.
"""

from pathlib import Path

from kilonova.objects.guest import PowerState
from tests.whole import running


def test_a_restart_leaves_guests_alone(tmp_path: Path) -> None:
    with running(tmp_path / "state", hosts=1) as x:
        servers = [x.demo.boot("a"), x.demo.boot("b")]
        for server in servers:
            x.demo.wait(server, "ACTIVE")
        assert x.demo.act(servers[1], {"os-stop": None}).status == 202
        x.demo.wait(servers[1], "SHUTOFF")
    with running(tmp_path / "state", hosts=1) as x:
        assert x.demo.show(servers[0])["status"] == "ACTIVE"
        guest = x.cloud.fleet.world.find(servers[0])[1]
        assert (guest.power, guest.boots) == (PowerState.RUNNING, 1)
        network = x.cloud.fleet.networks["cell1-host1"]
        ports = [
            p["id"] for p in x.demo.get("/network/v2.0/ports")["ports"] if p["device_id"] in servers
        ]
        assert len(ports) == 2 and all(network.wait_port(p, 0) for p in ports)
        assert x.demo.act(servers[1], {"os-start": None}).status == 202
        x.demo.wait(servers[1], "ACTIVE")
        assert x.audit() == []
