"""What the rest of the agent asks of a host's network: apply documents, plug a guest's port, wait until it is in force.

Real hosts use ``RealHostNetwork`` (applier.py), simulated hosts ``FakeHostNetwork`` (fake.py).
"""

from typing import Protocol

from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.objects.netstate import Applied, Change


class PlugFailed(KilonovaError):
    """A port's tap could not be made or put into its network; facts say why."""

    code = "plug_failed"


class PortNotReady(Unavailable):
    """The desired state of this port has not reached the host; asking again later may work."""

    code = "port_not_ready"


class HostNetwork(Protocol):
    """The networking of one host. Every method is repeatable and may be called from any thread."""

    def apply(self, change: Change) -> Applied:
        """Put documents in force; older generations are dropped. One item per document, with its error or None."""
        ...

    def wait_port(self, port_id: str, timeout_s: float, generation: int | None = None) -> bool:
        """Wait until this generation of the port (None: any) is in force; False after ``timeout_s`` seconds.

        0: look only. A port that somebody has missed for 2 s is asked for from the network service.
        """
        ...

    def tap_of(self, port_id: str) -> str:
        """Return the name of the port's tap device (at most 15 characters); touches nothing."""
        ...

    def plug(self, port_id: str) -> str:
        """Make the tap, put it into the network's bridge, set it up; return its name.

        Raises PortNotReady when the port is not in force here, PlugFailed when the host refuses.
        """
        ...

    def unplug(self, port_id: str) -> None:
        """Remove the tap; fine when there is none."""
        ...

    def resync(self, full: Change | None = None) -> None:
        """Apply the full state (None: ask the network service for it) and remove everything else."""
        ...

    def remove_all(self) -> None:
        """Remove every network object of this host; guests must be gone."""
        ...

    def generations(self) -> dict[tuple[str, str], int]:
        """Return (kind, id) -> the generation in force."""
        ...

    def close(self) -> None:
        """Stop listening; what is in force stays."""
        ...
