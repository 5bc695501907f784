"""One write: the transaction, the time, and what it changed for hosts and for compute."""

from dataclasses import dataclass, field

from kilonova.db.engine import Tx
from kilonova.objects.port import NetworkEvent, NetworkEventName


@dataclass
class Work:
    """What a write touches; the desired state of touched documents is published after the commit.

    ports: ids to publish on their host. networks, routers: ids to publish wherever they are. groups: ids whose
    members changed (batched). moved: which MACs came to another host, as (network, MAC or host), see moves.py;
    switched: those networks that cannot wait for it. gone: (host, kind, id, generation) to remove. events: for
    compute, after the commit.
    """

    tx: Tx
    now: float
    ports: set[str] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    routers: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    switched: set[str] = field(default_factory=set)
    moved: set[tuple[str, str]] = field(default_factory=set)
    gone: list[tuple[str, str, str, int]] = field(default_factory=list)
    events: list[NetworkEvent] = field(default_factory=list)

    @property
    def forwarding(self) -> set[str]:
        """The networks of which a MAC, or the network itself, came to another host (batched)."""
        return {network_id for network_id, _ in self.moved}

    def moves(self, network_id: str, mac: str, *hosts: str) -> None:
        """Note that where a MAC lives changed, and the hosts that it came to or left ("": none)."""
        self.moved |= {(network_id, mac), *((network_id, f"@{host}") for host in hosts if host)}

    def event(self, name: NetworkEventName, server_id: str, port_id: str) -> None:
        """Tell compute after the commit."""
        self.events.append(NetworkEvent(name=name, server_id=server_id, port_id=port_id))
