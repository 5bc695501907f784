"""The embedded network service: a NetworkService for compute and the store behind the Neutron API."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from kilonova.bus.interface import Bus
from kilonova.common.clock import SYSTEM, Clock
from kilonova.common.context import Context
from kilonova.common.errors import QuotaExceeded
from kilonova.db.engine import Database
from kilonova.db.versions import ensure
from kilonova.network.embedded import binding, moving, planning, servers
from kilonova.network.embedded.faults import Clash
from kilonova.network.embedded.schema import metadata
from kilonova.network.embedded.state import BATCH_S, Publisher
from kilonova.network.embedded.store import bound, quotas, routers
from kilonova.network.embedded.store.work import Work
from kilonova.network.embedded.upgrades import UPGRADES
from kilonova.network.interface import Key, Requested
from kilonova.objects.port import (
    BoundPort,
    GroupInfo,
    NetworkEvent,
    NicPlan,
    PortBinding,
    PortClaim,
)

T = TypeVar("T")
SETTLE_S = 60.0


class EmbeddedNetwork:
    """Records in one database, desired state for hosts; safe to use from any thread.

    hosts: names of the hosts that are alive, for routers. quota_defaults: limits of projects without their own.
    Call ``start`` once the bus is there, ``stop`` before it goes.
    """

    binding_extended = True

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock = SYSTEM,
        hosts: Callable[[], Sequence[str]] = tuple,
        quota_defaults: Mapping[str, int] | None = None,
        batch_s: float = BATCH_S,
    ) -> None:
        ensure(database, metadata, UPGRADES)
        self.database = database
        self.clock = clock
        self.hosts = hosts
        self.quota_defaults = {**quotas.DEFAULTS, **(quota_defaults or {})}
        self._handlers: list[Callable[[NetworkEvent], None]] = []
        self._making = threading.Lock()
        self._started = clock.monotonic()
        self.publisher = Publisher(database, bus, clock, self._emit, batch_s, self._watch)
        self.publisher.forwarding.alive = hosts

    def start(self, *, hears: bool = True) -> None:
        """Keep hosts informed. hears: listen to them too, beside others that do, and repeat what was lost."""
        self.publisher.start(hears=hears)

    def stop(self) -> None:
        """Stop; safe to repeat."""
        self.publisher.stop()

    def _emit(self, event: NetworkEvent) -> None:
        for handler in self._handlers:
            handler(event)

    def write(self, fn: Callable[[Work], T]) -> T:
        """Run one write; what it touched is published after the commit."""
        kept: list[Work] = []

        def body(tx: object) -> T:
            work = Work(tx, self.clock.now())  # type: ignore[arg-type]
            kept.append(work)
            out = fn(work)
            self.publisher.forwarding.bump(work.tx, work.moved)
            return out

        result = self.database.write(body)
        self.publisher.flush(kept[-1])
        return result

    def on_event(self, handler: Callable[[NetworkEvent], None]) -> None:
        """See NetworkService."""
        self._handlers.append(handler)

    def plan(self, ctx: Context, project_id: str, requested: Requested) -> list[NicPlan]:
        """See NetworkService."""
        return self.database.read(lambda tx: planning.plan(tx, project_id, requested, ctx.is_admin))

    def resolve_groups(
        self, ctx: Context, project_id: str, names: Iterable[str]
    ) -> list[tuple[str, str]]:
        """See NetworkService."""
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return []
        look = self.database.ask if len(wanted) == 1 else self.database.read
        found = look(lambda tx: servers.known_groups(tx, project_id, wanted))
        if found is not None:
            return found
        return self.write(lambda w: servers.resolve_groups(w, project_id, wanted))

    def check_quota(self, project_id: str, ports: int) -> None:
        """See NetworkService."""
        try:
            self.database.ask(
                lambda tx: quotas.check(tx, project_id, "port", ports, self.quota_defaults)
            )
        except Clash as exc:
            raise QuotaExceeded("Maximum number of ports exceeded") from exc

    def ensure_port(
        self,
        key: Key,
        *,
        project_id: str,
        device_id: str,
        host: str,
        network_id: str | None = None,
        port_id: str | None = None,
        availability_zone: str = "nova",
        hostname: str = "",
        fixed_ip: str | None = None,
        security_groups: Sequence[str] | None = None,
        mac: str | None = None,
        tag: str | None = None,
    ) -> BoundPort:
        """See NetworkService."""
        wanted = binding.Wanted(
            key=key,
            project_id=project_id,
            device_id=device_id,
            host=host,
            network_id=network_id,
            port_id=port_id,
            owner=f"compute:{availability_zone}",
            hostname=hostname,
            fixed_ip=fixed_ip,
            security_groups=None if security_groups is None else list(security_groups),
            mac=mac,
            tag=tag,
        )
        live = self.hosts() if network_id == planning.AUTO else ()
        # Those of one process would meet on the subnet's free addresses: one waits, instead of running again.
        with self._making:
            return self.write(lambda w: binding.ensure(w, wanted, self.quota_defaults, live))

    def remove_port(self, key: Key | None = None, port_id: str | None = None) -> int:
        """See NetworkService."""
        return self.write(lambda w: binding.remove(w, key, port_id))

    def bind_ports(self, server_id: str, host: str | None) -> None:
        """See NetworkService."""
        self.write(lambda w: binding.bind_all(w, server_id, host))

    def add_bindings(self, server_id: str, host: str) -> None:
        """See NetworkService."""
        live = self.hosts()
        self.write(lambda w: moving.add_all(w, server_id, host, live))

    def activate_bindings(self, server_id: str, host: str) -> None:
        """See NetworkService."""
        self.write(lambda w: moving.activate_all(w, server_id, host))

    def delete_bindings(self, server_id: str, host: str) -> int:
        """See NetworkService."""
        return self.write(lambda w: moving.delete_all(w, server_id, host))

    def bindings_of(self, server_ids: Sequence[str]) -> Mapping[str, list[PortBinding]]:
        """See NetworkService."""
        return self.database.read(lambda tx: moving.of_servers(tx, server_ids))

    def inactive_bindings(self, older_than_s: float) -> list[PortBinding]:
        """See NetworkService."""
        before = self.clock.now() - older_than_s
        return self.database.read(lambda tx: moving.inactive(tx, before))

    def remove_ports_of(self, server_id: str) -> int:
        """See NetworkService."""
        return self.write(lambda w: binding.remove_of(w, server_id))

    def ports_of(self, server_ids: Sequence[str]) -> Mapping[str, list[BoundPort]]:
        """See NetworkService."""
        return self.database.read(lambda tx: bound.of_devices(tx, server_ids))

    def security_groups_of(self, server_ids: Sequence[str]) -> Mapping[str, list[tuple[str, str]]]:
        """See NetworkService."""
        return self.database.read(lambda tx: servers.groups_of(tx, server_ids))

    def describe_groups(self, server_id: str) -> list[GroupInfo]:
        """See NetworkService."""
        return self.database.read(lambda tx: servers.describe_groups(tx, server_id))

    def set_security_group(self, ctx: Context, server_id: str, name_or_id: str, add: bool) -> None:
        """See NetworkService."""
        self.write(lambda w: servers.set_group(w, ctx.project_id or "", server_id, name_or_id, add))

    def associate_floating_ip(
        self, ctx: Context, server_id: str, address: str, fixed_address: str | None = None
    ) -> None:
        """See NetworkService."""
        project = None if ctx.is_admin else ctx.project_id
        self.write(lambda w: servers.associate(w, project, server_id, address, fixed_address))

    def disassociate_floating_ip(self, ctx: Context, server_id: str, address: str) -> None:
        """See NetworkService."""
        project = None if ctx.is_admin else ctx.project_id
        self.write(lambda w: servers.disassociate(w, project, server_id, address))

    def add_fixed_ip(self, server_id: str, network_id: str) -> None:
        """See NetworkService."""
        self.write(lambda w: servers.add_fixed(w, server_id, network_id))

    def remove_fixed_ip(self, server_id: str, address: str) -> None:
        """See NetworkService."""
        self.write(lambda w: servers.remove_fixed(w, server_id, address))

    def rebalance_routers(self, move: bool = True) -> int:
        """Place routers without a host and (``move``) those whose host is not alive; return how many. Repeatable."""
        live = list(self.hosts())
        if not live or not self.database.read(lambda tx: routers.astray(tx, live, move)):
            return 0
        return self.write(lambda w: routers.rebalance(w, live, move))

    def _watch(self) -> None:
        """Once a second: routers follow their hosts. Right after a start hosts are given time to be heard of."""
        self.rebalance_routers(move=self.clock.monotonic() - self._started > SETTLE_S)

    def claims(self, older_than_s: float) -> list[PortClaim]:
        """See NetworkService."""
        before = self.clock.now() - older_than_s
        return self.database.read(lambda tx: binding.claims(tx, before))

    def sweep(self, keys: Iterable[Key]) -> int:
        """See NetworkService."""
        return sum(self.remove_port(key) for key in keys)
