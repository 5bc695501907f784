"""What compute asks of a network service, embedded or a real Neutron.

Interfaces take a key = (operation, item), because a real service mints its own ids: ``ensure_port`` finds by key, else
makes; ``remove_port`` removes all that is found. No call here shares a transaction with the core.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, KilonovaError
from kilonova.objects.port import (
    BoundPort,
    GroupInfo,
    NetworkEvent,
    NicPlan,
    PortBinding,
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


class PortBindingFailed(KilonovaError):
    """A port cannot be bound to a host. The wording is Nova's; the host is in the facts only."""

    code = "port_binding_failed"

    def __init__(self, port_id: str, **facts: object) -> None:
        super().__init__(
            f"Binding failed for port {port_id}, please check neutron logs for more information.",
            **facts,
        )


class NetworkService(Protocol):
    """The network service; safe to use from any thread.

    Errors carry the HTTP status that the compute API answers with and Nova's wording; none names a host.
    """

    @property
    def binding_extended(self) -> bool:
        """Whether a port may be bound to two hosts at once (a live migration's source and destination)."""
        ...

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
        """Bind every port of a server to a host alone, or (None) to none; they stay the server's. Repeatable.

        Inactive bindings are gone after it, and the hosts that had them let go.
        """
        ...

    def add_bindings(self, server_id: str, host: str) -> None:
        """Have a second host prepare for every port of a server: an inactive binding each, no traffic yet. Repeatable.

        A port that is bound there already, actively or not, is left as it is. VIF_PLUGGED with ``host`` tells when
        the host is ready; ``bindings_of`` too. Raises PortBindingFailed when no such host can have the ports.
        """
        ...

    def activate_bindings(self, server_id: str, host: str) -> None:
        """Switch the traffic of every port of a server to a host that has inactive bindings, in one step. Repeatable.

        The bindings that were active become INACTIVE. Raises PortBindingFailed, having changed nothing, when a port
        has no binding there; fine when all are active there.
        """
        ...

    def delete_bindings(self, server_id: str, host: str) -> int:
        """Remove the inactive bindings of a server's ports at a host, which lets go; return how many. Repeatable.

        An active binding stays: a guest that runs is never cut off by this call.
        """
        ...

    def bindings_of(self, server_ids: Sequence[str]) -> Mapping[str, list[PortBinding]]:
        """Return every binding of the ports of many servers; servers without ports are absent."""
        ...

    def inactive_bindings(self, older_than_s: float) -> list[PortBinding]:
        """Return every inactive binding of servers' ports that was made at least so long ago."""
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
