"""Simulated hosts of this process: many agents over one world of guests, one pool of threads."""

from pathlib import Path

from kilonova.agent.core import Agent, Identity
from kilonova.agent.journal import Journal
from kilonova.agent.network.fake import FakeHostNetwork
from kilonova.agent.uploads import HostFiles, ImageSender
from kilonova.agent.workers import Workers
from kilonova.bus.interface import Bus
from kilonova.common.clock import Clock
from kilonova.common.ids import new_uuid
from kilonova.image.interface import ImageService
from kilonova.objects.host import Inventory
from kilonova.server.plan import Plan
from kilonova.virt.driver import Driver
from kilonova.virt.fake.world import World


class FakeHosts:
    """Agents named ``<cell>-host<k>``; guests survive in one file of the state directory."""

    def __init__(self, plan: Plan, bus: Bus, images: ImageService, clock: Clock) -> None:
        self.plan = plan
        s = plan.settings
        spec = Inventory(
            vcpus=s.fake_host_vcpus,
            memory_mib=s.fake_host_memory_mib,
            disk_gib=s.fake_host_disk_gib,
            hypervisor_type="fake",
            hypervisor_version=1,
            supported=(
                ("x86_64", "fake", "hvm"),
                ("x86_64", "qemu", "hvm"),
                ("x86_64", "kvm", "hvm"),
            ),
        )
        self.world = World(plan.state_dir / "guests.db", build_time_s=s.build_time_s, spec=spec)
        self.workers = Workers(2)  # no job of a simulated host waits on its thread
        self.networks: dict[str, FakeHostNetwork] = {}
        self.agents: list[Agent] = []
        boot, send = _boot_id(), ImageSender(images.upload)
        for c in range(plan.cells):
            for k in range(plan.hosts):
                host = f"cell{c + 1}-host{k + 1}"
                network = FakeHostNetwork(host, bus)
                self.networks[host] = network
                self.agents.append(
                    Agent(
                        Identity(
                            host=host, host_id=f"fake-{host}", cell=f"cell{c + 1}", boot_id=boot
                        ),
                        self.world.driver(host),
                        network,
                        bus,
                        Journal(),  # no message outlives the process
                        self.workers,
                        volumes=self.world.volumes(host, send),
                        clock=clock,
                        heartbeat_s=s.heartbeat_s,
                        files=HostFiles(plan.state_dir / "copies" / host, send),
                    )
                )

    def start(self) -> None:
        """Start every agent and wait until all are registered (at most 30 s)."""
        for network in self.networks.values():
            network.resync()
        for agent in self.agents:
            agent.start()
        for agent in self.agents:
            agent.registered.wait(30)

    def driver_of(self, host: str) -> Driver:
        """Return the driver of one host."""
        return self.world.driver(host)

    def close(self) -> None:
        """Stop the agents; guests stay in their file."""
        for agent in self.agents:
            agent.close()
        self.workers.close()
        self.world.close()


def _boot_id() -> str:
    """Simulated hosts boot when this machine does: a restart of the process leaves their guests alone."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return new_uuid()
