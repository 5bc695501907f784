"""The interface of every virt driver: typed orders in, typed results out, no driver-specific blobs (SM-4).

Methods block; they are called from the agent's worker threads, never two at once for one guest. Every method is
repeatable. What goes wrong raises DriverError (elsewhere=True when another host may do better). What takes long raises
Again instead of sleeping, and calls ``progress`` so that it can be aborted.
"""

from collections.abc import Callable
from typing import Protocol

from kilonova.common.errors import KilonovaError
from kilonova.objects.guest import DeviceAddress, GuestBuild, Hardware, Nic, PowerAction
from kilonova.objects.host import Inventory


class DriverError(KilonovaError):
    """A guest could not be made or changed. ``message`` is safe for the tenant; facts name paths and driver text."""

    code = "driver"

    def __init__(self, message: str, *, elsewhere: bool = False, **facts: object) -> None:
        super().__init__(message, **facts)
        self.elsewhere = elsewhere


class GuestMissing(DriverError):
    """There is no such guest on this host."""

    code = "guest_missing"


class HypervisorDown(DriverError):
    """The hypervisor does not answer; guests may well be running. Trying again later may work."""

    code, retryable = "hypervisor_down", True


class Aborted(DriverError):
    """Somebody newer wants this guest: what runs for it ends here. Raised by Progress, passed on by drivers."""

    code = "aborted"


class Again(Exception):
    """Raised by a driver that waits: call the same method with the same arguments after ``after_s`` seconds.

    The guest stays reserved meanwhile and no thread is held.
    """

    def __init__(self, after_s: float) -> None:
        super().__init__(after_s)
        self.after_s = after_s


Progress = Callable[[str], None]  # says how far it is; raises Aborted
OnEvent = Callable[[str, int], None]  # (server id, power state): a guest changed without an order


class Driver(Protocol):
    """One hypervisor on one host."""

    name: str

    def inventory(self) -> Inventory:
        """Return what the host has."""
        ...

    def refuses(self, build: GuestBuild) -> str | None:
        """Return why this host cannot do this build at all (a disk or NIC variant, hardware), or None."""
        ...

    def build(
        self, build: GuestBuild, progress: Progress
    ) -> tuple[int, Hardware, tuple[DeviceAddress, ...]]:
        """Make disks, define, start; return (power state, hardware as frozen, devices). Makes only what is missing."""
        ...

    def power(
        self,
        server_id: str,
        action: PowerAction,
        timeout_s: float,
        build: GuestBuild | None,
        progress: Progress,
    ) -> int:
        """Perform a power action; return the power state after it. GuestMissing when there is no guest to act on."""
        ...

    def delete(self, server_id: str, progress: Progress) -> bool:
        """Destroy the guest and all its files; return whether there was one."""
        ...

    def attach_nic(self, server_id: str, nic: Nic, progress: Progress) -> DeviceAddress:
        """Put a NIC into a guest, running or off; return where the guest sees it. Its tap is there already.

        A NIC that is there stays as it is. GuestMissing when there is no guest.
        """
        ...

    def detach_nic(self, server_id: str, port_id: str, progress: Progress) -> bool:
        """Take a NIC out of a guest; return whether there was one. Raises Again until a running guest lets it go."""
        ...

    def guests(self) -> dict[str, int]:
        """Return every guest of ours: server id -> power state."""
        ...

    def ports(self, server_id: str) -> tuple[str, ...]:
        """Return the ids of the ports that a guest is defined with; empty when there is no guest."""
        ...

    def strangers(self) -> list[str]:
        """Return names of domains that are not ours; they are reported, never touched."""
        ...

    def console_log(self, server_id: str, lines: int | None) -> str:
        """Return the last ``lines`` lines (None: all that is kept, at most 1 MiB) of the first serial port."""
        ...

    def diagnostics(self, server_id: str) -> dict[str, object]:
        """Return the facts of GET /servers/{id}/diagnostics in the 2.48 form."""
        ...

    def on_event(self, handler: OnEvent) -> None:
        """Call ``handler`` from a thread of the driver whenever a guest changes by itself."""
        ...

    def close(self) -> None:
        """Let go of the hypervisor; guests go on."""
        ...
