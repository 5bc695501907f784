"""The half of an engine that keeps its leases: what it says and hears as one conductor among several."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kilonova.bus import answers
from kilonova.bus.interface import Bus, Handler, Subscription
from kilonova.common.log import get_logger
from kilonova.db.engine import Database
from kilonova.saga.leases import RENEW_S
from kilonova.saga.ownership import CONDUCTORS, Ownership
from kilonova.saga.queues import HostQueues, Key
from kilonova.saga.state import Live

log = get_logger(__name__)


class Tending:
    """Incarnations, their subjects on the bus, and what happens when one is lost."""

    databases: Mapping[str, Database]
    ownership: Ownership
    queues: HostQueues
    stopping: bool
    _answer: Handler
    _asked: dict[Key, str]
    _bus: Bus
    _inbox: dict[Key, Any]
    _kept: dict[Key, Live]
    _lock: threading.Lock
    _nudged: Handler
    _over: threading.Event
    _subscriptions: dict[str, list[Subscription]]
    _timer: threading.Condition
    _wake_of: dict[Key, float]

    if TYPE_CHECKING:

        def now(self) -> float: ...
        def nudge(self, database: str, operation: str) -> None: ...

    def _open(self, name: str) -> None:
        self.ownership.open(self.databases[name], self.now())
        self._listen(name)

    def _listen(self, name: str) -> None:
        """Hear what is said to this incarnation; with several conductors each has subjects of its own besides."""
        subscribe, own = self._bus.subscribe, self.ownership
        for s in self._subscriptions.pop(name, ()):
            s.close()
        mine = own.name_in(name)
        group = None if own.shared else CONDUCTORS
        heard = [
            subscribe(answers.of_all_hosts(own.address(name)), self._answer, group),
            subscribe(f"nudge.{name}", self._nudged, CONDUCTORS),
        ]
        if own.shared:
            heard.append(subscribe(f"nudge.{name}.{mine}", self._nudged))
        self._subscriptions[name] = heard

    def _keep(self, name: str) -> None:
        """Renew the lease in one database until ``stop``, or it has gone.

        A thread each, as one that hangs must not stop others.
        """
        while not self._over.wait(RENEW_S) and name in self.databases:
            try:
                self._tend(name)
            except Exception as exc:
                log.error("a lease was not renewed", exc_info=exc, extra={"database": name})

    def _tend(self, name: str, *, force: bool = False) -> None:
        """Renew the lease in a database when it is time; pass on what dead conductors leave."""
        if self.stopping or not self.ownership.is_open(name):
            return
        came = self.ownership.tend(self.databases[name], self.now(), force=force)
        if came.lost:
            self._forget_all(name)
            self._listen(name)
        self.queues.share(came.conductors)
        self._offer(name, came.freed)

    def _offer(self, name: str, operations: list[str]) -> None:
        """Tell conductors of operations that nobody owns."""
        for operation in operations:
            self._bus.publish(f"nudge.{name}", operation.encode())

    def _forget_all(self, name: str) -> None:
        """Another conductor took over what this one had in a database: know nothing of it any more."""
        with self._lock:
            for memory in (self._inbox, self._asked, self._kept):
                for key in [k for k in memory if k[0] == name]:
                    memory.pop(key, None)
        with self._timer:
            self._wake_of = {k: at for k, at in self._wake_of.items() if k[0] != name}
        for key in self.queues.of_database(name):
            for database, operation in self.queues.leave(key):
                self.nudge(database, operation)

    def _forward(self, live: Live) -> None:
        """Somebody wants an operation looked at that another conductor owns: tell that one."""
        if live.owner is not None and live.owner != self.ownership.name_in(live.database):
            self._bus.publish(f"nudge.{live.database}.{live.owner}", live.id.encode())

    def holds(self, live: Live) -> bool:
        """Tell whether this process may still act for an operation that it took."""
        own = self.ownership
        if not own.shared:
            return True
        return own.holds(live.database) and live.owner == own.name_in(live.database)

    def address(self, database: str) -> str:
        """Return where answers to this process's orders go, as orders name it."""
        return self.ownership.address(database)

    def leads(self, database: str) -> bool:
        """Tell whether this process is the one that does what only one conductor may do (reconcilers)."""
        own = self.ownership
        return not self.stopping and own.is_open(database) and own.leads(self.databases[database])
