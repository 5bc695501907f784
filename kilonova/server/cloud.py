"""One process with everything: databases, services, engine, hosts and the HTTP port, started and stopped in order."""

from typing import Any

from kilonova.common import memory
from kilonova.objects import base
from kilonova.server.access import ImageAccess
from kilonova.server.process import Process


class Cloud(Process):
    """A whole cloud in this process. ``start`` returns when it answers; ``stop`` leaves guests running."""

    def start(self) -> None:
        """Take the state directory, open everything, serve. Raises Conflict when another process has it."""
        memory.few_arenas()
        base.prepare()
        self.plan.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.open_stores()
            self.open_services(self.open_socket())
            self.open_picture()
            self.open_engine()
            self.open_http()
            self._open_hosts()
        except BaseException:
            self.stop()
            raise
        self.settle()

    def _open_hosts(self) -> None:
        access = ImageAccess.within(self.images, self.plan.settings)
        if self.plan.driver == "fake":
            from kilonova.server.simulated import FakeHosts, named

            hosts = named(self.plan.cells, self.plan.hosts)
            self.fleet: Any = FakeHosts(self.plan, hosts, lambda _: self.bus, access)
        else:
            from kilonova.server.own_hosts import own_hosts
            from kilonova.server.real_host import RealHosts

            cells = [f"cell{n + 1}" for n in range(self.plan.cells)]
            mine = own_hosts(cells, self.plan.hosts)
            self.fleet = RealHosts(self.plan, mine, lambda _: self.bus, access)
        base.prepare()
        self.later(self.fleet.close)
        self.fleet.start()
        self.later(self._start_consoles())

    def _start_consoles(self) -> Any:
        from kilonova.server import console_role

        return console_role.start(self.plan, self.services, self.fleet.driver_of)
