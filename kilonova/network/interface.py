"""What compute asks of a network service, embedded or a real Neutron.

Interfaces take a key = (operation, item), because a real service mints its own ids: ``ensure_port`` finds by key, else
makes; ``remove_port`` removes all that is found. No call here shares a transaction with the core.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict
from kilonova.objects.port import (
    BoundPort,
    GroupInfo,
    NetworkEvent,
    NicPlan,
    PortClaim,
    RequestedNic,
)

Key = tuple[str, str]  # (operation id, item)
Requested = Sequence[RequestedNic] | Literal["auto", "none"] | None


class NotThere(BadRequest):
    """A network or port that was named is unknown. POST /servers answers 400; where it is in a path or alone, 404."""


class AddressTaken(BadRequest):
    """An address that was asked for is in use. POST /servers answers 400, an interface attach 409."""


class NoAddressLeft(Conflict):
    """No address is free. POST /servers answers 409, an interface attach 400."""


class NetworkService(Protocol):
    """The network service; safe to use from any thread.

    Errors carry the HTTP status that the compute API answers with and Nova's wording; none names a host.
    """

    binding_extended: bool
    """Whether a port may be bound to two hosts at once (a live migration's source and destination)."""

    def plan(self, ctx: Context, project_id: str, requested: Requested) -> list[NicPlan]:
        """Check the networks of POST /servers before accept, touching nothing.

        None and "auto" choose the project's only network (its own, else a shared one); "auto" without one
        plans to make it.
        BadRequest: unknown network or port, port without address, network without subnet, address taken or outside.
        Conflict: port in use; more than one candidate. Forbidden: external network.
        """
        ...

    def resolve_groups(
        self, ctx: Context, project_id: str, names: Iterable[str]
    ) -> list[tuple[str, str]]:
        """Return (id, name) per security group given by id or name; BadRequest: unknown, Conflict: two of one name."""
        ...

    def check_quota(self, project_id: str, ports: int) -> None:
        """Raise QuotaExceeded unless the project may have ``ports`` more."""
        ...

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
        """Return the port of ``key``, bound to ``host``; make or adopt it first if there is none. Safe to repeat.

        One of network_id ("auto": the project's, made if need be) and port_id is given. security_groups: ids; None: the
        project's default group, () for none; not used for a port that the user made.
        BadRequest, Conflict as plan; QuotaExceeded; Conflict when no address is free.
        """
        ...

    def remove_port(self, key: Key | None = None, port_id: str | None = None) -> int:
        """Delete every port of ``key`` (or one by id), unbind those that the user made; return how many. Repeatable."""
        ...

    def bind_ports(self, server_id: str, host: str | None) -> None:
        """Bind every port of a server to a host, or (None) to none; they stay the server's. Repeatable."""
        ...

    def remove_ports_of(self, server_id: str) -> int:
        """Delete the ports of a server, unbind those that the user made; return how many. Repeatable."""
        ...

    def ports_of(self, server_ids: Sequence[str]) -> Mapping[str, list[BoundPort]]:
        """Return the ports of many servers, oldest first, in one query per table; servers without ports are absent."""
        ...

    def security_groups_of(self, server_ids: Sequence[str]) -> Mapping[str, list[tuple[str, str]]]:
        """Return (id, name) of the groups on the ports of many servers, each once."""
        ...

    def describe_groups(self, server_id: str) -> list[GroupInfo]:
        """Return the groups on a server's ports with their ingress rules, by name."""
        ...

    def set_security_group(self, ctx: Context, server_id: str, name_or_id: str, add: bool) -> None:
        """Put every port of a server into a group of the caller's project, or take it out.

        NotFound: unknown group, no port, or (on removal) no port has it. Conflict: two groups of one name.
        BadRequest: a server without a port that can have groups.
        """
        ...

    def associate_floating_ip(
        self, ctx: Context, server_id: str, address: str, fixed_address: str | None = None
    ) -> None:
        """Lead a floating address of the caller's project to a server. NotFound, BadRequest as Nova's addFloatingIp."""
        ...

    def disassociate_floating_ip(self, ctx: Context, server_id: str, address: str) -> None:
        """Take a floating address off a server. NotFound: unknown; Conflict: it is not on this server."""
        ...

    def add_fixed_ip(self, server_id: str, network_id: str) -> None:
        """Give a server's port on a network one more address of it. NotFound: no such port; NoAddressLeft."""
        ...

    def remove_fixed_ip(self, server_id: str, address: str) -> None:
        """Take an address off a server's port. BadRequest: it has no such address."""
        ...

    def on_event(self, handler: Callable[[NetworkEvent], None]) -> None:
        """Call ``handler`` for every external event, after commit, from any thread; it must be quick."""
        ...

    def claims(self, older_than_s: float) -> list[PortClaim]:
        """Return every port made or adopted for a key at least so long ago."""
        ...

    def sweep(self, keys: Iterable[Key]) -> int:
        """Remove whatever still stands for these keys of ended operations; return how many."""
        ...
