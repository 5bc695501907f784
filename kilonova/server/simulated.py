"""Simulated hosts of this process: many agents over one world of guests, one pool of threads."""

from collections.abc import Callable, Sequence
from pathlib import Path

from kilonova.agent.core import Agent, Identity
from kilonova.agent.journal import Journal, JournalFile
from kilonova.agent.network.fake import FakeHostNetwork
from kilonova.agent.uploads import HostFiles
from kilonova.agent.workers import Workers
from kilonova.bus.interface import Bus
from kilonova.common.config import Settings
from kilonova.common.ids import new_uuid
from kilonova.console.gate import ConsoleGate
from kilonova.objects.host import Inventory
from kilonova.server.access import ImageAccess
from kilonova.server.plan import Plan
from kilonova.virt.driver import Driver
from kilonova.virt.fake.devices import devices_of, nodes_of
from kilonova.virt.fake.world import World


class FakeHosts:
    """One agent per host; guests survive in one file of the state directory.

    hosts: (cell, name) of each. bus_of(host): its connection. gate: where consoles of another process are fetched.
    """

    def __init__(
        self,
        plan: Plan,
        hosts: Sequence[tuple[str, str]],
        bus_of: Callable[[str], Bus],
        access: ImageAccess,
        gate: ConsoleGate | None = None,
    ) -> None:
        self.plan = plan
        s = plan.settings
        spec = spec_of(s)
        self.world = World(plan.state_dir / "guests.db", build_time_s=s.build_time_s, spec=spec)
        self.workers = Workers(2)  # no job of a simulated host waits on its thread
        self._file: JournalFile | None = None
        if plan.shares:
            self._file = JournalFile(plan.state_dir / "journals.db", full=False)
        self.networks: dict[str, FakeHostNetwork] = {}
        self.agents: list[Agent] = []
        boot, send = _boot_id(), access.send
        for cell, host in hosts:
            bus = bus_of(host)
            network = FakeHostNetwork(host, bus)
            self.networks[host] = network
            volumes = self.world.volumes(host, send)
            volumes.check_source = send.folders.check
            self.agents.append(
                Agent(
                    Identity(host=host, host_id=f"fake-{host}", cell=cell, boot_id=boot),
                    self.world.driver(host),
                    network,
                    bus,
                    self._journal(host),
                    self.workers,
                    volumes=volumes,
                    clock=plan.clock,
                    heartbeat_s=s.heartbeat_s,
                    files=HostFiles(plan.state_dir / "copies" / host, send),
                    gate=gate,
                )
            )

    def _journal(self, host: str) -> Journal:
        """Return a host's memory of orders; with a bus of its own no message outlives the process, nor need this."""
        return Journal() if self._file is None else Journal(self._file, host=host)

    def start(self, wait_s: float = 30.0) -> None:
        """Start every agent and wait until all are registered (at most ``wait_s`` each)."""
        for agent in self.agents:
            host = agent.identity.host  # its network state first: the key is that of registering
            self.workers.submit((host, "register"), self.networks[host].resync)
            agent.start()
        for agent in self.agents:
            agent.registered.wait(wait_s)

    def driver_of(self, host: str) -> Driver:
        """Return the driver of one host."""
        return self.world.driver(host)

    def close(self) -> None:
        """Stop the agents; guests stay in their file."""
        for agent in self.agents:
            agent.close()
        self.workers.close()
        self.world.close()
        if self._file is not None:
            self._file.close()


def spec_of(s: Settings) -> Inventory:
    """Return what each simulated host has."""
    dedicated = range(s.fake_host_vcpus - s.fake_host_dedicated_cpus, s.fake_host_vcpus)
    return Inventory(
        vcpus=s.fake_host_vcpus - s.fake_host_dedicated_cpus,
        memory_mib=s.fake_host_memory_mib,
        disk_gib=s.fake_host_disk_gib,
        hypervisor_type="fake",
        hypervisor_version=1,
        supported=(
            ("x86_64", "fake", "hvm"),
            ("x86_64", "qemu", "hvm"),
            ("x86_64", "kvm", "hvm"),
        ),
        nodes=nodes_of(
            s.fake_host_numa_nodes, s.fake_host_vcpus, s.fake_host_memory_mib, dedicated
        ),
        dedicated=tuple(dedicated),
        devices=devices_of(s.fake_host_devices),
    )


def named(cells: int, hosts: int) -> list[tuple[str, str]]:
    """Return (cell, name) of the simulated hosts of one process: ``<cell>-host<k>``."""
    return [
        (f"cell{c + 1}", f"cell{c + 1}-host{k + 1}") for c in range(cells) for k in range(hosts)
    ]


def _boot_id() -> str:
    """Simulated hosts boot when this machine does: a restart of the process leaves their guests alone."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return new_uuid()
