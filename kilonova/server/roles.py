"""The roles of a deployment that know its databases, a process each: api, conductor. Several of each, in any order."""

from kilonova.common import memory
from kilonova.objects import base
from kilonova.server import console_role
from kilonova.server.process import Process


class Api(Process):
    """Accepts requests and answers them; it runs no operation."""

    role = "api"

    def start(self) -> None:
        """Open what is needed and serve."""
        memory.few_arenas()
        base.prepare()
        try:
            self.open_stores()
            self.open_services(self.open_socket())
            self.open_nudges()
            self.open_picture(hears=False)
            self.later(console_role.serve(self.services, self.plan.settings.console_url))
            self.open_http()
        except BaseException:
            self.stop()
            raise
        self.settle()


class Conductor(Process):
    """Runs operations and reconcilers, hears hosts; other conductors may do so beside it, by lease."""

    role = "conductor"

    def start(self) -> None:
        """Open what is needed and begin."""
        memory.few_arenas()
        base.prepare()
        try:
            self.open_stores()
            self.open_services(self.plan.public_url or "", uploads=False)
            self.open_picture()
            self.open_engine()
        except BaseException:
            self.stop()
            raise
        self.settle()
