"""The role that runs on hosts: agents, with a bus and signed URLs, and no database of the cloud's."""

from pathlib import Path
from typing import Any

from kilonova.bus.interface import Bus
from kilonova.bus.nats import NatsBus
from kilonova.common import memory
from kilonova.common.config import BadConfig
from kilonova.common.deployment import Tables
from kilonova.console.gate import ConsoleGate, GateAddress
from kilonova.objects import base
from kilonova.server.access import ImageAccess
from kilonova.server.configured import connect, path_of
from kilonova.server.own_hosts import own_hosts
from kilonova.server.plan import Plan


def hosts_of(tables: Tables) -> list[tuple[str, str]]:
    """Return (cell, name) of the real hosts of a configuration."""
    table = tables.agent
    return own_hosts(table.cells or (table.cell,), table.hosts, table.name)


class AgentProcess:
    """The agents of this process: of this machine, or of simulated hosts. It holds no key of a database."""

    def __init__(self, plan: Plan, tables: Tables) -> None:
        self.plan = plan
        self._tables = tables
        self._buses: list[NatsBus] = []
        table = tables.agent
        self._gate = ConsoleGate(
            GateAddress(table.console_listen, table.console_port, table.console_address)
        )
        self.fleet: Any = None

    def start(self) -> None:
        """Connect and register, now or once somebody answers."""
        memory.few_arenas()
        table = self._tables.agent
        access = ImageAccess.by_url(path_of(table.ca), self.plan.settings)
        try:
            if table.driver == "fake":
                self.fleet = self._simulated(access)
            else:
                self.fleet = self._real(access)
            base.prepare()
            self.fleet.start(wait_s=0.0)
        except BaseException:
            self.stop()
            raise

    def _simulated(self, access: ImageAccess) -> Any:
        from kilonova.server.simulated import FakeHosts

        table = self._tables.agent
        names = [f"{table.name_prefix}{k + 1}" for k in range(table.hosts)]
        if table.name is not None and table.hosts == 1:
            names = [table.name]
        hosts = [(table.cell, name) for name in names]
        return FakeHosts(self.plan, hosts, self._bus_of, access, self._gate)

    def _real(self, access: ImageAccess) -> Any:
        from kilonova.agent.helper import names
        from kilonova.server.real_host import RealHosts

        table, plan = self._tables.agent, self.plan
        if table.helper is None:
            raise BadConfig("real guests need the root helper: start 'kilonova agent' as root")
        plan.helper_socket = Path(table.helper)
        plan.tag = names.tag_of(plan.state_dir)
        plan.virt_type = table.virt_type or plan.virt_type
        return RealHosts(plan, hosts_of(self._tables), self._bus_of, access, self._gate)

    def _bus_of(self, host: str) -> Bus:
        """Return the connection of a host: its own where it has credentials of its own."""
        folder = path_of(self._tables.agent.credentials_dir)
        if folder is not None:
            own = folder / f"{host}.creds"
            if not own.is_file():
                raise BadConfig(f"there are no credentials of {host}: {own}")
            made = connect(self._tables, host, own)
        elif self._buses:
            return self._buses[0]
        else:
            made = connect(self._tables, host)
        self._buses.append(made)
        return made

    def stop(self) -> None:
        """Let go; guests go on."""
        if self.fleet is not None:
            self.fleet.close()
        self._gate.close()
        for bus in self._buses:
            bus.close()
        self._buses = []
